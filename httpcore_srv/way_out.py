"""WayOut: the way of responses out of a stream, from the moment in which a thread has made them.

    held (see Dispatcher.serve_out) -> socket -> outbox: what the socket does not take -> ...
    and after the last one: half-close, read and drop, close

All of it is the leader's, but for `send_held` of a stream whose thread is stuck.
"""

from __future__ import annotations

import logging
import select
import socket
from typing import TYPE_CHECKING, Final

from httpcore_srv.connection import Connection, State
from httpcore_srv.errors import PeerGone, ProtocolError
from httpcore_srv.farewell import Farewell
from httpcore_srv.live_body import LiveBody
from httpcore_srv.messages import RequestHead
from httpcore_srv.mode import READING, RUNNING, Mode
from httpcore_srv.outbox import RevocableOutbox
from httpcore_srv.ports import Incident
from httpcore_srv.response_writer import error_page
from httpcore_srv.wire import DONTWAIT, Wire
from httpcore_srv.wsgi import Exchange

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer

log = logging.getLogger("smart_http.worker")

EPOLLIN: Final = select.EPOLLIN
EPOLLOUT: Final = select.EPOLLOUT


class WayOut(Wire):
    """What a `Stream` sends, and how it ends."""

    __slots__ = (
        "_farewell",
        "_keep_alive",
        "_live_body",
        "_receive",
        "_request",
        "_send",
        "_server",
        "connection",
        "exchange",
        "hops",
        "mode",
        "outbox",
        "peer",
    )

    def __init__(self, server: HTTPServer, sock: socket.socket, peer: str) -> None:
        super().__init__(server.loop, sock)
        self.peer = peer
        live = server.settings.max_streams > 0
        self.connection = Connection(server.settings.limits, server.store, live=live)
        self.mode = READING
        self.hops = 0  # times handed on without a request served
        self.outbox = server.make_outbox(sock, self._step_aside)
        self._server = server
        self._receive = sock.recv
        self._send = sock.send
        self._keep_alive = True
        self._farewell: Farewell | None = None
        self._request: RequestHead | None = None
        self._live_body: LiveBody | None = None  # of the request that runs
        self.exchange: Exchange | None = None  # of the request that runs; any thread may look

    def idle(self) -> bool:
        """Watch for the next request. Returns False: no baton is lost here."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket. Any mode but RUNNING."""
        raise NotImplementedError

    def _step_aside(self) -> bool:
        """The running thread must wait for its client. False: not for long."""
        raise NotImplementedError

    def send_held(self) -> bool:
        """Send the responses that are held. True: try again soon, the rest is held still."""
        outbox = self.outbox
        if self.mode is RUNNING:
            return outbox.send_held_of_stuck()
        if outbox.held:
            outbox.send_held()
            if self.mode or outbox.items or outbox.broken:
                self._written()
        return False

    def stop_gathering(self) -> None:
        """Have whatever is sent from now on go out at once."""
        self.outbox.gathers = False

    def _written(self) -> None:
        """Everything has been given to the socket, or is for the leader to give: go on."""
        outbox = self.outbox
        outbox.send_held()
        server = self._server
        if outbox.broken:
            self.close()
        elif outbox.items:
            self.mode = Mode.WRITING
            outbox.begin_wait()
            self.set_deadline(server.write_ns)
            self.watch(EPOLLOUT)
        elif not self._keep_alive:
            self._finish()
        else:
            connection = self.connection
            if connection.state is State.RESPONDING:
                connection.done_and_kept()
            self.hops = 0
            self.mode = READING
            if connection.at_rest:
                self.deadline_ns = server.loop.now_ns + server.keep_alive_ns
            else:
                self.set_deadline(server.header_ns)
            if self._mask != EPOLLIN or not self.due_tick or server.leaving:
                self.idle()

    def _await_reader(self) -> None:
        """Expect the client to take more of the response, in time and at a rate."""
        server = self._server
        due = self.outbox.due_ns(server.write_ns)
        if due > server.loop.now_ns:
            server.loop.timers.schedule(self, due)
        else:
            server.count(Incident.STALLED)
            self._gone(PeerGone("the client takes the response too slowly"))

    def refuse(self, error: ProtocolError) -> None:
        """Answer what is not a request, then close so that the answer can be read."""
        server = self._server
        if self.connection.state is not State.CLOSING:
            self.connection.fault()
        log.debug("%s: refused: %s", self.peer, error)
        request, self._request = self._request, None
        self.exchange = self._live_body = None
        server.refused(self.peer, request, error.status)
        extra = f"Retry-After: {error.retry_after_s}\r\n" if error.retry_after_s else ""
        is_head = request is not None and request.method == "HEAD"
        page = error_page(error.status, date=server.date, is_head=is_head, extra=extra)
        if self.outbox.held:
            self.outbox.held.append(page)
            self._keep_alive = False
            self._written()
            return
        try:
            self._send(page, DONTWAIT)  # a few hundred bytes: the socket takes all or nothing
        except OSError as gone:
            self._gone(gone)
            return
        self._start_lingering()

    def _finish(self) -> None:
        """The last response is out."""
        if self.connection.state is State.CLOSING:  # it was a refusal: more may come
            self._start_lingering()
            return
        self.connection.done_and_closed()
        try:
            unread = self.connection.has_unread or self.has_unread()
        except OSError:  # EAGAIN: nothing has come; or the client is gone
            unread = False
        if unread:
            self._start_lingering()
        else:
            self.mode = READING
            self.close()

    def _start_lingering(self) -> None:
        self.mode = Mode.LINGERING
        server = self._server
        self._farewell = Farewell(self._receive, server.loop.now_ns, server.linger_ns)
        try:
            self.half_close()
        except OSError as error:
            self._gone(error)
            return
        self.set_deadline(server.linger_ns)
        self.watch(EPOLLIN)

    def _linger(self) -> None:
        assert self._farewell is not None
        if self._farewell.is_over():
            self.close()
        else:
            loop = self._server.loop
            loop.timers.schedule(self, self._farewell.due_ns(loop.now_ns))

    def revoke(self) -> bool:
        """Keep the running thread from responding; False if it has begun to."""
        if not (isinstance(self.outbox, RevocableOutbox) and self.outbox.revoke()):
            return False
        if self._live_body is not None:
            self._live_body.close()
        return True

    def _gone(self, error: Exception) -> None:
        log.debug("%s: connection lost: %s", self.peer, error)
        self._keep_alive = False
        self._request = None
        self.close()
