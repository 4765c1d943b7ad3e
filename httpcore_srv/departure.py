"""How a worker leaves: its connections handed over, or closed politely.

    serving --DRAIN--> draining ---everything gone---> exiting --RUN--> serving
       |                 |  ^                             |
       |                 RUN|                             `--still DRAIN--> the loop ends
       `--STOP, manager gone--> stopping --everything gone--> the loop ends

DRAIN (one worker of many): connections move to siblings between two requests;
their clients notice nothing. A connection that no sibling can take is served here
until one can.

STOP (the whole server): there is nobody to hand anything to. Idle connections
linger, so that a request already on the wire is answered, with `Connection:
close`; new connections are answered too as long as anything lingers. Then the
accept queue is emptied a last time.

The worker decides when it is gone, not the manager: nothing can fall between
"looks idle" and "was told to go".
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from httpcore_srv.ports import Order

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer
    from httpcore_srv.stream import Stream

log = logging.getLogger("smart_http.worker")

RETRY_S: Final = 0.05  # between two looks for a sibling that takes what is left
ORPHAN_LINGER_S: Final = 2.0  # without a manager nobody says how long to linger


class Departure:
    """The orders a worker has been given, and how far it has come with them.

    Owned by the holder of the baton.
    """

    def __init__(self, server: HTTPServer, graceful_timeout_s: float) -> None:
        self.retry_s: float | None = None
        self._server = server
        self._order = Order.RUN
        self._graceful_ns = int(graceful_timeout_s * 1e9)
        self._linger_until_ns = 0
        self._give_up_ns = 0
        self._orphaned = False

    @property
    def accepts(self) -> bool:
        """Whether new connections are welcome: not while others are to take the load over."""
        return self._order is not Order.DRAIN

    def obey(self, word: int) -> None:
        """Do what the manager's word says. Words that are no order are none."""
        try:
            order = Order(word)
        except ValueError:
            log.error("the scoreboard holds no order but %d", word)
            return
        if order == self._order or self._orphaned:
            return
        self._order = order
        if order is Order.RUN:
            self._come_back()
        elif order is Order.NOW:
            self._server.loop.stop()
        else:
            self._begin(self._server.slot.linger_s())

    def manager_gone(self) -> None:
        """End-of-file on the lifeline: finish what is here, then leave."""
        log.error("the manager is gone; finishing what is in progress and leaving")
        self._orphaned = True
        self._order = Order.STOP
        self._begin(ORPHAN_LINGER_S)

    def let_go(self, stream: Stream) -> None:
        """A stream has come between two requests: hand it over if that is the order."""
        if self._order is Order.DRAIN:
            self._server.give_away(stream, only_free=False)

    def go_on(self) -> None:
        """Before each wait: move what can be moved, close what may be, see what is left."""
        server = self._server
        now_ns = server.loop.clock_ns()
        if self._order is Order.DRAIN:
            for stream in list(server.streams.values()):
                if stream.movable and not server.give_away(stream, only_free=False):
                    break  # nobody takes it now, so nobody takes the others
        elif now_ns >= self._linger_until_ns:
            for stream in list(server.streams.values()):
                if stream.at_rest:
                    stream.close()
        if now_ns >= self._give_up_ns:
            self._give_up()
        elif not server.streams and not server.pool.busy:
            self._leave()

    def _begin(self, linger_s: float) -> None:
        server = self._server
        now_ns = server.loop.clock_ns()
        server.leaving = True
        server.slot.draining()
        self.retry_s = RETRY_S
        self._linger_until_ns = now_ns + int(linger_s * 1e9)
        self._give_up_ns = now_ns + self._graceful_ns
        if self._order is Order.STOP:
            server.keeps_alive = False

    def _come_back(self) -> None:
        """RUN again: the manager found that it needs this worker after all."""
        server = self._server
        server.leaving = False
        self.retry_s = None
        server.keeps_alive = server.settings.timeouts.keep_alive_s > 0
        server.slot.ready()

    def _leave(self) -> None:
        """Nothing is left here: look once more whether that is still so, and go."""
        # Siblings stop choosing us now. What one has sent before it saw that is found by the
        # last look, or by the manager, which keeps a reading end of our inbox.
        self._server.slot.exiting()
        self._server.loop.post(self._last_look)

    def _last_look(self) -> bool:
        server = self._server
        lost = server.door.accept_all() if self._order is Order.STOP else False
        try:
            lost = lost or server.take_parcels(sys.maxsize)
        except OSError as error:  # no descriptor is left; the manager sends on what is there
            log.error("leaving what is in the inbox: %s", error.strerror)
        if lost:
            return True
        self.obey(server.slot.order())
        if not server.leaving:
            return False
        if server.streams or server.pool.busy:
            server.slot.draining()
            return False
        server.door.stop_listening()
        server.loop.stop()
        return False

    def _give_up(self) -> None:
        """The grace is over. A manager would kill us now; without one we must do it."""
        log.error("the graceful timeout is over: %d connections cut", len(self._server.streams))
        if self._orphaned:
            os._exit(1)
        self._server.loop.stop()
