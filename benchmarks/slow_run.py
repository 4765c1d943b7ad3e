"""The run of `slow_clients`: each server alone, while the herd arrives, and with all of it."""

from __future__ import annotations

import dataclasses
import http.client
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil

from benchmarks import family, herd
from benchmarks.cores import Cores, pinned
from benchmarks.latency import Latencies, Load, Measurement, quantile
from benchmarks.processes import Running, ServerError, running
from benchmarks.scenarios import Scenario
from benchmarks.servers import Server
from benchmarks.stress_app import HELLO_BODY

SETTLE_S: Final = 30.0  # how long slow clients may take to get where they are to stay
_WARM_UP_S: Final = 0.5
_LOOK_S: Final = 0.2

ALONE: Final = "alone"
ARRIVING: Final = "arriving"
THERE: Final = "there"


@dataclass(frozen=True, slots=True)
class Figures:
    """One kind of load in one measurement. Milliseconds."""

    answered: int
    unanswered: int
    errors: int
    p50: float
    p99: float
    p999: float
    longest: float
    late_p99: float  # of the load's process, at sending; it does not count as latency
    noted: tuple[str, ...]

    @classmethod
    def of(cls, seen: Latencies) -> Figures:
        """Return the figures of what was seen."""
        ordered = sorted(seen.durations_ns)
        p50, p99, p999, longest = (quantile(ordered, part) / 1e6 for part in (0.5, 0.99, 0.999, 1))
        late_p99 = quantile(sorted(seen.late_ns), 0.99) / 1e6
        counts = (seen.answered, seen.unanswered, seen.errors)
        return cls(*counts, p50, p99, p999, longest, late_p99, tuple(seen.noted))

    @property
    def bad(self) -> int:
        """How many requests had no answer, or a wrong one."""
        return self.unanswered + self.errors


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement. failure: why there are no figures, or why it ended early."""

    server: str
    round: int
    clients: str  # ALONE, ARRIVING or THERE
    loads: Mapping[str, Figures] = field(default_factory=dict)
    holdings: family.Holdings = field(default_factory=family.Holdings)
    cpu_share: float = 0.0  # of one core, by the server
    herd: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    acts_per_s: Mapping[str, float] = field(default_factory=dict)  # steps of the herd's scripts
    settled: bool = True
    failure: str = ""

    @property
    def bad(self) -> int:
        """How many ordinary requests had no answer, or a wrong one; 1 if nothing was measured."""
        return sum(figures.bad for figures in self.loads.values()) + bool(self.failure)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long."""

    servers: Sequence[Server]
    counts: Mapping[str, int]  # of slow clients, by kind
    per_second: float  # how many of them arrive
    threads: int
    rounds: int
    seconds: float
    load: Load = field(default_factory=Load)

    @property
    def arrival_s(self) -> float:
        """How long it takes until all slow clients have come."""
        return sum(self.counts.values()) / self.per_second


def run(plan: Plan, cores: Cores, report: Callable[[Turn], None]) -> list[Turn]:
    """Measure everything, round by round, so that a slow minute hits all alike.

    report: hears of each turn when it is over.
    """
    turns: list[Turn] = []
    for number in range(1, plan.rounds + 1):
        for server in plan.servers:
            for turn in _round(plan, cores, server, number):
                report(turn)
                turns.append(turn)
    return turns


def _round(plan: Plan, cores: Cores, server: Server, number: int) -> list[Turn]:
    """Measure one server afresh: alone, while the herd arrives, and with all of it."""
    turns: list[Turn] = []
    scenario = Scenario("stress", "", "benchmarks.stress_app:app", HELLO_BODY, threads=plan.threads)
    try:
        with running(server, scenario, cores.server) as child:
            _measure(child, plan.load, _WARM_UP_S, cores.load)
            turns.append(_turn(child, plan, cores, Turn(server.name, number, ALONE)))
            with herd.running(child.port, plan.counts, plan.per_second, cores.load) as slow:
                arriving = dataclasses.replace(plan, seconds=plan.arrival_s)
                turns.append(_turn(child, arriving, cores, Turn(server.name, number, ARRIVING)))
                settled = _wait_until_settled(slow, SETTLE_S)
                there = Turn(server.name, number, THERE, settled=settled)
                turns.append(_turn(child, plan, cores, there, slow))
    except (ServerError, OSError, EOFError, psutil.Error, http.client.HTTPException) as error:
        turns.append(Turn(server.name, number, THERE, failure=str(error) or repr(error)))
    return turns


def _turn(
    child: Running, plan: Plan, cores: Cores, turn: Turn, slow: herd.Herd | None = None
) -> Turn:
    before = slow.tallies() if slow is not None else {}
    cpu_before_s, began_s = child.cpu_s(), time.monotonic()
    loads = _measure(child, plan.load, plan.seconds, cores.load)
    took_s = time.monotonic() - began_s
    cpu_share = (child.cpu_s() - cpu_before_s) / took_s
    after = slow.tallies() if slow is not None else {}
    acts = {name: (after[name]["steps"] - before[name]["steps"]) / took_s for name in after}
    return dataclasses.replace(
        turn,
        loads=loads,
        holdings=family.of_family(child.pid),
        cpu_share=cpu_share,
        herd=after,
        acts_per_s=acts,
    )


def _measure(child: Running, load: Load, seconds: float, core: int | None) -> dict[str, Figures]:
    with pinned(core):
        measurement = Measurement(("127.0.0.1", child.port), load, seconds)
        measurement.run()
    return {"kept": Figures.of(measurement.kept), "fresh": Figures.of(measurement.fresh)}


def _wait_until_settled(slow: herd.Herd, within_s: float) -> bool:
    """Wait until all slow clients are where they are to stay; False if some never get there."""
    deadline_s = time.monotonic() + within_s
    while any(tally["settled"] < tally["wanted"] for tally in slow.tallies().values()):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_LOOK_S)
    return True
