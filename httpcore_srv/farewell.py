"""Farewell: what comes from a client after our last word to it is read and dropped.

close() with unread bytes in the socket sends a reset, and a reset can overtake the
response in the client's kernel. So we close our side only, and read until the client
closes too (RFC 9112 section 9.6), for a bounded time. Not for a bounded amount: what a
client has sent already may be more than any bound (a proxy with an upload in its buffer
turned our 413 into a 502).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 10  # times the linger timeout, for a client that goes on sending
_PIECE_BYTES: Final = 65536


class Farewell:
    """Reads one socket to its end.

    receive: its recv(2). linger_ns: how long to wait for more, counted from now_ns.
    """

    def __init__(self, receive: Callable[[int, int], bytes], now_ns: int, linger_ns: int) -> None:
        self._receive = receive
        self._linger_ns = linger_ns
        self._last_ns = now_ns + PATIENCE * linger_ns

    def is_over(self) -> bool:
        """Drop what has come; True if the client has closed or is gone."""
        try:
            return not self._receive(_PIECE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def due_ns(self, now_ns: int) -> int:
        """Return until when to wait for more, something having come just now."""
        return min(now_ns + self._linger_ns, self._last_ns)
