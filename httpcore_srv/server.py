"""HTTPServer: one worker. Joins listeners, loop, connections, pool and application.

                     accept / inbox                       inline, or through the pool
    listeners, siblings ----> Stream ----> Dispatcher ----> WSGIHandler ----> application
                                 ^                               |
                                 '---- response: send, outbox <--'

What the manager wants arrives as a word in the scoreboard (`Order`) and a byte on
the lifeline. How a worker leaves is in `departure.py`.
"""

from __future__ import annotations

import email.utils
import errno
import logging
import select
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Final

from httpcore_srv import parcel
from httpcore_srv.access_log import AccessLog
from httpcore_srv.departure import Departure
from httpcore_srv.dispatcher import Dispatcher
from httpcore_srv.environ import Environ, base_environ
from httpcore_srv.errors import ProtocolError
from httpcore_srv.event_loop import EventLoop
from httpcore_srv.ports import Lifeline, Order, Siblings, Slot
from httpcore_srv.settings import HTTPSettings
from httpcore_srv.stream import Mode, Stream
from httpcore_srv.thread_pool import ThreadPool
from httpcore_srv.timers import NEVER_NS
from httpcore_srv.wsgi import Application, WSGIHandler

log = logging.getLogger("smart_http.worker")

ACCEPT_BATCH: Final = 32  # connections a wake, for a worker that will never have siblings
INBOX_BATCH: Final = 64
RETRY_S: Final = 0.01  # how often what waits for a thread looks for a sibling with a free one
POKE_NS: Final = 20_000_000  # the manager is woken at most so often
PAUSE_NS: Final = 1_000_000_000  # how long accepting rests when descriptors have run out

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


