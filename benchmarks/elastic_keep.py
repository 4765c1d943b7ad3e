"""Kept connections through everything a manager does: none is to be closed, no request to fail."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.elastic_load import Connection, Load, Seen
from benchmarks.elastic_losses import PATIENCE_S, SLEEPING
from benchmarks.elastic_scaling import said
from benchmarks.elastic_server import Moment, Shape, Target, Watch, serving, understands
from benchmarks.elastic_verdict import Check, Outcome
from benchmarks.hostile import get

CALM: Final = get("/sleep?ms=5")
RELOADS: Final = 3
_CALM_WORKERS: Final = 4
_SHAPE: Final = Shape(2, 16, 1)
_MAX_AGE_S: Final = 3
_BOUND_S: Final = 60.0  # for one change of the server
_PAUSES: Final = 1.25  # periods between two changes: each client asks at least once in it


@dataclass(frozen=True, slots=True)
class Clients:
    """How many there are, and how often each of them asks. 0 s: without a pause."""

    count: int
    calm_s: float
    burst_s: float


CLIENTS: Final = (Clients(12, 0.25, 0.0), Clients(200, 2.0, 1.6))


class Journey:
    """Kept connections, and what they have seen in each phase."""

    def __init__(self, load: Load, watch: Watch, clients: Clients) -> None:
        self.figures: dict[str, object] = {}
        self.load = load
        self.clients = clients
        self._watch = watch
        self._connections: list[Connection] = load.keep(clients.count, CALM, clients.calm_s)
        self._before = (0, 0, 0)

    @property
    def seen(self) -> Seen:
        """What they have seen so far."""
        return self._connections[0].seen

    @property
    def now(self) -> Moment:
        """What the server said of itself last."""
        return self._watch.moments[-1]

    def pace(self, request: bytes, period_s: float) -> None:
        """Let all of them ask something else from now on."""
        self.load.change(self._connections, request, period_s)

    def last(self, name: str, seconds: float) -> None:
        """Go on for a while; note what was lost meanwhile."""
        self.load.run_for(seconds)
        self._note(name, f"{seconds:.1f} s")

    def phase(self, name: str, until: Callable[[], bool]) -> bool:
        """Go on until something is so; note what was lost meanwhile, and how long it took."""
        began_s = time.monotonic()
        is_so = self.load.run_for(_BOUND_S, until)
        took_s = time.monotonic() - began_s
        self.load.run_for(_PAUSES * max(1.0, self.clients.calm_s))
        self._note(name, f"{took_s:.1f} s{'' if is_so else ', and not done'}")
        return is_so

    def _note(self, name: str, took: str) -> None:
        after = self._counts()
        lost = [now - before for now, before in zip(after, self._before, strict=True)]
        self._before = after
        self.figures[name] = (
            f"{lost[0]} failed, {lost[1]} closed, {lost[2]} closed politely; {took}"
        )

    def _counts(self) -> tuple[int, int, int]:
        seen = self.seen
        return len(seen.failures), len(seen.closed_idle), seen.closed_politely


def keepalive(name: str, number: int, *, quick: bool) -> list[Outcome]:
    """Lead 12, then 200 kept connections through every change of the server."""
    outcomes = []
    for clients in CLIENTS:
        label = f"{name} {clients.count}"
        outcomes.append(_through_changes(label, number, clients, burst_s=5 if quick else 12))
        outcomes.append(_through_recycling(f"{label} recycled", number, clients))
    return outcomes


def _through_changes(label: str, number: int, clients: Clients, burst_s: float) -> Outcome:
    """A burst, its end, three reloads, an upgrade of the server."""
    with (
        serving(_SHAPE) as target,
        Load(target.address, seed=number) as load,
        Watch(target) as watch,
    ):
        load.run_for(0.5)
        journey = Journey(load, watch, clients)
        journey.last("calm", clients.calm_s + 2)
        journey.pace(SLEEPING, clients.burst_s)
        journey.last("burst", burst_s)
        peak = max(moment.total for moment in watch.moments)
        journey.pace(CALM, clients.calm_s)
        done = [
            journey.phase("scale-down", lambda: journey.now.total <= _CALM_WORKERS),
            *(_reload(journey, target, f"reload {turn}") for turn in range(1, RELOADS + 1)),
            _upgrade(journey, target),
        ]
        load.finish(PATIENCE_S)
    journey.figures["workers at the peak"] = peak
    return _judge(label, number, journey, "changes that were not done", done.count(False))


def _through_recycling(label: str, number: int, clients: Clients) -> Outcome:
    """Let every worker become too old."""
    if not understands("--max-age"):
        return Outcome(label, number, failure="the server has no --max-age")
    shape = Shape(4, 16, 1, ("--max-age", str(_MAX_AGE_S)))
    with (
        serving(shape) as target,
        Load(target.address, seed=number) as load,
        Watch(target) as watch,
    ):
        load.run_for(0.5)
        journey = Journey(load, watch, clients)
        first = set(journey.now.workers)
        journey.phase("recycling of every worker", lambda: first.isdisjoint(journey.now.workers))
        left = len(first & set(journey.now.workers))
        load.finish(PATIENCE_S)
    return _judge(label, number, journey, "workers that were not recycled", left)


def _reload(journey: Journey, target: Target, name: str) -> bool:
    """Reload the application; done when all workers are new ones."""
    old = set(journey.now.workers)
    target.signal(signal.SIGHUP)
    return journey.phase(name, lambda: old.isdisjoint(journey.now.workers))


def _upgrade(journey: Journey, target: Target) -> bool:
    """Replace the whole server; done when the old one has ended."""
    if not understands("upgrade"):
        journey.figures["upgrade"] = "the server has no `upgrade`"
        return False
    old_pid = target.pid
    old = set(journey.now.workers)
    command = target.command("upgrade")
    try:
        is_done = journey.phase(
            "upgrade",
            lambda: command.poll() is not None and old.isdisjoint(journey.now.workers),
        )
    finally:
        command.kill()
        said_last, _ = command.communicate()
    journey.figures["upgrade says"] = said_last.decode(errors="replace").strip()[-200:]
    return is_done and command.returncode == 0 and target.pid != old_pid


def _judge(label: str, number: int, journey: Journey, what: str, left: int) -> Outcome:
    seen = journey.seen
    checks = (
        Check("failed requests", len(seen.failures), 0, each=True),
        Check("closed connections", len(seen.closed_idle) + seen.closed_politely, 0, each=True),
        Check(what, left, 0, each=True),
    )
    journey.figures["answered"] = len(seen.answered)
    return Outcome(label, number, checks, journey.figures, said(seen))
