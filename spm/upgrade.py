"""Upgrade: the server itself is replaced by a new one, started from what is on the disk now.

    IDLE --ask--> STARTING (a new server gets our sockets and starts) --"serving"--> LEAVING
      ^              |                                                  (our connections go
      '---it fails---'                                                   over; then we end)

Until the new server serves, nothing changes here, whatever becomes of it. From LEAVING on
there is no way back: the workers drain, and what they hand over goes through the relay
inbox to us, and over the bridge to the new server. If that one dies meanwhile, there is
nobody to hand anything to, and we stop as after SIGTERM.
"""

from __future__ import annotations

import enum
import logging
import os
import select
import signal
from collections.abc import Mapping
from typing import Final, Protocol

from .bridge import Bridge, News, bridge_pair
from .control import Answer
from .exit_status import ExitStatus
from .fleet import Fleet
from .ports import OperatingSystem
from .relaunch import Renewal
from .scoreboard import Scoreboard
from .settings import SPMS
from .siblings import Inboxes

_log = logging.getLogger("smart_http.spm")

_NS: Final = 1_000_000_000
# From SIGTERM to SIGKILL for a new server that was not ready in time.
_KILL_AFTER_S: Final = 5.0
# So many connections may wait for the bridge in the manager, each with a descriptor; the
# others wait in the relay inbox, and behind that in their workers.
_MOST_QUEUED: Final = 64


class Stage(enum.Enum):
    """Where the upgrade stands."""

    IDLE = "idle"
    STARTING = "starting"
    LEAVING = "leaving"


def _nobody(answer: Mapping[str, object]) -> None:
    """Nobody waits for the outcome: a signal asked for it, and the log tells."""


class Owner(Protocol):
    """What an upgrade wants of the manager."""

    def obstacle(self) -> str:
        """Return why there cannot be an upgrade just now; empty if there can."""

    def give_up_control(self) -> None:
        """Only leave, from here on: the new server serves."""

    def keep_control(self) -> None:
        """Go on: the new server has failed, perhaps after it took the pid file."""

    def stop_stranded(self) -> None:
        """Stop: nobody is left to hand anything to."""


