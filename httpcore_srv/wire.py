"""Wire: a socket, what the loop watches it for, and its deadline. Knows no HTTP."""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from typing import Final

from httpcore_srv.event_loop import EventLoop

DONTWAIT: Final = socket.MSG_DONTWAIT
_CLOSED: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_NO_BYTES: Final = bytes(4)  # a C int, for ioctl(2) to fill


def unread_by_peer(sock: socket.socket) -> int:
    """Return how many bytes sent over `sock` the peer has not acknowledged.

    SIOCOUTQ, see tcp(7) and unix(7). Our kernel's buffer may hold megabytes, so that a
    socket takes nothing for minutes although its peer goes on reading.
    """
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, _NO_BYTES), sys.byteorder)


class Wire:
    """One socket in one loop. Only the holder of the baton registers or closes it."""

    __slots__ = ("_loop", "_mask", "_sock", "deadline_ns", "due_tick", "fd")

    def __init__(self, loop: EventLoop, sock: socket.socket) -> None:
        self.fd = sock.fileno()
        self.deadline_ns = 0
        self.due_tick = 0
        self._loop = loop
        self._sock = sock
        self._mask = 0  # what the loop watches for; 0: not registered

    def on_event(self, mask: int) -> bool:
        """The socket is ready. True: the baton was lost."""
        raise NotImplementedError

    def expire(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def watch(self, mask: int) -> None:
        """Be told of these events from now on, and of no others."""
        if self._mask == mask:
            return
        if self._mask:
            self._loop.modify(self.fd, mask)
        else:
            self._loop.register(self.fd, mask, self.on_event)
        self._mask = mask

    def unwatch(self) -> None:
        """Be told of nothing. Level-triggered events of which nobody takes notice would spin."""
        if self._mask:
            self._mask = 0
            self._loop.unregister(self.fd)

    def set_deadline(self, timeout_ns: int) -> None:
        """Expire so long after the beginning of this round of the loop."""
        self._loop.timers.schedule(self, self._loop.now_ns + timeout_ns)

    def has_unread(self) -> bool:
        """Whether something lies in the socket, the peer's end-of-file not counted.

        Raises: BlockingIOError if not; another OSError if the peer is gone.
        """
        return bool(self._sock.recv(1, DONTWAIT | socket.MSG_PEEK))

    def peer_has_closed(self) -> bool:
        """Whether the peer has closed or reset, at least its sending side. Any thread.

        A peer that has closed its sending side only, and still reads, looks the same until
        it is sent something.
        """
        fd = self._sock.fileno()
        if fd < 0:
            return True
        poller = select.poll()
        poller.register(fd, select.POLLRDHUP)
        return any(mask & _CLOSED for _, mask in poller.poll(0))

    def half_close(self) -> None:
        """Say that nothing more will be sent. Raises: OSError if the peer is gone."""
        self._sock.shutdown(socket.SHUT_WR)

    def shut_down(self) -> None:
        """End it in both directions, but keep the descriptor: a thread may be using it.

        Raises: OSError if the peer is gone.
        """
        self._sock.shutdown(socket.SHUT_RDWR)

    def close_socket(self) -> None:
        """Forget the deadline and the registration, then close."""
        self.unwatch()
        self._loop.timers.forget(self)
        self._sock.close()
