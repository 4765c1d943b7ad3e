"""Succession: the new server's side of an upgrade.

It starts beside the old one, on the same sockets. When as many workers are ready as are
needed, it takes control (pid file, control socket), says "serving", and takes in the
connections that the old one hands over, until that one has left.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

from .bridge import Bridge, News
from .fleet import Fleet
from .observation import WorkerState
from .ports import OperatingSystem
from .relaunch import Renewal

_log = logging.getLogger("smart_http.spm")

# So many connections may lie with the manager, each with a descriptor, before it stops to
# take in more; they wait in the old server then.
_MOST_UNDELIVERED: Final = 128


class Succession:
    """What the new server knows of the old one.

    renewal: with an inheritance.
    take_control: called once, when this server is the one that serves.
    """

    def __init__(
        self,
        renewal: Renewal,
        system: OperatingSystem,
        fleet: Fleet,
        *,
        take_control: Callable[[], None],
    ) -> None:
        inheritance = renewal.inheritance
        assert inheritance is not None
        self.predecessor = inheritance.predecessor
        self._fleet = fleet
        self._take_control = take_control
        self._own = renewal.sockets.own
        self._format = renewal.parcel_format
        self._in_control = False
        self._paused = False
        self._received = 0
        self._bridge = Bridge(
            system,
            socket.socket(fileno=inheritance.bridge),
            on_news=self._on_news,
            on_parcel=self._on_parcel,
            on_gone=self._on_gone,
        )

    def open(self) -> None:
        """Begin to hear the old server. Before anything is forked: see System.watch."""
        self._bridge.open()

    @property
    def under_way(self) -> bool:
        """Whether the old server is still there."""
        return self._bridge.is_open

    def advance(self, needed: int) -> None:
        """Do what is due; at each tick, after the fleet was looked at.

        needed: how many workers must be ready before the old server may go.
        """
        if not self._in_control:
            ready = sum(handle.state is WorkerState.READY for handle in self._fleet)
            if ready >= needed or not self._bridge.is_open:
                self._in_control = True
                self._take_control()
                self._bridge.tell({"news": "serving", "format": self._format})
                if not self._bridge.is_open:
                    self._own()
        self._bridge.flush()
        if self._paused and self._fleet.undelivered < _MOST_UNDELIVERED:
            self._paused = False
            self._bridge.resume()

    def close(self, failure: Exception | None = None) -> None:
        """Close the bridge: a server that ends takes in nothing more.

        failure: why it ends, for whoever waits for it at the old server.
        """
        if failure is not None:
            self._bridge.tell({"news": "failed", "why": str(failure)})
        self._bridge.close()

    def _on_news(self, news: News) -> None:
        if news["news"] == "yours":
            self._own()

    def _on_parcel(self, message: bytes, fd: int) -> None:
        self._received += 1
        self._fleet.deliver(message, fd)
        if self._fleet.undelivered >= _MOST_UNDELIVERED:
            self._paused = True
            self._bridge.pause()

    def _on_gone(self) -> None:
        _log.info(
            "the old server (pid %d) has left; %d connections came over",
            self.predecessor,
            self._received,
        )
        if self._in_control:
            # Also when it died before it could leave them to us.
            self._own()
