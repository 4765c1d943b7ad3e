"""One simulated worker."""

from __future__ import annotations

import enum
from typing import Final

from spm.observation import WorkerSeen, WorkerState

_NS: Final = 1_000_000_000
# The manager takes 0 for "never", so its clock does not begin there.
START_NS: Final = 1000 * _NS


class Life(enum.Enum):
    """Where a worker stands in its life."""

    STARTING = enum.auto()
    READY = enum.auto()
    DRAINING = enum.auto()
    EXITING = enum.auto()
    GONE = enum.auto()


_AS_SEEN = {
    Life.STARTING: WorkerState.STARTING,
    Life.READY: WorkerState.READY,
    Life.DRAINING: WorkerState.DRAINING,
    Life.EXITING: WorkerState.EXITING,
}


class Worker:
    """A process of several threads; also what `spm.measures` sees of it.

    incarnation: no other has the same. listed: it stands in the pool's line of workers with
    a free thread. running_s: seconds of the requests that have ended, as uWSGI counts them.
    cpu, work, run_wait: as the manager has measured them lately; see WorkerSeen.
    """

    __slots__ = (
        *("busy", "cpu", "cpu_began", "cpu_clock", "cpu_jobs", "cpu_s", "cpu_stamp"),
        *("cpu_wait_began", "cpu_wait_s", "incarnation", "life", "listed", "ready_s", "run_wait"),
        *("work", "work_ns"),
        *("running_s", "slot", "spawned_s", "threads", "_cpu_look", "_views", "_wait_look"),
    )

    def __init__(self, slot: int, incarnation: int, spawned_s: float, threads: int) -> None:
        self.slot = slot
        self.incarnation = incarnation
        self.spawned_s = spawned_s
        self.threads = threads
        self.ready_s: float | None = None
        self.life = Life.STARTING
        self.busy = 0
        self.listed = False
        self.running_s = 0.0
        self.cpu = 0.0
        self.run_wait = 0.0
        self.work = 0.0
        self.work_ns = 0
        # Of `cores`: its threads that compute, by which clocks, and what it had of them.
        self.cpu_jobs: list[tuple[float, int, float, float]] = []
        self.cpu_clock = self.cpu_began = self.cpu_s = 0.0
        self.cpu_wait_began = self.cpu_wait_s = 0.0
        self.cpu_stamp = 0
        self._views: dict[int, WorkerSeen] = {}
        self._cpu_look: tuple[int, int] | None = None  # (clock, when), in ns
        self._wait_look: tuple[int, int] | None = None

    def become(self, life: Life) -> None:
        """Go on in life."""
        self.life = life
        self._views.clear()

    def seen(self) -> WorkerSeen:
        """Return it as decide() sees it. Made once for each number of busy threads."""
        view = self._views.get(self.busy)
        if view is None:
            view = self._views[self.busy] = WorkerSeen(
                slot=self.slot,
                state=_AS_SEEN[self.life],
                busy=self.busy,
                spawned_s=self.spawned_s,
                cpu=self.cpu,
                work=self.work,
                run_wait=self.run_wait,
            )
        return view

    # --- as spm.worker.WorkerHandle -----------------------------------------------------

    @property
    def pid(self) -> int:
        """A number that is not 0 and leads to the worker."""
        return self.slot + 1

    @property
    def row(self) -> Worker:
        """Its row of the scoreboard: `busy`, `threads`."""
        return self

    @property
    def ready_ns(self) -> int:
        """When it became ready; 0: it is not."""
        return 0 if self.ready_s is None else START_NS + round(self.ready_s * _NS)

    def measure_cpu(self, cpu_ns: int, now_ns: int) -> None:
        """Note its CPU time; the share of a core since the last time becomes `cpu`."""
        if self._cpu_look is not None and now_ns > self._cpu_look[1]:
            self.work = min(1.0, self.work_ns / (now_ns - self._cpu_look[1]))
            self._views.clear()
        self.work_ns = 0
        self.cpu = self._share(self._cpu_look, cpu_ns, now_ns, self.cpu)
        self._cpu_look = (cpu_ns, now_ns)

    def measure_run_wait(self, wait_ns: int, now_ns: int) -> None:
        """Note how long it waited for a core; the share becomes `run_wait`."""
        self.run_wait = min(1.0, self._share(self._wait_look, wait_ns, now_ns, self.run_wait))
        self._wait_look = (wait_ns, now_ns)

    def forget_run_wait(self) -> None:
        """Nobody waits for a core."""
        if self.run_wait:
            self._views.clear()
        self.run_wait, self._wait_look = 0.0, None

    def _share(
        self, before: tuple[int, int] | None, clock_ns: int, now_ns: int, known: float
    ) -> float:
        if before is None or now_ns <= before[1]:
            return known
        share = max(0.0, (clock_ns - before[0]) / (now_ns - before[1]))
        if share != known:
            self._views.clear()
        return share
