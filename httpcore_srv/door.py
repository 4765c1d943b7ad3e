"""Door: accepts connections, as many as can be served, and turns away what is too many.

The listeners are watched while this worker has a thread free and room for another
connection. At the limit of connections (`max_connections`, or no descriptor left) those
that have been idle longest make room: their clients come again, and a client that
comes now has something to say.
"""

from __future__ import annotations

import errno
import heapq
import logging
import select
import socket
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from httpcore_srv.descriptors import affordable
from httpcore_srv.environ import Environ, base_environ
from httpcore_srv.errors import ProtocolError
from httpcore_srv.ports import Incident
from httpcore_srv.seldom import Seldom
from httpcore_srv.stream import Stream

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer

log = logging.getLogger("smart_http.worker")

ACCEPT_BATCH: Final = 32  # connections a wake, for a worker that will never have siblings
ROOM_BATCH: Final = (
    32  # idle connections closed at once, at most: finding them means looking at all
)
NEW_NS: Final = 1_000_000_000  # a new connection's first request is on its way for so long
PAUSE_NS: Final = 1_000_000_000  # how long accepting rests when nothing could make room

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Faults of the new connection or of a firewall, not of the listener: accept(2), "Error handling".
_TRANSIENT: Final = (
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENONET,
)


class Door:
    """The listeners of one worker, and who comes in. Of the holder of the baton."""

    def __init__(
        self, server: HTTPServer, listeners: Sequence[socket.socket], multiprocess: bool
    ) -> None:
        self.listeners = list(listeners)
        self.accepted = 0
        self._server = server
        limits = server.settings.limits
        self._max_connections = min(limits.max_connections, affordable(server.max_threads))
        self._room_batch = min(ROOM_BATCH, max(1, self._max_connections // 16))
        self._max_per_address = limits.max_connections_per_address
        self._from: Counter[str] = Counter()  # open connections by address, if that is bounded
        self._bases = [_environ_of(sock, multiprocess) for sock in self.listeners]
        self._alone = not multiprocess
        self._listening = False
        self._full_until_ns = 0  # as many connections as may be, and none of them idle
        self._pause_until_ns = 0  # no descriptors
        self._seldom = Seldom(server.loop.clock_ns)

    @property
    def listening(self) -> bool:
        """Whether the listeners are watched."""
        return self._listening

    def gate(self, now_ns: int, *, wanted: bool) -> None:
        """Watch the listeners only while what they bring could be served.

        wanted: whether this worker is to accept at all.
        """
        server = self._server
        busy = server.pool.busy >= server.max_threads
        full = now_ns < self._full_until_ns and len(server.streams) >= self._max_connections
        if busy or full or now_ns < self._pause_until_ns or not wanted:
            if self._listening:
                self.stop_listening()
                if busy:
                    server.poke()
                # A thread that freed itself before it could see `listening` False has
                # lowered `busy` first: look again.
                if server.pool.busy < server.max_threads:
                    server.line.post_serving()
        elif not self._listening:
            self._start_listening()

    def stop_listening(self) -> None:
        """Take the listeners out of the loop. They stay open: others share them."""
        if self._listening:
            self._listening = False
            for sock in self.listeners:
                self._server.loop.unregister(sock.fileno())

    def accept_all(self) -> bool:
        """Accept what is in the queues, to the last. True: the baton was lost."""
        for index in range(len(self.listeners)):
            while (stream := self._accept_one(index)) is not None:
                if stream.on_event(select.EPOLLIN):
                    return True
        return False

    def nudged(self) -> bool:
        """The manager sees a connection waiting that nobody was woken for."""
        if not self._listening:
            return False
        return any(self._on_listener(index) for index in range(len(self.listeners)))

    def let_in(self, sock: socket.socket, address: object, index: int) -> Stream:
        """Make a stream of a connection that was accepted, here or by a sibling."""
        peer = ""
        base = self._bases[index].copy()
        if isinstance(address, tuple):
            peer = address[0]
            base["REMOTE_ADDR"] = peer
            base["REMOTE_PORT"] = str(address[1])
            if self._max_per_address:
                self._from[peer] += 1
        server = self._server
        stream = server.streams[sock.fileno()] = Stream(server, sock, peer, index, base)
        return stream

    def left(self, peer: str) -> None:
        """A connection from this address is closed."""
        if self._max_per_address and peer:
            self._from[peer] -= 1
            if not self._from[peer]:
                del self._from[peer]

    def _start_listening(self) -> None:
        self._listening = True
        for index, sock in enumerate(self.listeners):
            self._watch_listener(index, sock)

    def _watch_listener(self, index: int, sock: socket.socket) -> None:
        self._server.loop.register(
            sock.fileno(),
            select.EPOLLIN | select.EPOLLEXCLUSIVE,
            lambda mask: self._on_listener(index),
        )

    def _on_listener(self, index: int) -> bool:
        """Connections wait. At least one is taken whatever else: the wake-up was ours alone."""
        sock = self.listeners[index]
        server = self._server
        for _ in range(ACCEPT_BATCH if self._alone else 1):
            stream = self._accept_one(index)
            if stream is None:
                break
            if stream.on_event(select.EPOLLIN):
                return True
            if server.pool.busy >= server.max_threads:
                break
        if self._listening and not self._alone:
            # To the tail of the kernel's wait queue, so that the next one goes to a
            # sibling: epoll wakes the first exclusive waiter it finds. For the same reason
            # only one was accepted: those behind it have woken siblings already.
            server.loop.unregister(sock.fileno())
            self._watch_listener(index, sock)
        return False

    def _accept_one(self, index: int) -> Stream | None:
        """Take one connection out of a listener's queue; None if there is none to be had."""
        server = self._server
        while True:
            if len(server.streams) >= self._max_connections:
                if not _is_readable(self.listeners[index]):
                    return None
                if not self._make_room():
                    self._full_until_ns = server.loop.now_ns + PAUSE_NS
                    self._note_full(f"{self._max_connections} connections are open")
                    return None
            try:
                sock, address = self.listeners[index].accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue  # that connection is gone from the queue; look at the next
                if error.errno not in _EXHAUSTED:
                    raise
                # accept(2) takes a descriptor before it looks into the queue: it may be empty.
                if not _is_readable(self.listeners[index]):
                    return None
                if self._make_room():
                    continue
                self._note_full(error.strerror or str(error))
                self._pause_until_ns = server.loop.now_ns + PAUSE_NS
                return None
            stream = self._admit(sock, address, index)
            if stream is not None:
                return stream

    def _admit(self, sock: socket.socket, address: object, index: int) -> Stream | None:
        """Let an accepted connection in, or turn it away."""
        server = self._server
        self.accepted += 1
        server.moved = True
        stream = self.let_in(sock, address, index)
        stream.deadline_ns = server.loop.now_ns + server.header_ns
        if not self._max_per_address or self._from[stream.peer] <= self._max_per_address:
            return stream
        server.count(Incident.TURNED_AWAY)
        why = f"more than {self._max_per_address} connections from one address"
        stream.refuse(ProtocolError(503, why, retry_after_s=10))
        return None

    def _make_room(self) -> bool:
        """Close the connections that have been idle longest; False if none is idle."""
        server = self._server
        server.dispatcher.serve_out()  # whose response is held is not idle yet
        latest_ns = server.loop.now_ns - NEW_NS
        idle = (
            stream
            for stream in server.streams.values()
            if stream.at_rest and (not stream.is_new or self._idle_since_ns(stream) < latest_ns)
        )
        closed = 0
        for stream in heapq.nsmallest(self._room_batch, idle, key=self._idle_since_ns):
            try:
                if stream.has_unread():
                    continue  # the next request has come already
            except OSError:  # EAGAIN: nothing has come; or the client is gone
                pass
            stream.close()
            server.count(Incident.IDLE_CLOSED)
            closed += 1
        return closed > 0

    def _idle_since_ns(self, stream: Stream) -> int:
        """Return when a stream at rest came to rest, or was accepted."""
        server = self._server
        return stream.deadline_ns - (server.header_ns if stream.is_new else server.keep_alive_ns)

    def _note_full(self, why: str) -> None:
        self._server.count(Incident.ACCEPT_PAUSED)
        if self._seldom("full"):
            log.error("accepting no connections for now: %s", why)


def _is_readable(sock: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def _environ_of(sock: socket.socket, multiprocess: bool) -> Environ:
    """Return the environ that all requests over one listener share."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return base_environ(name[0], str(name[1]), multiprocess)
    # A socket file has neither host nor port, and PEP 3333 allows neither to be empty.
    base = base_environ("localhost", "80", multiprocess)
    base["REMOTE_ADDR"] = ""
    return base
