"""Intake: how a stream takes in the body of a request, waiting for all of it or not."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from httpcore_srv.live_body import LiveBody
from httpcore_srv.mode import RUNNING
from httpcore_srv.pace import due_ns
from httpcore_srv.way_out import WayOut

if TYPE_CHECKING:
    from httpcore_srv.dispatcher import LiveRun
    from httpcore_srv.server import HTTPServer


class Intake(WayOut):
    """The part of a stream that has to do with bodies on their way."""

    __slots__ = ("_body_began_ns",)

    def __init__(self, server: HTTPServer, sock: socket.socket, peer: str) -> None:
        super().__init__(server, sock, peer)
        self._body_began_ns = 0  # when the body that is being received began to be waited for

    def begin_live(self, run: LiveRun) -> None:
        """Give the request to the application before its body is whole, on the run's thread."""
        connection = self.connection
        server = self._server
        self._request = connection.hand_out()
        self.mode = RUNNING
        # More will come, and is the running thread's to read. Watched again in `hand_back`.
        self.unwatch()
        now_ns = server.loop.now_ns
        self._live_body = LiveBody(
            self._sock,
            connection.take_body(),
            connection.body_left,
            server.body_terms,
            run,
            self._body_came,
            now_ns - (self._body_began_ns or now_ns),
        )

    def _body_came(self) -> None:
        """The application has read its request's body to the end. Its thread, or another."""
        self.connection.body_came()
        exchange = self.exchange
        if exchange is not None:  # else another thread has read on while the request ended
            exchange.body_came()

    def _await_body(self) -> None:
        """Expect more of the body, in time and at a rate."""
        server = self._server
        now_ns = server.loop.now_ns
        if not self._body_began_ns:
            self._body_began_ns = now_ns
        received = self.connection.received_bytes
        patience_ns, min_rate = server.body_ns, server.settings.timeouts.min_rate
        due = due_ns(self._body_began_ns, now_ns, received, patience_ns, min_rate)
        server.loop.timers.schedule(self, due)
