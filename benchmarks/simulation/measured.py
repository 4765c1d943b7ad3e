"""Measured: the real spm.measures, reading the clocks of the simulated machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from benchmarks.simulation.crew import START_NS, Worker
from benchmarks.simulation.pool import Pool
from spm.fleet import Fleet
from spm.measures import Measures
from spm.ports import OperatingSystem
from spm.settings import SPMS

_NS: Final = 1_000_000_000


class _Machine:
    """What Measures asks of the system and of the fleet. Shares are since the last question."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._used_s = self._used_looked_s = 0.0
        self._crowded_s = self._crowded_looked_s = 0.0

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._pool.workers.values())

    def now_ns(self) -> int:
        return START_NS + round(self._pool.now_s * _NS)

    def machine_cpu(self) -> float:
        cores, now_s = self._pool.cores, self._pool.now_s
        share = _share(cores.used_s - self._used_s, now_s - self._used_looked_s) / cores.count
        self._used_s, self._used_looked_s = cores.used_s, now_s
        return min(1.0, share)

    def cpu_pressure(self) -> float:
        cores, now_s = self._pool.cores, self._pool.now_s
        share = _share(cores.crowded_s - self._crowded_s, now_s - self._crowded_looked_s)
        self._crowded_s, self._crowded_looked_s = cores.crowded_s, now_s
        return min(1.0, share)

    def cpu_throttled(self) -> float | None:
        return None

    def process_cpu_ns(self, pid: int) -> int:
        return round(self._pool.cores.used_by(self._pool.workers[pid - 1]) * _NS)

    def process_run_wait_ns(self, pid: int) -> int:
        return round(self._pool.cores.waited_by(self._pool.workers[pid - 1]) * _NS)

    def memory_available_bytes(self) -> int:
        return 1 << 62


def _share(spent_s: float, passed_s: float) -> float:
    return spent_s / passed_s if passed_s > 0 else 0.0


class Measured:
    """Looks at the machine of a pool as the manager looks at its own."""

    def __init__(self) -> None:
        self._measures: Measures | None = None

    def look(self, pool: Pool) -> Measures:
        """Measure what is due."""
        if self._measures is None:
            machine = _Machine(pool)
            # It takes the two whole classes for the few methods above, which fit by shape.
            fleet, system = cast(Fleet, machine), cast(OperatingSystem, machine)
            self._measures = Measures(SPMS(), fleet, system)
        pool.cores.pass_to(pool.now_s)
        self._measures.look(START_NS + round(pool.now_s * _NS), waiting=bool(pool.queue))
        return self._measures
