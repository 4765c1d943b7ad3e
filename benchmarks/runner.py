"""The run: every server gets its turn in every round, so that a slow minute hits all alike."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.cores import Cores
from benchmarks.load import Generator, LoadError, Measurement
from benchmarks.processes import ServerError, probe, running
from benchmarks.scenarios import Scenario
from benchmarks.servers import Server


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and for how long."""

    scenarios: Sequence[Scenario]
    servers: Sequence[Server]
    rounds: int
    seconds: float
    warm_up_s: float

    def turns(self) -> Iterator[tuple[Scenario, int, Server]]:
        """Yield scenario, round and server in the order of the run (A B C A B C ...)."""
        for scenario in self.scenarios:
            for number in range(1, self.rounds + 1):
                for server in self.servers:
                    if not server.unfit(scenario):
                        yield scenario, number, server


@dataclass(frozen=True, slots=True)
class Sample:
    """One server's turn in one round: a measurement, or why there is none."""

    scenario: str
    round: int
    server: str
    measurement: Measurement | None = None
    cpu_us: float = 0.0  # the server's processor time per request
    memory_mb: float = 0.0  # PSS after the load
    load_share: float = 0.0  # of its core, taken by the generator; 1.0: it was the limit
    failure: str = ""


def run(
    plan: Plan, generator: Generator, cores: Cores, report: Callable[[Sample], None]
) -> list[Sample]:
    """Measure everything in the plan; `report` hears of each sample as it is taken.

    A turn that fails becomes a sample that says so: the others go on.
    """
    samples = []
    for scenario, number, server in plan.turns():
        try:
            sample = _measure(plan, generator, cores, scenario, number, server)
        except (ServerError, LoadError, OSError, psutil.Error, subprocess.TimeoutExpired) as error:
            sample = Sample(scenario.name, number, server.name, failure=str(error))
        report(sample)
        samples.append(sample)
    return samples


def _measure(
    plan: Plan, generator: Generator, cores: Cores, scenario: Scenario, number: int, server: Server
) -> Sample:
    with running(server, scenario, cores.server) as child:
        generator.run(child.port, scenario, plan.warm_up_s, cores.load)
        probe(child.port, scenario)  # still right after the warm-up, with all its threads
        cpu_before_s = child.cpu_s()
        measured, load_share = generator.run(child.port, scenario, plan.seconds, cores.load)
        cpu_used_s = child.cpu_s() - cpu_before_s
        return Sample(
            scenario.name,
            number,
            server.name,
            measured,
            cpu_us=cpu_used_s / max(1, measured.requests) * 1e6,
            memory_mb=child.memory_mb(),
            load_share=load_share,
        )
