"""SignalPipe: signals from outside, as bytes to be read in the loop."""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class SignalPipe:
    """The wake-up descriptor of the signal module, and what is behind it.

    Nothing is done in a handler: the C code writes the signal's number into a socket,
    and the loop reads it between two events like any other news.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._handlers: dict[int, Any] = {}

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self._reader.fileno()

    def open(self) -> None:
        """Take the signals over. Only in the main thread."""
        # The descriptor first: a signal that comes in between is then not overlooked.
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, _noted_by_the_descriptor)

    def read(self) -> list[int]:
        """Return the signals that have come, of those that were taken over."""
        try:
            return [number for number in self._reader.recv(256) if number in SIGNALS]
        except BlockingIOError:
            return []

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        if self._handlers:
            signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


def _noted_by_the_descriptor(number: int, frame: FrameType | None) -> None:
    """Do nothing: the C handler has written the number down."""
