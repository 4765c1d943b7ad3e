"""Stream: one accepted socket with its Connection, its outbox and its deadline.

Who may touch it
----------------
`mode` says who owns a stream. RUNNING: the thread that runs its request; the
leader then does nothing but unregister a descriptor that keeps reporting events.
Every other mode: the leader. Ownership changes hands in two places only:
`Dispatcher.run` (leader -> running thread) and `hand_back` (running thread -> leader; inline,
where both are one thread, `responded`).

Only the leader closes, registers or unregisters the descriptor: a number closed
by another thread could be given to a new connection under the loop's feet.
"""

from __future__ import annotations

import enum
import logging
import select
import socket
from io import BytesIO
from typing import IO, TYPE_CHECKING, Final

from httpcore_srv.connection import Connection, State, close_body
from httpcore_srv.environ import Environ, Environs
from httpcore_srv.errors import PeerGone, ProtocolError
from httpcore_srv.messages import RequestHead
from httpcore_srv.outbox import Outbox
from httpcore_srv.parcel import MAX_UNPARSED_BYTES, Parcel
from httpcore_srv.response_writer import error_page
from httpcore_srv.wsgi import Exchange

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer

log = logging.getLogger("smart_http.worker")

RECEIVE_BYTES: Final = 65536  # one recv(2); the largest head and many a body fit in it
PIPELINE_RUN: Final = 64  # requests of one client in a row before the others have a turn
LINGER_BYTES: Final = 1 << 20  # read and dropped after an error response, at most
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

EPOLLIN: Final = select.EPOLLIN
EPOLLOUT: Final = select.EPOLLOUT
DONTWAIT: Final = socket.MSG_DONTWAIT


class Mode(enum.IntEnum):
    """Who owns a stream and what its events mean."""

    READING = 0  # the leader reads
    RUNNING = 1  # a thread runs the request
    WRITING = 2  # the leader drains the outbox
    WAITING = 3  # for a free thread; unregistered
    LINGERING = 4  # the last response is out; the leader reads and drops
    CLOSED = 5


READING: Final = Mode.READING
RUNNING: Final = Mode.RUNNING


