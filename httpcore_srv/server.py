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
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from httpcore_srv import parcel
from httpcore_srv.access_log import AccessLog
from httpcore_srv.collector import Collector
from httpcore_srv.departure import Departure
from httpcore_srv.descriptors import make_room
from httpcore_srv.dispatcher import Dispatcher, Run
from httpcore_srv.door import Door
from httpcore_srv.event_loop import EventLoop
from httpcore_srv.live_body import BodyTerms
from httpcore_srv.messages import RequestHead
from httpcore_srv.mode import Mode
from httpcore_srv.outbox import Outbox, RevocableOutbox, Terms
from httpcore_srv.overseer import Overseer
from httpcore_srv.ports import Incident, Lifeline, Order, Siblings, Slot
from httpcore_srv.seldom import Seldom
from httpcore_srv.settings import HTTPSettings
from httpcore_srv.shift import Shift
from httpcore_srv.store import Store
from httpcore_srv.stream import Stream
from httpcore_srv.thread_pool import ThreadPool
from httpcore_srv.timers import NEVER_NS
from httpcore_srv.waiting import RETRY_S, WaitingLine
from httpcore_srv.watchdog import Watchdog
from httpcore_srv.wsgi import Application, WSGIHandler

log = logging.getLogger("smart_http.worker")

INBOX_BATCH: Final = 64
INBOX_PAUSE_NS: Final = 50_000_000  # between two looks into an inbox of which nothing can be taken
# How long a reader may take nothing of a stream when `max_streams` are there already: its
# thread is one that ordinary requests wait for.
CROWDED_NS: Final = 2_000_000_000
POKE_NS: Final = 20_000_000  # the manager is woken at most so often


