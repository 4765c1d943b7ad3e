"""Measures: what the machine says of the workers and of itself, each as seldom as will do."""

from __future__ import annotations

from typing import Final

from .cpu_rules import appetite_of, is_at_work, share_without_core
from .fleet import Fleet
from .observation import CpuLook
from .ports import OperatingSystem
from .settings import SPMS

_NS: Final = 1_000_000_000
# The CPU share of a worker over less than this is noise.
_CPU_EVERY_NS: Final = _NS // 2
# But while requests wait, whether the workers compute or sleep must be known at once.
_QUICK_CPU_NS: Final = 25_000_000
# Each thread that is asked how long it waited for a core costs 10 us.
_SAMPLED_THREADS: Final = 48
# Reading the memory of all workers costs milliseconds each; it does not change faster.
_MEMORY_EVERY_NS: Final = 5 * _NS
_STATUS_MEMORY_NS: Final = 2 * _NS
# With less of the machine in use nobody waits for a core, and we need not ask who does.
_CROWDED: Final = 0.7


class Measures:
    """Reads clocks and sizes from outside the workers.

    machine_cpu: share of the CPU time that may be used. cpu_pressure: share of the time in
    which somebody waited for a core; 0 where the kernel does not tell. cpu_throttled: share of
    its periods in which our quota was used up; None without one. cpu_look: the last moments,
    while requests wait.
    worker_memory_bytes: of a worker on the average (PSS), if there is a limit.
    """

    def __init__(self, settings: SPMS, fleet: Fleet, system: OperatingSystem) -> None:
        self._settings = settings
        self._fleet = fleet
        self._system = system
        self._looked_ns = system.now_ns()
        self._cpu_looked_ns = 0
        self._quick_looked_ns = 0
        self._clocks: dict[int, int] = {}  # incarnation -> CPU time in ns
        self._waits: dict[int, int] = {}  # incarnation -> time without a core in ns
        self._memory_looked_ns = 0
        self._read_memory: dict[int, tuple[int, dict[str, int]]] = {}
        self.machine_cpu = 0.0
        self.cpu_pressure = 0.0
        self.cpu_throttled: float | None = None
        self.cpu_look: CpuLook | None = None
        self.worker_memory_bytes = 0
        self.memory_available_bytes = 1 << 62

    def look(self, now_ns: int, *, waiting: bool) -> bool:
        """Measure what is due; return whether the workers' CPU time was.

        waiting: requests wait.
        """
        passed_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        for handle in self._fleet:
            if handle.row.busy:
                handle.work_ns += passed_ns
        self._look_quickly(now_ns, waiting=waiting)
        self._look_at_memory(now_ns)
        if now_ns - self._cpu_looked_ns < _CPU_EVERY_NS:
            return False
        self._cpu_looked_ns = now_ns
        self.machine_cpu = self._system.machine_cpu()
        self.cpu_pressure = self._system.cpu_pressure()
        self.cpu_throttled = self._system.cpu_throttled()
        for handle in self._fleet:
            if not handle.pid:
                continue
            handle.measure_cpu(self._system.process_cpu_ns(handle.pid), now_ns)
            if self.machine_cpu >= _CROWDED:
                handle.measure_run_wait(self._system.process_run_wait_ns(handle.pid), now_ns)
            else:
                handle.forget_run_wait()
        return True

    def machine(self) -> dict[str, float | int | None]:
        """Return what the machine leaves us, for the readout."""
        throttled = self.cpu_throttled
        return {
            "cores": self._system.usable_cores,
            "cpu": round(self.machine_cpu, 3),
            "cpu_pressure": round(self.cpu_pressure, 3),
            "cpu_throttled": None if throttled is None else round(throttled, 3),
            "memory_available": self._system.memory_available_bytes(),
        }

    def memory_of(self, pid: int, now_ns: int) -> dict[str, int]:
        """Return rss, pss and uss of a worker, in bytes, as far as they are known."""
        if not pid:
            return {}
        read_ns, memory = self._read_memory.get(pid, (0, {}))
        if not read_ns or now_ns - read_ns >= _STATUS_MEMORY_NS:
            memory = self._system.process_memory(pid)
            alive = {handle.pid for handle in self._fleet}
            kept = {p: entry for p, entry in self._read_memory.items() if p in alive}
            self._read_memory = {**kept, pid: (now_ns, memory)}
        return memory

    def _look_quickly(self, now_ns: int, *, waiting: bool) -> None:
        if not waiting:
            self._quick_looked_ns, self.cpu_look = 0, None
            return
        elapsed_ns = now_ns - self._quick_looked_ns
        if elapsed_ns < _QUICK_CPU_NS:
            return
        clocks = {
            handle.incarnation: cpu_ns
            for handle in self._fleet
            if handle.pid and (cpu_ns := self._system.process_cpu_ns(handle.pid)) is not None
        }
        waits = self._sample_run_waits()
        # The first look only begins the measurement.
        if self._quick_looked_ns:
            self.cpu_look = self._compare(clocks, waits, elapsed_ns)
        self._clocks, self._waits, self._quick_looked_ns = clocks, waits, now_ns

    def _sample_run_waits(self) -> dict[int, int]:
        """Return how long some workers' threads have waited for a core; incarnation -> ns."""
        waits: dict[int, int] = {}
        threads = 0
        for handle in self._fleet:
            threads += handle.row.threads
            if waits and threads > _SAMPLED_THREADS:
                break
            wait_ns = self._system.process_run_wait_ns(handle.pid) if handle.pid else None
            if wait_ns is not None:
                waits[handle.incarnation] = wait_ns
        return waits

    def _compare(
        self, clocks: dict[int, int], waits: dict[int, int], elapsed_ns: int
    ) -> CpuLook | None:
        """Return what was used between two looks, and from a sample, what was wanted."""
        used = {
            worker: (cpu_ns - self._clocks[worker]) / elapsed_ns
            for worker, cpu_ns in clocks.items()
            if worker in self._clocks
        }
        if not used:
            return None
        sampled = {
            worker: share_without_core(
                used[worker], max(0.0, (wait_ns - self._waits[worker]) / elapsed_ns)
            )
            for worker, wait_ns in waits.items()
            if worker in self._waits and worker in used
        }
        load, wanted = sum(used.values()), sum(used[w] + wait for w, wait in sampled.items())
        known = sum(used[worker] for worker in sampled)
        if known > 0:
            load *= wanted / known
        # Who came in the middle of the time seems to have slept in its first half.
        since_ns = self._looked_ns - elapsed_ns
        busy = {h.incarnation: h.row.busy for h in self._fleet if 0 < h.ready_ns <= since_ns}
        appetites = [
            appetite_of(used[worker], wait)
            for worker, wait in sampled.items()
            if worker in busy and is_at_work(busy[worker], used[worker])
        ]
        return CpuLook(load, sum(appetites) / len(appetites) if appetites else 0.0)

    def _look_at_memory(self, now_ns: int) -> None:
        if self._memory_looked_ns and now_ns - self._memory_looked_ns < _MEMORY_EVERY_NS:
            return
        workers = [handle for handle in self._fleet if handle.pid]
        # Before there is one to measure, no limit can hold: look again at once.
        self._memory_looked_ns = now_ns if workers else 0
        if self._settings.memory_reserve_bytes:
            self.memory_available_bytes = self._system.memory_available_bytes()
        if self._settings.memory_limit_bytes and workers:
            read = [self.memory_of(handle.pid, now_ns).get("pss", 0) for handle in workers]
            sizes = [size for size in read if size]  # a worker may just have died
            self.worker_memory_bytes = -(-sum(sizes) // len(sizes)) if sizes else 0
        if self._settings.max_worker_memory_bytes:
            for handle in workers:
                handle.memory_bytes = self._system.process_resident_bytes(handle.pid)
