"""Reload: which generation of the application serves, and how the next takes over.

    IDLE -> LOADING (new template imports) -> RISING (its workers start) -> LEAVING (the
    old ones drain) -> IDLE

A failure in LOADING or RISING leads back to IDLE with the old generation serving; from
LEAVING on there is no way back, and none is needed. A request for a reload during a
reload is remembered, and answered once when this one is over.
"""

from __future__ import annotations

import enum
import logging
from typing import Final

from .fleet import Fleet
from .observation import WorkerState
from .ports import OperatingSystem
from .scoreboard import RUN, Scoreboard
from .settings import SPMS
from .templates import Templates

_log = logging.getLogger("smart_http.spm")

_NS: Final = 1_000_000_000
# So many starts of new workers in a row that fail, and the reload is given up.
_PATIENCE: Final = 3


class Phase(enum.Enum):
    """Where the reload stands."""

    IDLE = "idle"
    LOADING = "loading"
    RISING = "rising"
    LEAVING = "leaving"


class Reload:
    """The generations, and the steps from one to the next.

    generation: the one from which workers are spawned now.
    floor: how many of them there must be before the old ones leave; 0: no matter.
    """

    def __init__(
        self,
        settings: SPMS,
        scoreboard: Scoreboard,
        fleet: Fleet,
        templates: Templates,
        system: OperatingSystem,
    ) -> None:
        self._settings = settings
        self._scoreboard = scoreboard
        self._fleet = fleet
        self._templates = templates
        self._system = system
        self._old = 0
        self._newest = 1
        self._template = 0  # the one that is loading
        self._asked_again = False
        self.phase = Phase.IDLE
        self.floor = 0
        self.generation = 1
        scoreboard.set_generation(1)

    @property
    def idle(self) -> bool:
        """Whether no reload is under way."""
        return self.phase is Phase.IDLE

    @property
    def rising(self) -> bool:
        """Whether new workers are coming up next to the old ones."""
        return self.phase is Phase.RISING

    def ask(self) -> None:
        """Begin a reload, or remember to."""
        if self.phase is not Phase.IDLE:
            self._asked_again = True
            _log.info("another reload will follow this one")
            return
        _log.info("loading the application afresh")
        try:
            template = self._templates.start(self._newest + 1)
        except OSError as error:
            _log.error("no template could be forked: %s; nothing is reloaded", error)
            return
        self._newest += 1
        self._template = template.number
        self.phase = Phase.LOADING

    def template_ready(self, number: int) -> None:
        """The new application is loaded: as many workers as serve now are to come."""
        if self.phase is not Phase.LOADING or number != self._template:
            return
        serving = len(self._fleet.of_generation(self.generation))
        low, high = self._settings.min_workers, self._settings.max_workers
        self.floor = max(low, min(high, serving))
        self.phase = Phase.RISING
        self._old = self.generation
        self._serve(self._newest)

    def template_ended(self, number: int) -> bool:
        """A template could not load the application; return whether it was the new one's."""
        if self.phase is not Phase.LOADING or number != self._template:
            return False
        self._give_up("the new application could not be loaded")
        return True

    def worker_boot_failed(self) -> None:
        """Without preload: the new application could not be loaded in a worker."""
        if self.phase is Phase.RISING:
            self._give_up("the new application could not be loaded")

    def advance(self, failed_starts: int, wanted: int) -> None:
        """Take the next step if its time has come.

        failed_starts: of the generation, in a row; wanted: workers, by the policy.
        """
        if self.phase is Phase.LOADING:
            self._limit_loading()
        elif self.phase is Phase.RISING:
            self._limit_rising(failed_starts, wanted)
        elif self.phase is Phase.LEAVING:
            self._finish_if_left()

    def retire_templates(self) -> None:
        """End the templates that nobody needs, once they have no child left to reap."""
        for handle in self._templates.all():
            if handle.generation == self.generation or self._is_in_play(handle.generation):
                continue
            self._templates.retire(handle)
            if not self._fleet.uses_template(handle.number):
                self._system.stop_template(handle.number)

    def _is_in_play(self, generation: int) -> bool:
        """Whether a reload that runs may still come to, or back to, this generation."""
        if self.phase is Phase.LOADING:
            return generation == self._newest
        return self.phase is Phase.RISING and generation == self._old

    def _serve(self, generation: int) -> None:
        self.generation = generation
        self._scoreboard.set_generation(generation)

    def _limit_loading(self) -> None:
        handle = self._templates.find(self._template)
        if handle is None or handle.killed:
            return
        late_ns = self._system.now_ns() - handle.started_ns
        if late_ns >= int(self._settings.boot_timeout_s * _NS):
            handle.message = f"the application was not loaded after {late_ns / _NS:.0f} s"
            self._templates.kill(handle)

    def _limit_rising(self, failed_starts: int, wanted: int) -> None:
        live = self._fleet.of_generation(self.generation)
        ready = [handle for handle in live if handle.state is WorkerState.READY]
        # Memory may forbid as many workers as served before.
        enough = min(self.floor, wanted)
        if len(ready) >= enough:
            _log.info("generation %d serves; the old one leaves", self.generation)
            self.phase, self.floor = Phase.LEAVING, 0
            self._drain_others()
        elif failed_starts >= _PATIENCE:
            self._give_up("the new workers do not come up")
        elif len(live) < enough and len(self._fleet) >= self._settings.slots:
            self._make_room()

    def _make_room(self) -> None:
        """Let an old worker leave early: there is no slot left for a new one.

        The old ones are more than the maximum then: some were silent or worn when others
        were started in their place, and have come back.
        """
        old = [handle for handle in self._fleet if handle.generation != self.generation]
        if old and not any(handle.told_to_leave for handle in self._fleet):
            starting = [handle for handle in old if handle.state is WorkerState.STARTING]
            leaving = starting or old  # nobody misses one that does not serve yet
            self._fleet.drain(min(leaving, key=lambda h: (h.row.busy + h.row.waiting, h.slot)))

    def _finish_if_left(self) -> None:
        if all(handle.generation == self.generation for handle in self._fleet):
            _log.info("reload complete: generation %d", self.generation)
            self._end()

    def _give_up(self, why: str) -> None:
        if self.phase is Phase.RISING:
            self._serve(self._old)
        _log.error("reload failed: %s; generation %d goes on serving", why, self.generation)
        self._drain_others()
        self._templates.forget_failures()  # they were the new application's
        self._end()

    def _end(self) -> None:
        self.phase, self.floor = Phase.IDLE, 0
        if self._asked_again:
            self._asked_again = False
            self.ask()

    def _drain_others(self) -> None:
        for handle in self._fleet:
            # Whatever its row says: who merely says that it leaves would be waited for for ever.
            if handle.generation != self.generation and handle.command == RUN:
                self._fleet.drain(handle)