class Stream:
    """One client's socket."""

    __slots__ = (
        "_environs",
        "_has_turn",
        "_keep_alive",
        "_lingered",
        "_mask",
        "_receive",
        "_request",
        "_send",
        "_server",
        "_sock",
        "connection",
        "deadline_ns",
        "due_tick",
        "fd",
        "hops",
        "listener",
        "mode",
        "outbox",
        "peer",
    )

    def __init__(
        self, server: HTTPServer, sock: socket.socket, peer: str, listener: int, base: Environ
    ) -> None:
        self.fd = sock.fileno()
        self.peer = peer
        self.listener = listener
        self.connection = Connection(server.settings.limits, server.open_spool)
        self.mode = READING
        self.hops = 0  # times handed on without a request served
        self.deadline_ns = 0
        self.due_tick = 0
        self._server = server
        self._sock = sock
        self._receive = sock.recv
        self._send = sock.send
        self._mask = 0  # what the loop watches for; 0: not registered
        self.outbox = Outbox(sock, server.settings.timeouts.write_s)
        self._keep_alive = True
        self._lingered = 0
        self._has_turn = False  # it has waited for a thread, and one is free
        self._request: RequestHead | None = None
        self._environs = Environs(base)

    # -- the leader ---------------------------------------------------------------------

    def on_event(self, mask: int) -> bool:
        """The socket is ready. True: the baton was lost."""
        if self.mode:
            return self._on_event_out_of_turn(mask)
        server = self._server
        # `_is_crowded`, spelt out for the hot path.
        crowded = server.pool.busy >= server.max_threads or (server.waiting and not self._has_turn)
        if crowded and self.connection.at_rest:
            self._wait_unread()
            return False
        try:
            data = self._receive(RECEIVE_BYTES, DONTWAIT)
        except BlockingIOError:
            return self.idle()
        except OSError as error:
            self._gone(error)
            return False
        if not data:
            self._end_of_file()
            return False
        return self._take_in(data, bool(crowded))

    def received(self, data: bytes | None) -> bool:
        """Take in bytes of requests; run what is whole. True: the baton was lost.

        data: None to go on with what has been received before.
        """
        return self._take_in(data, self._is_crowded())

    def _is_crowded(self) -> bool:
        """Whether this stream's request must wait, for a thread or for others' turn."""
        server = self._server
        return server.pool.busy >= server.max_threads or bool(server.waiting and not self._has_turn)

    def _take_in(self, data: bytes | None, crowded: bool) -> bool:
        connection = self.connection
        turns = PIPELINE_RUN
        while turns:
            turns -= 1
            try:
                request = connection.next_request() if data is None else connection.receive(data)
            except ProtocolError as error:
                self._refuse(error)
                return False
            except OSError as error:
                log.error("%s: cannot keep a request body: %s", self.peer or "unix", error)
                self._refuse(ProtocolError(503, "no room for a request body"))
                return False
            if request is None:
                self._wait_for_more()
                return False
            self._request = request
            if self._run(crowded):
                return True
            if self.mode or not connection.has_unread:
                return False
            data = None
            crowded = self._is_crowded()
        # Whoever pipelines without end goes to the end of the queue. Parked, so that
        # nothing more is read before what is here has been answered.
        self._has_turn = False
        self._server.wait_for_turn(self)
        return False

    def resume(self) -> bool:
        """A thread may be free: go on after WAITING. True: the baton was lost."""
        if self.mode is not Mode.WAITING:
            return False
        self.mode = READING
        self._has_turn = True
        if self._request is None:
            return self.received(None) if self.connection.has_unread else self.on_event(EPOLLIN)
        return self._run(self._is_crowded()) or self._go_on()

    def responded(self) -> None:
        """The response has been given to the socket or the outbox: go on."""
        if self.outbox.items:
            self.mode = Mode.WRITING
            self._set_deadline(self._server.write_ns)
            self._watch(EPOLLOUT)
            return
        if not self._keep_alive:
            self._finish()
            return
        self.connection.done_and_kept()
        server = self._server
        self.hops = 0
        self.deadline_ns = server.loop.now_ns + server.keep_alive_ns
        self.mode = READING
        if self._mask != EPOLLIN or not self.due_tick or server.leaving:
            self.idle()

    def after_response(self) -> bool:
        """Go on after a response that another thread, or the outbox, has ended.

        True: the baton was lost, to a request that was pipelined behind it.
        """
        self.responded()
        return self._go_on()

    def idle(self) -> bool:
        """Watch for the next request. Returns False: no baton is lost here.

        Posted by `hand_back`; by then the leader may long have gone on with the stream.
        """
        if self.mode is READING:
            self._watch(EPOLLIN)
            if not self.due_tick:
                self._server.loop.timers.schedule(self, self.deadline_ns)
            if self._server.leaving:
                self._server.departure.let_go(self)
        return False

    def expire(self) -> None:
        """The deadline has passed. What that means depends on what was waited for."""
        mode = self.mode
        if mode is RUNNING or mode is Mode.WAITING:
            # The application's time is not the client's. Stay in the timers' care.
            self._set_deadline(self._server.keep_alive_ns)
        elif mode is READING and self.deadline_ns > self._server.loop.now_ns:
            # A thread has handed it back, with a new deadline, since the timers looked.
            self._server.loop.timers.schedule(self, self.deadline_ns)
        elif mode is READING and not self.connection.at_rest:
            self._refuse(ProtocolError(408, "the request did not come in time"))
        elif mode is READING or mode is Mode.LINGERING:
            self.close()
        elif mode is Mode.WRITING:
            self._gone(PeerGone("the client took nothing of the response for too long"))

    def close(self) -> None:
        """Close the socket. Any mode but RUNNING."""
        if self.mode is Mode.CLOSED:
            return
        self.mode = Mode.CLOSED
        self._unwatch()
        self._server.loop.timers.forget(self)
        self._server.streams.pop(self.fd, None)
        self.outbox.clear()
        if self.connection.state is not State.CLOSING:
            self.connection.fault()  # drops a body, or a part of one
        self._sock.close()

    @property
    def at_rest(self) -> bool:
        """The client owes us nothing and we owe it nothing. May be closed politely."""
        return self.mode is READING and self.connection.at_rest

    @property
    def movable(self) -> bool:
        """Between two requests, or in the head of one: another process can go on with it."""
        return (
            self.mode in (READING, Mode.WAITING)
            and self._request is None
            and self.connection.state <= State.RECEIVING_HEAD
            and self.connection.unparsed_bytes <= MAX_UNPARSED_BYTES
        )

    def parcel(self) -> Parcel | None:
        """Return what must travel when this connection is handed over; None if it cannot."""
        if not self.movable:
            return None
        unparsed = self.connection.unparsed()
        return Parcel(self.hops + 1, self.listener, self.deadline_ns, unparsed)

    def keep_deadline(self, deadline_ns: int) -> None:
        """A head that was begun at another worker has no more time here than it had there."""
        if self.mode is READING and self.connection.state is State.RECEIVING_HEAD:
            self._server.loop.timers.schedule(self, min(deadline_ns, self.deadline_ns))

    def park(self) -> None:
        """Wait for a free thread. Unregistered, or level-triggered events would spin."""
        self.mode = Mode.WAITING
        self._unwatch()

    def cut(self) -> None:
        """The worker ends at once: whoever runs this request finds its client gone.

        Not closed: the number is the running thread's to use until it hands back.
        """
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("%s: %s", self.peer, error)

    def detach(self) -> None:
        """Stop watching, before the descriptor is handed over."""
        self._unwatch()

    def attach(self) -> None:
        """Nobody took it: watch again, unless it waits for a thread."""
        if self.mode is READING:
            self._watch(EPOLLIN)

    def _go_on(self) -> bool:
        """Take up what was pipelined. True: the baton was lost."""
        if self.mode or not self.connection.has_unread:
            return False
        return self.received(None)

    def _run(self, crowded: bool) -> bool:
        """Give the whole request to the application, now or when a thread is free."""
        if crowded:
            self._server.wait_for_thread(self)
            return False
        self.mode = RUNNING
        return self._server.dispatcher.run(self)

    def _wait_for_more(self) -> None:
        connection = self.connection
        server = self._server
        if connection.state is State.RECEIVING_BODY:
            if connection.wants_continue:
                connection.wants_continue = False
                try:
                    self._send(CONTINUE, DONTWAIT)
                except OSError as error:
                    self._gone(error)
                    return
            self._set_deadline(server.body_ns)
        elif connection.state is State.RECEIVING_HEAD and connection.head_just_began:
            # Once per head: more bytes do not buy more time.
            self._set_deadline(server.header_ns)
        self._has_turn = False
        self.idle()

    def _on_event_out_of_turn(self, mask: int) -> bool:
        mode = self.mode
        if mode is RUNNING:
            self._unwatch()
            # The thread sets `mode`, then reads `_mask`; we clear `_mask`, then read
            # `mode`. Whichever came first, one of us watches the descriptor again.
            if self.mode is READING:
                self._watch(EPOLLIN)
        elif mode is Mode.WRITING:
            return self._drain()
        elif mode is Mode.LINGERING:
            self._linger()
        return False

    def _wait_unread(self) -> None:
        """No thread is free, or others wait for one already.

        Not read: as long as the request stays in the socket, a sibling can take it. But
        looked at, for a client that has gone waits for nothing.
        """
        try:
            if not self._receive(1, DONTWAIT | socket.MSG_PEEK):
                self._end_of_file()
                return
        except BlockingIOError:
            self.idle()
            return
        except OSError as error:
            self._gone(error)
            return
        self._server.wait_for_thread(self)

    def _end_of_file(self) -> None:
        # A half-closed client gets its answer: it is in mode RUNNING or WRITING until
        # then. Here nothing is owed to it, or its request will never be whole.
        self.close()

    def _gone(self, error: Exception) -> None:
        log.debug("%s: connection lost: %s", self.peer, error)
        self._keep_alive = False
        self._request = None
        self.close()

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what is not a request, then close so that the answer can be read."""
        server = self._server
        if self.connection.state is not State.CLOSING:
            self.connection.fault()
        log.debug("%s: refused: %s", self.peer, error)
        server.refused(self, error)
        page = error_page(error.status, date=server.date)
        try:
            self._send(page, DONTWAIT)  # a few hundred bytes: the socket takes all or nothing
        except OSError as gone:
            self._gone(gone)
            return
        self._start_lingering()

    def _finish(self) -> None:
        """The last response is out."""
        self.connection.done_and_closed()
        try:
            unread = self.connection.has_unread or bool(
                self._receive(1, DONTWAIT | socket.MSG_PEEK)
            )
        except OSError:  # EAGAIN: nothing has come; or the client is gone
            unread = False
        if unread:
            self._start_lingering()
        else:
            self.mode = READING
            self.close()

    def _start_lingering(self) -> None:
        """Half-close, then read until the client closes too (RFC 9112 section 9.6).

        close() with unread bytes in the socket sends a reset, and a reset can overtake
        the response in the client's kernel.
        """
        self.mode = Mode.LINGERING
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._gone(error)
            return
        self._set_deadline(self._server.linger_ns)
        self._watch(EPOLLIN)

    def _linger(self) -> None:
        try:
            data = self._receive(RECEIVE_BYTES, DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error)
            return
        self._lingered += len(data)
        if not data or self._lingered > LINGER_BYTES:
            self.close()

    def _drain(self) -> bool:
        """Send more of the outbox. True: the baton was lost (to a pipelined request)."""
        try:
            emptied = self.outbox.drain()
        except OSError as error:
            self._gone(error)
            return False
        if not emptied:
            self._set_deadline(self._server.write_ns)  # the client took something
            return False
        self._keep_alive = self._keep_alive and not self.outbox.cut_short
        return self.after_response()

    def _watch(self, mask: int) -> None:
        if self._mask == mask:
            return
        loop = self._server.loop
        if self._mask:
            loop.modify(self.fd, mask)
        else:
            loop.register(self.fd, mask, self.on_event)
        self._mask = mask

    def _unwatch(self) -> None:
        if self._mask:
            self._mask = 0
            self._server.loop.unregister(self.fd)

    def _set_deadline(self, timeout_ns: int) -> None:
        loop = self._server.loop
        loop.timers.schedule(self, loop.now_ns + timeout_ns)

    # -- the thread that runs the request -------------------------------------------------

    def respond(self) -> bool:
        """Run the application and send its response. True: it failed."""
        request = self._request
        assert request is not None
        server = self._server
        environ = self._environs.make(request)
        body: IO[bytes] | None = None
        if request.has_body:
            environ["wsgi.input"] = body = self.connection.take_body()
            if request.fields.chunked:
                environ["CONTENT_LENGTH"] = str(self.connection.body_length)
        else:
            environ["wsgi.input"] = BytesIO()
        exchange = Exchange(request, self.connection, self.outbox, server)
        server.handler.handle(environ, exchange)
        self._keep_alive = exchange.keep_alive
        self._request = None
        if body is not None:
            close_body(body)
        if server.access_log is not None:
            server.access_log.record(self.peer, request, exchange)
        return exchange.failed

    def hand_back(self) -> None:
        """Give the stream back to the leader. The last act of the running thread."""
        server = self._server
        self._has_turn = False
        if self.outbox.items or not self._keep_alive or self.connection.has_unread:
            # Still RUNNING, so nobody touches it before the leader makes this call.
            server.loop.post(self.after_response)
            return
        self.connection.done_and_kept()
        self.hops = 0
        self.deadline_ns = server.loop.clock_ns() + server.keep_alive_ns
        self.mode = READING  # from here on the leader may do anything with it
        # The leader may have stopped watching while we ran, or begun to leave: in both
        # cases it wrote first and read `mode` after, and we do the opposite.
        if not self._mask or server.leaving:
            server.loop.post(self.idle)