class HTTPServer:
    """Serves one application on shared listeners until told to go.

    listeners: bound and listening, non-blocking, shared with the siblings.
    access_log_fd: where access lines go, or None.
    graceful_timeout_s: how long a departure may take at most.
    before_exit: called once, when the last request has ended or must be given up.
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
        before_exit: Callable[[], None] = lambda: None,
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
        self.request_ns = int(timeouts.request_s * 1e9)
        self.queue_ns = int(timeouts.queue_s * 1e9)
        # Of all deadlines only that of keep-alive is moved by a mere store (see Timers).
        shortest_ns = self.keep_alive_ns or NEVER_NS
        self.loop = EventLoop(clock_ns, shortest_ns)
        self.pool = ThreadPool(
            settings.min_threads, settings.max_threads, settings.thread_idle_s, settings.max_streams
        )
        self.max_threads = settings.max_threads
        self.dispatcher = Dispatcher(
            self.loop, self.pool, slot, on_freed=self._thread_freed, lead=self._lead
        )
        self.streams: dict[int, Stream] = {}  # by descriptor
        self.store = Store(
            settings.limits.max_buffered_bytes,
            settings.temporary_directory,
            self.count,
        )
        self._terms, self.body_terms = self._make_terms(settings, clock_ns)
        self.access_log = None if access_log_fd is None else AccessLog(access_log_fd)
        self.keeps_alive = timeouts.keep_alive_s > 0
        self.leaving = False
        self.date = b""  # the Date line of responses; replaced whole, so any thread may read it
        self._date_due_ns = 0
        self.slot = slot
        self.lifeline = lifeline
        self.siblings = siblings
        self.door = Door(self, listeners, multiprocess)
        self.line = WaitingLine(self)
        self.waiting = self.line.streams
        self._overseer = Overseer(self)
        self._shift = Shift(self)
        self._seldom = Seldom(clock_ns)
        self._inbox_due_ns = 0  # when to look into the inbox again; 0: it is watched
        self._watchdog, self._collector = Watchdog(timeouts.worker_s), Collector(clock_ns)
        self._poked_ns = self._caller = 0  # the latter: the thread that called `run`
        self._handed_out = self._handed_in = 0
        self.moved = False  # a connection came or went, and the slot does not say so yet
        self._incidents = [0] * len(Incident)  # guarded by the pool's lock
        self.departure = Departure(self, graceful_timeout_s)
        self._before_exit = before_exit
        self._ending = threading.Lock()

    def _make_terms(
        self, settings: HTTPSettings, clock_ns: Callable[[], int]
    ) -> tuple[Terms, BodyTerms]:
        out = Terms(
            self.write_ns,
            min(self.write_ns, CROWDED_NS) if settings.max_streams else self.write_ns,
            settings.timeouts.min_rate,
            self.store,
            clock_ns,
            self.count,
            threading.Lock(),
        )
        return out, BodyTerms(self.body_ns, settings.timeouts.min_rate, clock_ns, self.count)

    @property
    def running(self) -> dict[Stream, Run]:
        """What threads of the pool run."""
        return cast("dict[Stream, Run]", self.dispatcher.running)

    def run(self) -> None:
        """Serve on the calling thread, and on others, until the manager says otherwise."""
        self._caller = threading.get_ident()
        make_room(self.settings.limits.max_connections)
        loop = self.loop
        loop.before_wait = self._before_wait
        loop.before_timers = self.dispatcher.serve_out
        loop.register(self.lifeline.fileno(), select.EPOLLIN, self._on_lifeline)
        self._watch_inbox()
        self._collector.begin()
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
        self._end()

    def _lead(self) -> bool:
        """Lead until the baton is lost (False) or the worker is to end (True)."""
        try:
            if not self.loop.run():
                return False
        except BaseException:
            if threading.get_ident() == self._caller:
                raise
            # A fault of ours. The caller of `run` waits as a pool thread and would never know.
            log.exception("the worker's loop has failed")
            os._exit(1)
        self.dispatcher.sentinel.stop()
        self._watchdog.cancel()
        self.dispatcher.serve_out()
        self._collector.end()
        for stream in list(self.streams.values()):
            if stream.mode is Mode.RUNNING:
                stream.cut()
            else:
                stream.close()
        if self.access_log is not None:
            self.access_log.flush()
        self.pool.close()
        if self.pool.busy or self.pool.written_off:
            self._end()  # the main thread may be in a request, and come too late or never
        if self.pool.written_off:
            # The main thread may be among those that never end, and would keep the process.
            os._exit(0)
        return True

    def _end(self) -> None:
        """Call `before_exit`, unless another thread has; then wait until it has returned."""
        with self._ending:
            before_exit, self._before_exit = self._before_exit, lambda: None
            before_exit()

    def count(self, incident: Incident) -> None:
        """Count something that the readout is to show. Any thread."""
        with self.pool.lock:
            self._incidents[incident] += 1
            self.slot.incident(incident, self._incidents[incident])

    # -- called by streams; the leader ----------------------------------------------------

    def make_outbox(self, sock: socket.socket, step_aside: Callable[[], bool]) -> Outbox:
        """Return the way out of a new connection."""
        kind = RevocableOutbox if self.request_ns else Outbox
        return kind(sock, self._terms, step_aside)

    def forget(self, stream: Stream) -> None:
        """The stream is closed."""
        if self.streams.pop(stream.fd, None) is not None:
            self.door.left(stream.peer)

    def give_away(self, stream: Stream, *, only_free: bool, target: int = -1) -> bool:
        """Hand the connection to a sibling, that in slot `target` if one is given.

        False: it stays.
        """
        if stream.hops >= parcel.MAX_HOPS and only_free:
            return False
        message = stream.parcel()
        if message is None:
            return False
        # Unregistered first: the open file lives on in the sibling, and our epoll would
        # go on reporting it under a number that we have given to somebody else.
        stream.unwatch()
        message_bytes = message.encode()
        if not self.siblings.send(message_bytes, stream.fd, only_free=only_free, target=target):
            if stream.mode is Mode.READING:
                stream.watch(select.EPOLLIN)
            return False
        if stream.mode is Mode.WAITING:
            self.line.leave(stream)
        self._handed_out += 1
        self.moved = True
        stream.close()
        return True

    def refused(self, peer: str, request: RequestHead | None, status: int) -> None:
        """Note that a client was answered by the server itself.

        request: None if what came was none.
        """
        incident = Incident.of_status(status)
        if incident is not None:
            self.count(incident)
        if self.access_log is None:
            return
        if request is None:
            self.access_log.refused(peer, status)
        else:
            self.access_log.record(peer, request, str(status), 0)

    def poke(self) -> None:
        """Wake the manager: this worker is full."""
        now_ns = self.loop.clock_ns()
        if now_ns - self._poked_ns >= POKE_NS:
            self._poked_ns = now_ns
            self.lifeline.poke()

    # -- the loop's callbacks -------------------------------------------------------------

    def _on_inbox(self, mask: int) -> bool:
        try:
            return self.take_parcels(INBOX_BATCH)
        except OSError as error:
            # No descriptor is left. What has come stays in the inbox, which would be reported
            # again and again; until then siblings see that something waits here.
            if self._seldom("inbox"):
                log.error("taking over no connections for now: %s", error.strerror)
            self.loop.unregister(self.siblings.fileno())
            self._inbox_due_ns = self.loop.now_ns + INBOX_PAUSE_NS
            return False

    def _watch_inbox(self) -> None:
        self._inbox_due_ns = 0
        self.loop.register(self.siblings.fileno(), select.EPOLLIN, self._on_inbox)

    def take_parcels(self, limit: int) -> bool:
        """Take in connections that siblings hand over. True: the baton was lost."""
        for _ in range(limit):
            received = self.siblings.receive()
            if received is None:
                return False
            message, fd = received
            lost = self.adopt(message, fd) if fd >= 0 else self.door.nudged()
            if lost:
                return True
        return False

    def adopt(self, message: bytes, fd: int) -> bool:
        """Go on with a connection that a sibling began. True: the baton was lost."""
        moved = parcel.decode(message)
        listener = self.door.listeners[moved.listener]
        sock = socket.socket(listener.family, listener.type, listener.proto, fileno=fd)
        self._handed_in += 1
        self.moved = True
        try:
            address = sock.getpeername()
        except OSError:  # the client has gone while the connection was on its way
            sock.close()
            return False
        stream = self.door.let_in(sock, address, moved.listener)
        stream.hops = moved.hops
        stream.is_new = False
        stream.deadline_ns = moved.deadline_ns
        if moved.unparsed:
            lost = stream.received(moved.unparsed)
            if not lost:
                stream.keep_deadline(moved.deadline_ns)
            return lost
        return stream.on_event(select.EPOLLIN)

    def _on_lifeline(self, mask: int) -> bool:
        # What follows may close connections, or hand them over.
        self.dispatcher.serve_out()
        self.dispatcher.gathers = False
        if self.lifeline.read():
            self.departure.obey(self.slot.order())
            shift = self.slot.shift()
            if shift is not None:
                self._shift.begin(*shift)
        else:
            # Unregistered, or end-of-file would be reported again and again.
            self.loop.unregister(self.lifeline.fileno())
            self.departure.manager_gone()
        return False

    def _thread_freed(self) -> None:
        """A pool thread has ended a request. That thread; no lock is held."""
        # Written by the leader before it reads `pool.busy`, read here after `busy` has
        # been lowered: whichever came first, a waiting stream is seen by one of us.
        if self.waiting or not self.door.listening or self.leaving:
            self.line.post_serving()
        if self.access_log is not None:
            self.access_log.flush()

    def _before_wait(self) -> None:
        """Between two batches: gate the listeners, publish, keep the clock's second."""
        loop, pool = self.loop, self.pool
        now_ns = loop.clock_ns()
        self.dispatcher.serve_out()
        self.dispatcher.gathers = not self.leaving and self.dispatcher.is_calm(now_ns)
        self._watchdog.beat(now_ns)
        if self.waiting:
            self.line.retry_siblings()
        if pool.stranded:
            pool.rescue()
        if self.leaving:
            self.departure.go_on()
        if self._shift.under_way:
            self._shift.go_on(now_ns)
        retry_s = self._overseer.look(now_ns) if pool.busy else None
        self.door.gate(now_ns, wanted=self.departure.accepts)
        if now_ns >= self._date_due_ns:
            self._date_due_ns = now_ns + 1_000_000_000 - time.time_ns() % 1_000_000_000
            self.date = f"Date: {email.utils.formatdate(usegmt=True)}\r\n".encode()
        if self.access_log is not None:
            self.access_log.flush()
        if 0 < self._inbox_due_ns <= now_ns:
            self._watch_inbox()
        arrivals, busy = self.dispatcher.begun + self.door.accepted, bool(pool.busy or self.waiting)
        collect_s = self._collector.look(now_ns, arrivals, busy=busy)
        if self.waiting:
            retry_s = RETRY_S
        elif self._inbox_due_ns:
            retry_s = INBOX_PAUSE_NS / 1e9
        elif self.departure.retry_s is not None:
            retry_s = self.departure.retry_s
        elif collect_s is not None:
            retry_s = collect_s
        loop.retry_s = retry_s
        if self.moved:
            self.moved = False
            self.slot.moved(self.door.accepted, self._handed_out, self._handed_in)
        with pool.lock:
            self.slot.publish(
                now_ns,
                pool.busy,
                len(self.waiting) + bool(self._inbox_due_ns),
                len(self.streams),
                pool.alive,
                pool.streams,
                pool.written_off,
            )
            self.dispatcher.flush()
