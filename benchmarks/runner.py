"""The run: every server gets its turn in every round, so that a slow minute hits all alike."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Final

import psutil

from benchmarks.cores import Cores
from benchmarks.counting import CountError
from benchmarks.load import LoadError
from benchmarks.processes import ServerError
from benchmarks.sample import Sample
from benchmarks.scenarios import Scenario
from benchmarks.server import Server

_TROUBLE: Final = (
    ServerError,
    LoadError,
    CountError,
    OSError,
    psutil.Error,
    subprocess.TimeoutExpired,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and for how long.

    counts: system calls too, once for each scenario and server.
    quick: only whether everything works: each scenario for the first server, the first
        scenario for each server.
    """

    scenarios: Sequence[Scenario]
    servers: Sequence[Server]
    rounds: int
    seconds: float
    warm_up_s: float
    counts: bool = False
    quick: bool = False

    def turns(self) -> Iterator[tuple[Scenario, int, Server]]:
        """Yield scenario, round and server in the order of the run (A B C A B C ...)."""
        for scenario in self.scenarios:
            for number in range(1, self.rounds + 1):
                for server in self.servers:
                    if not server.unfit(scenario) and not self._is_spared(scenario, server):
                        yield scenario, number, server

    def _is_spared(self, scenario: Scenario, server: Server) -> bool:
        return self.quick and scenario != self.scenarios[0] and server != self.servers[0]


def run(plan: Plan, cores: Cores, report: Callable[[Sample], None], samples: list[Sample]) -> None:
    """Measure everything in the plan; `report` hears of each sample as it is taken.

    A turn that fails becomes a sample that says so: the others go on. `samples` holds what
    has been measured if the run is broken off.
    """
    # All of them at first: a file that is edited meanwhile is not to end a long run.
    modules = {s.kind: importlib.import_module(f"benchmarks.{s.kind}") for s in plan.scenarios}
    for scenario, number, server in plan.turns():
        module = modules[scenario.kind]
        try:
            outcome = module.measure(server, scenario, cores, plan.seconds, plan.warm_up_s)
        except _TROUBLE as error:
            sample = Sample(scenario.name, number, server.name, failure=str(error))
        else:
            figures, errors, notes = dict(outcome.figures), outcome.errors, outcome.notes
            sample = Sample(scenario.name, number, server.name, figures, errors, notes)
            if plan.counts and number == 1:
                sample = _counted(sample, module, scenario, server, cores)
        report(sample)
        samples.append(sample)


def _counted(
    sample: Sample, module: ModuleType, scenario: Scenario, server: Server, cores: Cores
) -> Sample:
    """Return the sample with its system calls, where its kind can count them."""
    if not hasattr(module, "count"):
        return sample
    try:
        calls = module.count(server, scenario, cores)
    except _TROUBLE as error:
        return replace(sample, notes=(*sample.notes, f"system calls not counted: {error}"))
    return replace(sample, figures={**sample.figures, "syscalls": calls})
