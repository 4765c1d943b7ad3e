"""Bridge: what old and new server say and hand to each other while one replaces the other.

    new -> old   {"news": "serving", "format": n}  as many workers as it needs are ready
                 {"news": "failed", "why": ...}    it cannot start
    old -> new   {"news": "yours"}                 socket files belong to the new one now
    old -> new   parcels: connections as they lie in an inbox, each with its descriptor

SOCK_SEQPACKET, so that each arrives whole; its first byte says which it is. What does not
fit now waits here. End-of-file tells either side that the other is gone, however it died.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from .passing import receive
from .ports import OperatingSystem
from .siblings import MAX_MESSAGE_BYTES

_log = logging.getLogger("smart_http.spm")

_NEWS: Final = b"N"
_PARCEL: Final = b"P"
_SEND_BUFFER_BYTES: Final = 1 << 20
_MESSAGES_PER_LOOK: Final = 64

News = Mapping[str, Any]


def bridge_pair() -> tuple[socket.socket, socket.socket]:
    """Return the old server's end and the new one's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours, theirs


def news_packet(news: News) -> bytes:
    """Return news as they travel."""
    return _NEWS + json.dumps(news).encode()


class Bridge:
    """One end, in a manager's loop. Never blocks.

    on_news: called with what the other side says. on_parcel: with a connection that it
    hands over; the descriptor is the callee's. on_gone: when the other side is gone; the
    bridge is closed then, and what still waited here is lost (`lost`).
    """

    def __init__(
        self,
        system: OperatingSystem,
        sock: socket.socket,
        *,
        on_news: Callable[[News], None],
        on_parcel: Callable[[bytes, int], None],
        on_gone: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._system = system
        self._sock = sock
        self._on_news = on_news
        self._on_parcel = on_parcel
        self._on_gone = on_gone
        self._queue: deque[tuple[bytes, int]] = deque()
        self._reading = True
        self._watched = 0
        self._stuck = False
        self.is_open = True
        self.lost = 0

    def open(self) -> None:
        """Begin to listen to the other side."""
        self._watch()

    @property
    def queued(self) -> int:
        """How much has not been sent yet."""
        return len(self._queue)

    def tell(self, news: News) -> None:
        """Say something to the other side."""
        self._send(news_packet(news), -1)

    def carry(self, message: bytes, fd: int) -> None:
        """Hand a connection to the other side. The descriptor is ours from now on."""
        self._send(_PARCEL + message, fd)

    def flush(self) -> None:
        """Send what waits, as far as it goes; to be called at each tick, too."""
        self._stuck = False
        while self.is_open and self._queue:
            if not self._sent(*self._queue[0]):
                break
            self._drop(self._queue.popleft()[1])
        self._watch()

    def pause(self) -> None:
        """Take nothing more in: what came already has nowhere to go."""
        self._reading = False
        self._watch()

    def resume(self) -> None:
        """End a pause()."""
        self._reading = True
        self._watch()

    def close(self) -> None:
        """Close this end. Connections that still wait here are closed with it, and counted."""
        if not self.is_open:
            return
        self.is_open = False
        self._watch()
        self._sock.close()
        self.lost += sum(fd >= 0 for _, fd in self._queue)
        while self._queue:
            self._drop(self._queue.popleft()[1])

    def _send(self, packet: bytes, fd: int) -> None:
        if not self.is_open:
            self.lost += fd >= 0
            self._drop(fd)
            return
        self._queue.append((packet, fd))
        if len(self._queue) == 1:
            self.flush()

    def _sent(self, packet: bytes, fd: int) -> bool:
        """Send one packet; False if it does not go now."""
        try:
            if fd < 0:
                self._sock.send(packet)
            else:
                socket.send_fds(self._sock, [packet], [fd])
        except BlockingIOError:
            return False
        except OSError as error:
            # Too many descriptors of ours are on their way, or the kernel is short of memory:
            # tried again at the next tick, for epoll would say at once that there is room.
            # All else means that the other side is gone, which is told by end-of-file.
            self._stuck = True
            if error.errno not in (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM):
                _log.debug("bridge: %s", error)
            return False
        return True

    def _ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self.flush()
        if mask & ~select.EPOLLOUT and self.is_open:
            self._read()

    def _read(self) -> None:
        for _ in range(_MESSAGES_PER_LOOK):
            if not (self._reading and self.is_open):
                return
            try:
                packet, fd = receive(self._sock, MAX_MESSAGE_BYTES + 1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it died with words of ours unread; what it said comes first
            if not packet:
                self.close()
                self._on_gone()
                return
            self._take(packet, fd)

    def _take(self, packet: bytes, fd: int) -> None:
        if packet[:1] == _PARCEL:
            if fd >= 0:
                self._on_parcel(packet[1:], fd)
            else:
                _log.error("out of descriptors: a connection that was handed over is lost")
                self.lost += 1
            return
        self._on_news(json.loads(packet[1:]))

    def _watch(self) -> None:
        """Watch for what there is to wait for.

        For nothing at all while paused: the end of the other side, which cannot be masked,
        would be reported over and over.
        """
        mask = 0
        if self.is_open:
            mask |= select.EPOLLIN if self._reading else 0
            mask |= select.EPOLLOUT if self._queue and not self._stuck else 0
        if mask == self._watched:
            return
        self._watched = mask
        if mask:
            self._system.watch(self._sock, mask, self._ready)
        else:
            self._system.unwatch(self._sock)

    @staticmethod
    def _drop(fd: int) -> None:
        if fd >= 0:
            os.close(fd)
