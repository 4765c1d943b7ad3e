"""Farewell: what comes from a client after our last word to it is read and dropped.

close() with unread bytes in the socket sends a reset, and a reset can overtake the
response in the client's kernel. So we close our side only, and read until the client
closes too (RFC 9112 section 9.6), for a bounded time and amount.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

MAX_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 65536


class Farewell:
    """Reads one socket to its end.

    receive: its recv(2).
    """

    def __init__(self, receive: Callable[[int, int], bytes]) -> None:
        self._receive = receive
        self._dropped = 0

    def is_over(self) -> bool:
        """Drop what has come; True if the client has closed, is gone, or never stops."""
        try:
            data = self._receive(_PIECE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._dropped += len(data)
        return not data or self._dropped > MAX_BYTES