class Upgrade:
    """The old server's side.

    renewal: how to start this server once more; None: that is not known.
    """

    def __init__(
        self,
        settings: SPMS,
        system: OperatingSystem,
        scoreboard: Scoreboard,
        inboxes: Inboxes,
        fleet: Fleet,
        owner: Owner,
        renewal: Renewal | None,
    ) -> None:
        self._settings = settings
        self._system = system
        self._scoreboard = scoreboard
        self._inboxes = inboxes
        self._fleet = fleet
        self._owner = owner
        self._renewal = renewal
        self._bridge: Bridge | None = None
        self._relay = _RelayReader(inboxes)
        self._relay_watched = False
        self._handing_over = False
        self._pid = 0
        self._deadline_ns = 0
        self._kill_ns = 0  # when a new server that was told to end gets SIGKILL; 0: never
        self._why = ""
        self._answer: Answer = _nobody
        self.stage = Stage.IDLE

    @property
    def leaving(self) -> bool:
        """Whether another server has taken over."""
        return self.stage is Stage.LEAVING

    def ask(self, answer: Answer = _nobody) -> None:
        """Begin an upgrade.

        answer: is told once how it went: {"ok": True, "pid": new}, {"ok": False, "why": text}.
        """
        why = self._refusal()
        if why:
            _log.error("no upgrade: %s", why)
            answer({"ok": False, "why": why})
            return
        assert self._renewal is not None
        command, sockets = self._renewal.command, self._renewal.sockets
        workers = sum(not handle.told_to_leave for handle in self._fleet)
        ours, theirs = bridge_pair()
        try:
            self._pid = self._system.start_successor(command, sockets.to_pass_on(), theirs, workers)
        except OSError as error:
            ours.close()
            why = f"no process can be started: {error.strerror or error}"
            _log.error("no upgrade: %s", why)
            answer({"ok": False, "why": why})
            return
        finally:
            theirs.close()
        _log.info("upgrade: starting a new server (pid %d); this one serves on", self._pid)
        self.stage = Stage.STARTING
        self._answer, self._why, self._kill_ns = answer, "", 0
        boot_ns = int(self._settings.boot_timeout_s * _NS)
        self._deadline_ns = self._system.now_ns() + boot_ns
        self._bridge = Bridge(
            self._system,
            ours,
            on_news=self._on_news,
            on_parcel=lambda message, fd: os.close(fd),  # it has none for us
            on_gone=self._on_gone,
        )
        self._bridge.open()

    def _refusal(self) -> str:
        if self.stage is Stage.STARTING:
            return f"one is under way already: process {self._pid} is starting"
        if self.stage is Stage.LEAVING:
            return f"process {self._pid} has taken over already"
        if os.getpid() == 1:
            return (
                "this server is process 1, and a container ends with it; start a new container"
                " (SIGHUP reloads the application)"
            )
        if self._renewal is None or not self._renewal.command.program:
            return "it is not known how this server was started"
        return self._owner.obstacle()

    def forward(self, number: int) -> None:
        """This server was told to stop: one that is still starting stops as well."""
        if self.stage is Stage.STARTING:
            self._why = "this server was stopped meanwhile"
            patience_s = self._settings.graceful_timeout_s + _KILL_AFTER_S
            self._kill_ns = self._system.now_ns() + int(patience_s * _NS)
            self._system.signal_successor(number)

    def advance(self) -> None:
        """Do what is due; at each tick."""
        if self.stage is Stage.STARTING:
            self._limit_starting()
        elif self._bridge is not None:
            self._bridge.flush()
            self._read_relay()

    def is_over(self) -> bool:
        """Whether nothing is left to be done here, once there is no worker any more."""
        if self.stage is Stage.IDLE:
            return True
        if self.stage is Stage.STARTING:
            return False  # it gets our signal, and its time
        assert self._bridge is not None
        self._read_relay()
        self._fleet.sweep_mail()
        if self._handing_over and (self._bridge.queued or self._fleet.undelivered):
            if self._system.now_ns() < self._deadline_ns:
                return False
            self._bridge.close()
            self._read_relay()
            self._fleet.sweep_mail()
        lost = self._bridge.lost
        if lost:
            _log.error("%d connections could not be handed over and are closed", lost)
        elif self._handing_over:
            _log.info("process %d has taken everything over; this server ends", self._pid)
        return True

    def close(self) -> None:
        """Close what belongs to an upgrade."""
        self._watch_relay(wanted=False)
        self._fleet.outlet = None
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None

    # --- while the new server starts ------------------------------------------------------

    def _limit_starting(self) -> None:
        now_ns = self._system.now_ns()
        if not self._kill_ns and now_ns >= self._deadline_ns:
            # SIGTERM first: it ends its template as well, which hangs perhaps in an import.
            self._why = f"it did not serve within {self._settings.boot_timeout_s:g} s"
            _log.error("upgrade: %s; ending process %d", self._why, self._pid)
            self._kill_ns = now_ns + int(_KILL_AFTER_S * _NS)
            self._system.signal_successor(signal.SIGTERM)
        elif 0 < self._kill_ns <= now_ns:
            self._kill_ns = now_ns + int(_KILL_AFTER_S * _NS)
            self._system.signal_successor(signal.SIGKILL)

    def _on_news(self, news: News) -> None:
        if news["news"] == "failed":
            self._why = str(news["why"]).partition("\n")[0]
        elif news["news"] == "serving" and self.stage is Stage.STARTING and not self._kill_ns:
            self._hand_over(news["format"])

    def note_ended(self, status: ExitStatus | None) -> None:
        """The new server's process is gone."""
        if self.stage is Stage.LEAVING:
            _log.error("the new server has ended: %s", status or "cause unknown")
            if self._bridge is not None and self._bridge.is_open:
                # A process that it has started may hold its end open.
                self._bridge.close()
                self._on_gone()
            return
        ended = f"the new server ended: {status or 'cause unknown'}"
        why = self._why or f"{ended}; its log says why"
        _log.error("upgrade failed: %s; this server serves on", why)
        self.close()
        self.stage = Stage.IDLE
        self._owner.keep_control()
        self._answer({"ok": False, "why": why})

    def _on_gone(self) -> None:
        if self.stage is Stage.STARTING:
            # It is about to end, which its pidfd will say.
            patience_s = self._settings.graceful_timeout_s + _KILL_AFTER_S
            self._kill_ns = self._system.now_ns() + int(patience_s * _NS)
        elif self.stage is Stage.LEAVING:
            _log.error("the new server has gone; stopping gracefully")
            self._scoreboard.set_relay(is_open=False)
            self._owner.stop_stranded()

    # --- while this one leaves ------------------------------------------------------------------

    def _hand_over(self, parcel_format: int) -> None:
        assert self._bridge is not None
        assert self._renewal is not None
        _log.info("the new server serves (pid %d); handing connections over", self._pid)
        self.stage = Stage.LEAVING
        # The workers have so long, and then the new server to take what they leave.
        patience_s = self._settings.graceful_timeout_s + _KILL_AFTER_S
        self._deadline_ns = self._system.now_ns() + int(patience_s * _NS)
        self._owner.give_up_control()
        self._renewal.sockets.disown()
        self._bridge.tell({"news": "yours"})
        if parcel_format == self._renewal.parcel_format:
            self._open_relay()
        else:
            _log.warning("it is of another version: connections end here, each after its request")
            self._owner.stop_stranded()
        self._answer({"ok": True, "pid": self._pid})

    def _open_relay(self) -> None:
        self._handing_over = True
        # Before the first worker is told to go: it finds the way open.
        self._scoreboard.set_relay(is_open=True)
        self._gate()
        for handle in self._fleet:
            if not handle.told_to_leave:
                self._fleet.drain(handle)

    def _carry(self, message: bytes, fd: int) -> None:
        """Send a connection over the bridge, and no more than it takes."""
        assert self._bridge is not None
        self._bridge.carry(message, fd)
        self._gate()

    def _gate(self) -> None:
        """Take connections in, from relay and inboxes, only while there is room for them."""
        assert self._bridge is not None
        has_room = self._handing_over and self._bridge.queued < _MOST_QUEUED
        self._fleet.outlet = self._carry if has_room else None
        self._watch_relay(wanted=has_room)

    def _read_relay(self) -> None:
        """Carry what workers have put into the relay over the bridge."""
        self._gate()
        while self._relay_watched:
            try:
                parcel = self._inboxes.take(self._inboxes.relay)
            except OSError as error:  # no descriptor is left: it is safe where it is
                _log.error("relay: %s", error.strerror)
                self._watch_relay(wanted=False)
                return
            if parcel is None:
                return
            if parcel[1] >= 0:
                self._carry(*parcel)

    def _watch_relay(self, *, wanted: bool) -> None:
        if wanted and not self._relay_watched:
            self._system.watch(self._relay, select.EPOLLIN, lambda _: self._read_relay())
        elif not wanted and self._relay_watched:
            self._system.unwatch(self._relay)
        self._relay_watched = wanted


class _RelayReader:
    """The relay inbox, to be watched. The inboxes close it."""

    def __init__(self, inboxes: Inboxes) -> None:
        self._inboxes = inboxes

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self._inboxes.fileno(self._inboxes.relay)

    def close(self) -> None:
        """Leave it open: every process has it, and a worker closes it with the others."""
