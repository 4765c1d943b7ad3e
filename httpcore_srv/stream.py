"""Stream: one accepted socket with its Connection, its outbox and its deadline.

Who may touch it is said in `mode.py`. Only the leader closes, registers or unregisters
the descriptor: a number closed by another thread could be given to a new connection
under the loop's feet.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from io import BytesIO
from typing import IO, TYPE_CHECKING, Final

from httpcore_srv.connection import State, close_body
from httpcore_srv.environ import Environ, Environs
from httpcore_srv.errors import ProtocolError
from httpcore_srv.intake import Intake
from httpcore_srv.live_body import LiveBody
from httpcore_srv.mode import READING, RUNNING, Mode
from httpcore_srv.outbox import RevocableOutbox
from httpcore_srv.parcel import MAX_UNPARSED_BYTES, Parcel
from httpcore_srv.ports import Incident
from httpcore_srv.way_out import EPOLLIN
from httpcore_srv.wire import DONTWAIT
from httpcore_srv.wsgi import Exchange

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer

log = logging.getLogger("smart_http.worker")

RECEIVE_BYTES: Final = 65536  # one recv(2); the largest head and many a body fit in it
PIPELINE_RUN: Final = 64  # requests of one client in a row before the others have a turn
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Stream(Intake):
    """One client's socket."""

    __slots__ = (
        "_environs",
        "_has_turn",
        "is_new",
        "listener",
    )

    def __init__(
        self, server: HTTPServer, sock: socket.socket, peer: str, listener: int, base: Environ
    ) -> None:
        super().__init__(server, sock, peer)
        self.listener = listener
        self.is_new = True  # no request of it has been served yet, here
        self._has_turn = False  # it has waited for a thread, and one is free
        base["wsgi.early_hints"] = self._early_hints
        # The second name is for applications that come from waitress.
        base["smart_http.client_gone"] = base["waitress.client_disconnected"] = self.peer_has_closed
        self._environs = Environs(base)

    @property
    def kind(self) -> int:
        """The kind of the request that runs; 0 if none does. Any thread."""
        request = self._request
        return 0 if request is None else hash((request.method, request.path))

    # -- the leader ---------------------------------------------------------------------

    def on_event(self, mask: int) -> bool:
        """The socket is ready. True: the baton was lost."""
        if self.mode:
            return self._on_event_out_of_turn(mask)
        server = self._server
        # `_is_crowded`, spelt out for the hot path.
        crowded = server.pool.busy >= server.max_threads or (
            len(server.waiting) > 0 and not self._has_turn
        )
        if crowded and self.connection.at_rest:
            self._wait_unread()
            return False
        try:
            data = self._receive(RECEIVE_BYTES, DONTWAIT)
        except BlockingIOError:
            return self.idle()
        except (OSError, MemoryError) as error:
            self._gone(error)
            return False
        if not data:
            # A half-closed client gets its answer: it is in mode RUNNING or WRITING until
            # then. Here nothing is owed to it, or its request will never be whole.
            self.send_held()
            if self.mode is READING:
                self.close()
            return False
        return self._take_in(data, crowded)

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
            if data is None and crowded:
                self.send_held()
                if self.mode:
                    return False  # it goes on when its client has taken that
            try:
                request = connection.next_request() if data is None else connection.receive(data)
            except ProtocolError as error:
                self.refuse(error)
                return False
            except MemoryError:
                self.refuse(self._server.store.full())
                return False
            if request is None:
                self._wait_for_more()
                return False
            self._request = request
            if crowded:
                self._server.line.wait_for_thread(self)
                return False
            if self._run():
                return True
            if self.mode or not connection.has_unread:
                return False
            data = None
            crowded = self._is_crowded()
        # Whoever pipelines without end goes to the end of the queue. Parked, so that
        # nothing more is read before what is here has been answered.
        self._has_turn = False
        self.send_held()
        if self.mode is READING:
            self._server.line.wait_for_turn(self)
        return False

    def resume(self) -> bool:
        """A thread may be free: go on after WAITING. True: the baton was lost."""
        if self.mode is not Mode.WAITING:
            return False
        self.mode = READING
        self._has_turn = True
        self.connection.release()
        if self._request is None:
            return self.received(None) if self.connection.has_unread else self.on_event(EPOLLIN)
        if self._is_crowded():
            self._server.line.wait_for_thread(self)
            return False
        return self._run() or self._go_on()

    def responded(self) -> bool:
        """The request has ended that ran on this thread. True: its response is held."""
        exchange, outbox, server = self.exchange, self.outbox, self._server
        assert exchange is not None
        self._conclude(exchange)
        if not outbox.held or outbox.items or outbox.broken:
            self._written()
            return False
        if not self._keep_alive:
            self.mode = Mode.WRITING
            return True
        self.connection.done_and_kept()
        self.hops = 0
        self.deadline_ns = server.loop.now_ns + server.keep_alive_ns
        self.mode = READING
        if self._mask != EPOLLIN or not self.due_tick:
            self.idle()
        return True

    def after_response(self) -> bool:
        """Go on after a response that another thread, or the outbox, has ended.

        True: the baton was lost, to a request that was pipelined behind it.
        """
        self._written()
        return self._go_on()

    def idle(self) -> bool:
        """Watch for the next request. Returns False: no baton is lost here.

        Posted by `hand_back`; by then the leader may long have gone on with the stream.
        """
        if self.mode is READING:
            self.watch(EPOLLIN)
            if not self.due_tick:
                self._server.loop.timers.schedule(self, self.deadline_ns)
            if self._server.leaving:
                self._server.departure.let_go(self)
        return False

    def expire(self) -> None:
        """The deadline has passed. What that means depends on what was waited for."""
        mode = self.mode
        server = self._server
        if mode is RUNNING or (mode is Mode.WAITING and not server.queue_ns):
            # The application's time is not the client's. Stay in the timers' care.
            self.set_deadline(server.keep_alive_ns)
        elif mode is Mode.WAITING:
            server.line.leave(self)
            server.count(Incident.QUEUE_TIMEOUT)
            self.refuse(ProtocolError(503, "no thread was free in time", retry_after_s=1))
        elif mode is READING and self.deadline_ns > server.loop.now_ns:
            # A thread has handed it back, with a new deadline, since the timers looked.
            server.loop.timers.schedule(self, self.deadline_ns)
        elif mode is READING and not self.connection.at_rest:
            self.refuse(ProtocolError(408, "the request did not come in time"))
        elif mode is READING or mode is Mode.LINGERING:
            self.close()
        elif mode is Mode.WRITING:
            self._await_reader()

    def close(self) -> None:
        """Close the socket. Any mode but RUNNING."""
        if self.mode is Mode.CLOSED:
            return
        self.mode = Mode.CLOSED
        self._server.forget(self)
        self.outbox.close()
        self._environs.forget()
        if self.connection.state is not State.CLOSING:
            self.connection.fault()  # drops a body, or a part of one
        self.close_socket()

    @property
    def at_rest(self) -> bool:
        """The client owes us nothing and we owe it nothing. May be closed politely."""
        return self.mode is READING and self.connection.at_rest and not self.outbox.held

    @property
    def movable(self) -> bool:
        """Between two requests, or in the head of one: another process can go on with it."""
        return (
            self.mode in (READING, Mode.WAITING)
            and not self.outbox.held
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

    def park(self) -> bool:
        """Wait for a free thread, unwatched. False: there is no room for what must wait."""
        try:
            self.connection.hold()
        except ProtocolError as error:
            self.refuse(error)
            return False
        self.mode = Mode.WAITING
        self.unwatch()
        if self._server.queue_ns:
            self.set_deadline(self._server.queue_ns)
        return True

    def cut(self) -> None:
        """The worker ends at once: whoever runs this request finds its client gone."""
        try:
            self.shut_down()
        except OSError as error:
            log.debug("%s: %s", self.peer, error)

    def _go_on(self) -> bool:
        """Take up what was pipelined. True: the baton was lost."""
        if self.mode or not self.connection.has_unread:
            return False
        return self.received(None)

    def _run(self) -> bool:
        """Have the whole request run. True: the baton was lost."""
        self.mode = RUNNING
        dispatcher = self._server.dispatcher
        # Before the baton is laid down: whoever takes it may have to undo this.
        self.outbox.gathers = dispatcher.gathers
        return dispatcher.run(self)

    def _wait_for_more(self) -> None:
        connection = self.connection
        server = self._server
        if connection.state is State.RECEIVING_BODY:
            if connection.may_go_live and not self._is_crowded():
                self.send_held()
                # A client that does not take its responses is to do that first.
                if self.mode or server.dispatcher.run_live(self):
                    return
            if connection.wants_continue:
                connection.wants_continue = False
                try:
                    if self.outbox.held:
                        self.outbox.held.append(CONTINUE)
                    else:
                        self._send(CONTINUE, DONTWAIT)
                except OSError as error:
                    self._gone(error)
                    return
            self._await_body()
        elif connection.state is State.RECEIVING_HEAD and connection.head_just_began:
            # Once per head: more bytes do not buy more time.
            self.set_deadline(server.header_ns)
        self._has_turn = False
        self.idle()

    def _drain(self) -> bool:
        """Send more of the outbox. True: the baton was lost (to a pipelined request)."""
        try:
            emptied = self.outbox.drain()
        except OSError as error:
            self._gone(error)
            return False
        if not emptied:
            self._await_reader()
            return False
        self._keep_alive = self._keep_alive and not self.outbox.cut_short
        return self.after_response()

    def _on_event_out_of_turn(self, mask: int) -> bool:
        mode = self.mode
        if mode is RUNNING:
            self.unwatch()
            # The thread sets `mode`, then reads `_mask`; we clear `_mask`, then read
            # `mode`. Whichever came first, one of us watches the descriptor again.
            if self.mode is READING:
                self.watch(EPOLLIN)
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
            if not self.has_unread():
                self.close()
                return
        except BlockingIOError:
            self.idle()
            return
        except OSError as error:
            self._gone(error)
            return
        self._server.line.wait_for_thread(self)

    # -- the thread that runs the request -------------------------------------------------

    def respond(self) -> bool:
        """Run the application and send its response, or hold it. True: it failed."""
        request = self._request
        assert request is not None
        server = self._server
        environ = self._environs.make(request)
        body: IO[bytes] | LiveBody | None = None
        live: LiveBody | None = None
        if request.has_body:
            live = self._live_body
            if live is not None:
                body = live
                environ["wsgi.input"] = live.open()
            else:
                environ["wsgi.input"] = body = self.connection.take_body()
            if request.fields.chunked:
                environ["CONTENT_LENGTH"] = str(self.connection.body_length)
        else:
            environ["wsgi.input"] = BytesIO()
        outbox = self.outbox
        if server.request_ns and isinstance(outbox, RevocableOutbox):
            outbox.renew()
        exchange = self.exchange = Exchange(request, self.connection, outbox, server)
        if live is not None:
            exchange.keep_alive = False  # until the body has come
        server.handler.handle(environ, exchange)
        if body is not None:
            close_body(body)
        return exchange.failed

    def hand_back(self) -> None:
        """Give the stream back to the leader. The last act of the running thread."""
        server = self._server
        exchange = self.exchange
        assert exchange is not None
        self._conclude(exchange)
        self._has_turn = False
        outbox = self.outbox
        if outbox.items or outbox.held or not self._keep_alive or self.connection.has_unread:
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

    def _conclude(self, exchange: Exchange) -> None:
        """Note how the request ended. Whoever owns the stream, once."""
        self._keep_alive = exchange.keep_alive and not self.outbox.broken
        access_log = self._server.access_log
        if access_log is not None:
            assert self._request is not None
            access_log.record(self.peer, self._request, exchange.status, exchange.sent)
        self._request = self.exchange = self._live_body = None
        self._body_began_ns = 0
        self.is_new = False

    def _step_aside(self) -> bool:
        """The running thread must wait for its client. False: not for long."""
        self.outbox.gathers = False  # it leads no more
        return self._server.dispatcher.wait_aside(self)

    def _early_hints(self, headers: Sequence[tuple[str, str]]) -> None:
        """`wsgi.early_hints`: send a 103 before the response. The running thread."""
        exchange = self.exchange
        if exchange is not None:
            exchange.early_hints(headers)