class HTTPServer:
    """Serves one application on shared listeners until told to go.

    listeners: bound and listening, non-blocking, shared with the siblings.
    access_log_fd: where access lines go, or None.
    graceful_timeout_s: how long a departure may take at most.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        app: Application,
        settings: HTTPSettings,
        slot: Slot,
        lifeline: Lifeline,
        siblings: Siblings,
        *,
        multiprocess: bool = True,
        access_log_fd: int | None = None,
        graceful_timeout_s: float = 30.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.settings = settings
        self.handler = WSGIHandler(app)
        timeouts = settings.timeouts
        self.header_ns = int(timeouts.header_s * 1e9)
        self.body_ns = int(timeouts.body_s * 1e9)
        self.write_ns = int(timeouts.write_s * 1e9)
        self.keep_alive_ns = int(timeouts.keep_alive_s * 1e9)
        self.linger_ns = int(timeouts.linger_s * 1e9)
        # Of all deadlines only that of keep-alive is moved by a mere store (see Timers).
        shortest_ns = self.keep_alive_ns or NEVER_NS
        self.loop = EventLoop(clock_ns, shortest_ns)
        self.pool = ThreadPool(settings.min_threads, settings.max_threads, settings.thread_idle_s)
        self.max_threads = settings.max_threads
        self.dispatcher = Dispatcher(
            self.loop, self.pool, slot, on_freed=self._thread_freed, lead=self._lead
        )
        self.streams: dict[int, Stream] = {}
        self.access_log = None if access_log_fd is None else AccessLog(access_log_fd)
        self.keeps_alive = timeouts.keep_alive_s > 0
        self.leaving = False
        self.date = b""  # the Date line of responses; replaced whole, so any thread may read it
        self._date_due_ns = 0
        self.listeners = list(listeners)
        self.slot = slot
        self.lifeline = lifeline
        self.siblings = siblings
        self._bases = [_environ_of(sock, multiprocess) for sock in self.listeners]
        self._alone = not multiprocess
        self._listening = False
        self._pause_until_ns = 0
        self.waiting: deque[Stream] = deque()  # whole requests, or unread ones, without a thread
        self._serving_posted = False
        self._poked_ns = 0
        self._accepted = self._handed_out = self._handed_in = 0
        self._moved = False  # one of the three has changed and is not published yet
        self.departure = Departure(self, graceful_timeout_s)

    def run(self) -> None:
        """Serve on the calling thread, and on others, until the manager says otherwise."""
        loop = self.loop
        loop.before_wait = self._before_wait
        loop.register(self.lifeline.fileno(), select.EPOLLIN, self._on_lifeline)
        loop.register(self.siblings.fileno(), select.EPOLLIN, self._on_inbox)
        self.slot.ready()
        # The manager kills whoever is not ready when it stops. It writes the order and then
        # looks whether we are ready; we say so and then look for the order.
        if self.slot.order() >= Order.STOP:
            loop.stop()
        self.dispatcher.sentinel.start()
        if not self._lead():
            # The baton went to another thread while this one ran a request. From now on it
            # is one of the pool's, until the last leader closes the pool.
            self.pool.serve(leave_when_idle=False)
        if not self.pool.busy:
            self.loop.close()

    def _lead(self) -> bool:
        """Lead until the baton is lost (False) or the worker is to end (True)."""
        if not self.loop.run():
            return False
        self.dispatcher.sentinel.stop()
        for stream in list(self.streams.values()):
            if stream.mode is Mode.RUNNING:
                stream.cut()
            else:
                stream.close()
        if self.access_log is not None:
            self.access_log.flush()
        self.pool.close()
        return True

    def open_spool(self) -> IO[bytes]:
        """Make the temporary file for a large body. Raises: OSError."""
        return tempfile.TemporaryFile(prefix="smart-http-body-")

    # -- called by streams; the leader ----------------------------------------------------

    def wait_for_thread(self, stream: Stream) -> None:
        """No thread is free: give the stream to a sibling that has one, or let it wait."""
        if self.give_away(stream, only_free=True):
            return
        stream.park()
        self.waiting.append(stream)
        self._poke()
        # A thread may have ended its request after we looked and before we stood in the
        # queue; then it saw an empty queue. So look again from the queue.
        if self.pool.busy < self.max_threads:
            self._post_serving()

    def wait_for_turn(self, stream: Stream) -> None:
        """Let the others go first: the stream has pipelined many requests."""
        stream.park()
        self.waiting.append(stream)
        self._post_serving()

    def give_away(self, stream: Stream, *, only_free: bool) -> bool:
        """Hand the connection to a sibling. False: it stays."""
        if stream.hops >= parcel.MAX_HOPS and only_free:
            return False
        message = stream.parcel()
        if message is None:
            return False
        # Unregistered first: the open file lives on in the sibling, and our epoll would
        # go on reporting it under a number that we have given to somebody else.
        stream.detach()
        if not self.siblings.send(message.encode(), stream.fd, only_free=only_free):
            stream.attach()
            return False
        if stream.mode is Mode.WAITING:
            self.waiting.remove(stream)
        self._handed_out += 1
        self._moved = True
        stream.close()
        return True

    def refused(self, stream: Stream, error: ProtocolError) -> None:
        """Note that a client was answered by the server itself."""
        if self.access_log is not None:
            self.access_log.refused(stream.peer, error.status)

    # -- the loop's callbacks -------------------------------------------------------------

    def stop_listening(self) -> None:
        """Take the listeners out of the loop. They stay open: others share them."""
        if self._listening:
            self._listening = False
            for sock in self.listeners:
                self.loop.unregister(sock.fileno())

    def accept_all(self) -> bool:
        """Accept what is in the queues, to the last. True: the baton was lost."""
        for index in range(len(self.listeners)):
            while (stream := self._accept_one(index)) is not None:
                if stream.on_event(select.EPOLLIN):
                    return True
        return False

    def _start_listening(self) -> None:
        self._listening = True
        for index, sock in enumerate(self.listeners):
            self._watch_listener(index, sock)

    def _watch_listener(self, index: int, sock: socket.socket) -> None:
        self.loop.register(
            sock.fileno(),
            select.EPOLLIN | select.EPOLLEXCLUSIVE,
            lambda mask: self._on_listener(index),
        )

    def _on_listener(self, index: int) -> bool:
        """Connections wait. At least one is taken whatever else: the wake-up was ours alone."""
        sock = self.listeners[index]
        for _ in range(ACCEPT_BATCH if self._alone else 1):
            stream = self._accept_one(index)
            if stream is None:
                break
            if stream.on_event(select.EPOLLIN):
                return True
            if self.pool.busy >= self.max_threads:
                break
        if self._listening and not self._alone:
            # To the tail of the kernel's wait queue, so that the next one goes to a
            # sibling: epoll wakes the first exclusive waiter it finds. For the same reason
            # only one was accepted: those behind it have woken siblings already.
            self.loop.unregister(sock.fileno())
            self._watch_listener(index, sock)
        return False

    def _accept_one(self, index: int) -> Stream | None:
        """Take one connection out of a listener's queue; None if there is none to be had."""
        while True:
            try:
                sock, address = self.listeners[index].accept()
                break
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue  # that connection is gone from the queue; look at the next
                if error.errno not in _EXHAUSTED:
                    raise
                if not self._pause_until_ns:
                    log.error("cannot accept connections for a second: %s", error.strerror)
                self._pause_until_ns = self.loop.now_ns + PAUSE_NS
                return None
        self._accepted += 1
        self._moved = True
        stream = self._add(sock, address, index)
        stream.deadline_ns = self.loop.now_ns + self.header_ns
        return stream

    def _add(self, sock: socket.socket, address: object, index: int) -> Stream:
        base = self._bases[index]
        peer = ""
        if isinstance(address, tuple):
            peer = address[0]
            base = {**base, "REMOTE_ADDR": peer, "REMOTE_PORT": str(address[1])}
        stream = self.streams[sock.fileno()] = Stream(self, sock, peer, index, base)
        return stream

    def _on_inbox(self, mask: int) -> bool:
        return self.take_parcels(INBOX_BATCH)

    def take_parcels(self, limit: int) -> bool:
        """Take in connections that siblings hand over. True: the baton was lost."""
        for _ in range(limit):
            received = self.siblings.receive()
            if received is None:
                return False
            message, fd = received
            lost = self.adopt(message, fd) if fd >= 0 else self._nudged()
            if lost:
                return True
        return False

    def adopt(self, message: bytes, fd: int) -> bool:
        """Go on with a connection that a sibling began. True: the baton was lost."""
        moved = parcel.decode(message)
        listener = self.listeners[moved.listener]
        sock = socket.socket(listener.family, listener.type, listener.proto, fileno=fd)
        self._handed_in += 1
        self._moved = True
        try:
            address = sock.getpeername()
        except OSError:  # the client has gone while the connection was on its way
            sock.close()
            return False
        stream = self._add(sock, address, moved.listener)
        stream.hops = moved.hops
        stream.deadline_ns = moved.deadline_ns
        if moved.unparsed:
            lost = stream.received(moved.unparsed)
            if not lost:
                stream.keep_deadline(moved.deadline_ns)
            return lost
        return stream.on_event(select.EPOLLIN)

    def _nudged(self) -> bool:
        """The manager sees a connection waiting that nobody was woken for."""
        if not self._listening:
            return False
        return any(self._on_listener(index) for index in range(len(self.listeners)))

    def _on_lifeline(self, mask: int) -> bool:
        if self.lifeline.read():
            self.departure.obey(self.slot.order())
        else:
            # Unregistered, or end-of-file would be reported again and again.
            self.loop.unregister(self.lifeline.fileno())
            self.departure.manager_gone()
        return False

    def _thread_freed(self) -> None:
        """A pool thread has ended a request. That thread; no lock is held."""
        # Written by the leader before it reads `pool.busy`, read here after `busy` has
        # been lowered: whichever came first, a waiting stream is seen by one of us.
        if self.waiting or not self._listening or self.leaving:
            self._post_serving()
        if self.access_log is not None:
            self.access_log.flush()

    def _post_serving(self) -> None:
        """Have the queue served soon: once, however many ask for it. Any thread."""
        if not self._serving_posted:
            self._serving_posted = True
            self.loop.post(self._serve_waiting)

    def _serve_waiting(self) -> bool:
        """Give free threads to what waits, first come first served. True: baton lost."""
        # Cleared before anything is looked at: whoever frees a thread after this posts anew,
        # and whoever did so before is seen.
        self._serving_posted = False
        for _ in range(len(self.waiting)):
            if self.pool.busy >= self.max_threads:
                break
            if self.waiting.popleft().resume():
                if self.waiting:
                    self._post_serving()
                return True
        return False

    def _retry_siblings(self) -> None:
        """Look again whether a sibling has a thread for what waits here unread."""
        for stream in list(self.waiting):
            may_move = stream.movable and stream.hops < parcel.MAX_HOPS
            # Nobody free for the first that may move is nobody free for the rest.
            if may_move and not self.give_away(stream, only_free=True):
                return

    def _before_wait(self) -> None:
        """Between two batches: gate the listeners, publish, keep the clock's second."""
        loop, pool = self.loop, self.pool
        now_ns = loop.clock_ns()
        if self.waiting:
            self._retry_siblings()
        if pool.stranded:
            pool.rescue()
        if self.leaving:
            self.departure.go_on()
        self._gate(now_ns)
        if now_ns >= self._date_due_ns:
            self._date_due_ns = now_ns + 1_000_000_000 - time.time_ns() % 1_000_000_000
            self.date = f"Date: {email.utils.formatdate(usegmt=True)}\r\n".encode()
        if self.access_log is not None:
            self.access_log.flush()
        loop.retry_s = RETRY_S if self.waiting else self.departure.retry_s
        with pool.lock:
            self.slot.publish(now_ns, pool.busy, len(self.waiting), len(self.streams), pool.alive)
            self.dispatcher.flush()
        if self._moved:
            self._moved = False
            self.slot.moved(self._accepted, self._handed_out, self._handed_in)

    def _gate(self, now_ns: int) -> None:
        """Watch the listeners only while what they bring could be served."""
        full = self.pool.busy >= self.max_threads
        if full or now_ns < self._pause_until_ns or not self.departure.accepts:
            if self._listening:
                self.stop_listening()
                if full:
                    self._poke()
                # A thread that freed itself before it could see `_listening` False has
                # lowered `busy` first: look again.
                if self.pool.busy < self.max_threads:
                    self._post_serving()
        elif not self._listening:
            self._pause_until_ns = 0
            self._start_listening()

    def _poke(self) -> None:
        now_ns = self.loop.clock_ns()
        if now_ns - self._poked_ns >= POKE_NS:
            self._poked_ns = now_ns
            self.lifeline.poke()


def _environ_of(sock: socket.socket, multiprocess: bool) -> Environ:
    """Return the environ that all requests over one listener share."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return base_environ(name[0], str(name[1]), multiprocess)
    # A socket file has neither host nor port, and PEP 3333 allows neither to be empty.
    base = base_environ("localhost", "80", multiprocess)
    base["REMOTE_ADDR"] = ""
    return base
