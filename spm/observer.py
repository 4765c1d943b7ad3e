"""Observer: what the manager knows at a tick, for the policy and for the readout."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from .fleet import Fleet
from .histogram import add
from .measures import Measures
from .meter import Meter, ServiceTimes, Snapshot
from .observation import Actions, Memory, Observation
from .ports import OperatingSystem
from .readout import Readout, WorkerLine, count_states
from .recycling import Recycling
from .reload import Reload
from .scoreboard import Scoreboard
from .settings import SPMS
from .worker import Totals

_NS: Final = 1_000_000_000


class Observer:
    """Reads, measures, sums up. It changes nothing.

    accept_queue: how many connections nobody has accepted yet.
    describe: what the server is (addresses, application), for the readout.
    """

    def __init__(
        self,
        settings: SPMS,
        scoreboard: Scoreboard,
        fleet: Fleet,
        system: OperatingSystem,
        accept_queue: Callable[[], int],
        describe: Callable[[], Mapping[str, object]],
    ) -> None:
        self._settings = settings
        self._scoreboard = scoreboard
        self._fleet = fleet
        self._system = system
        self._accept_queue = accept_queue
        self._describe = describe
        self._meter = Meter()
        self._started_ns = system.now_ns()
        self._busy_ns = 0
        self._busy_looked_ns = self._started_ns
        self._busy_before = 0
        self._measures = Measures(settings, fleet, system)
        self._recycling = Recycling(settings)
        self.accept_queue = 0
        self.cpu_measured = False  # whether the last look has measured the workers' CPU time

    def look(self, reload: Reload, memory: Memory, *, can_spawn: bool) -> Observation:
        """Return what is to be seen now. The fleet has been looked at already."""
        now_ns = self._system.now_ns()
        self.accept_queue = max(0, self._accept_queue())
        self._integrate_busy(now_ns)
        measures = self._measures
        self.cpu_measured = measures.look(now_ns, waiting=self.waiting > 0)
        totals = self.totals()
        if self._meter.is_due(now_ns):
            self._meter.add(self._snapshot(totals, now_ns))
        worn = self._recycling.worn(list(self._fleet), now_ns, reloading=not reload.idle)
        return Observation(
            workers=tuple(handle.seen(worn.get(handle.slot, "")) for handle in self._fleet),
            generation=reload.generation,
            arrived=totals.begun + self.accept_queue,
            ended=totals.ended,
            service_s=totals.service_ns / _NS,
            busy_s=self._busy_ns / _NS,
            accept_queue=self.accept_queue,
            deaths=self._fleet.take_deaths(),
            machine_cpu=measures.machine_cpu,
            cpu_pressure=measures.cpu_pressure,
            cpu_look=measures.cpu_look,
            worker_memory_bytes=measures.worker_memory_bytes,
            memory_available_bytes=measures.memory_available_bytes,
            boot_s=self._fleet.boot_s,
            can_spawn=can_spawn,
            floor=reload.floor,
            reloading=reload.rising,
            memory=memory,
        )

    @property
    def waiting(self) -> int:
        """How many requests wait: in accept queues and parked in workers."""
        return self.accept_queue + sum(handle.row.waiting for handle in self._fleet)

    @property
    def active(self) -> bool:
        """Whether something runs or waits, or a connection is still to be accepted."""
        return self.waiting > 0 or any(handle.row.busy for handle in self._fleet)

    def totals(self) -> Totals:
        """Return the counters of all workers there ever were; they only grow."""
        totals = self._fleet.departed.totals
        for handle in self._fleet:
            totals = totals.plus(handle.totals)
        return totals

    def readout(
        self,
        reload: Reload,
        last: Actions | None,
        *,
        with_workers: bool = True,
    ) -> Readout:
        """Return all numbers.

        with_workers: a line for each worker, too, which reads the memory of each.
        """
        now_ns = self._system.now_ns()
        self.accept_queue = max(0, self._accept_queue())
        totals = self.totals()
        now = self._snapshot(totals, now_ns)
        counts = count_states(self._fleet)
        handles = sorted(self._fleet, key=lambda handle: handle.slot)
        return Readout(
            total=len(self._fleet),
            busy=counts["Busy"],
            idle=counts["Idle"],
            kill_pending=counts["KillPending"],
            starting=counts["Starting"],
            wedged=counts["Wedged"],
            threads=sum(handle.row.threads for handle in handles),
            busy_threads=sum(handle.row.busy for handle in handles),
            streams=sum(handle.row.streams for handle in handles),
            written_off=sum(handle.row.written_off for handle in handles),
            connections=sum(handle.row.connections for handle in handles),
            requests=totals.ended,
            requests_per_s=round(self._meter.requests_per_s(now), 3),
            waiting=self.waiting,
            accept_queue=self.accept_queue,
            last_minute=self._meter.last_minute(now),
            since_start=ServiceTimes.between(None, now),
            restarts=self._fleet.departed.restarts,
            lost=self._fleet.departed.lost,
            errors=totals.errors,
            incidents=dict(zip(self._settings.incidents, totals.incidents, strict=False)),
            handed_over=totals.handed_out,
            generation=reload.generation,
            wanted=last.wanted if last else self._settings.min_workers,
            demand=round(last.demand, 2) if last else 0.0,
            reload=reload.phase.value,
            uptime_s=round((now_ns - self._started_ns) / _NS, 3),
            manager_pid=os.getpid(),
            server=dict(self._describe()),
            machine=self._measures.machine(),
            workers=tuple(
                WorkerLine.of(handle, now_ns, self._measures.memory_of(handle.pid, now_ns))
                for handle in handles
                if with_workers
            ),
        )

    def _snapshot(self, totals: Totals, now_ns: int) -> Snapshot:
        histogram = self._fleet.departed.histogram
        for handle in self._fleet:
            histogram = add(histogram, handle.histogram(self._scoreboard))
        return Snapshot(now_ns, totals.ended, totals.service_ns, histogram)

    def _integrate_busy(self, now_ns: int) -> None:
        # The threads that were busy at the last look count for the time since. Workers'
        # own service time would not do: it moves only when requests end.
        self._busy_ns += self._busy_before * (now_ns - self._busy_looked_ns)
        self._busy_before = sum(handle.row.busy for handle in self._fleet)
        self._busy_looked_ns = now_ns
