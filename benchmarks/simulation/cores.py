"""Cores: processor sharing between workers, and one interpreter lock in each.

All workers that compute get the same share of the cores, at most one core each; the
threads of one worker divide its share among them. Shares change whenever anybody begins
or ends, so nothing counts in seconds: `clock` is how much a worker that computes has been
given, and a worker's own clock how much each of its threads has been given. By those two
clocks the end of a computation is a constant, and a heap can hold it.
"""

from __future__ import annotations

from heapq import heappop, heappush

from benchmarks.simulation.crew import Life, Worker

# What arithmetic leaves over at the end of a computation.
_EPSILON = 1e-9

Finished = tuple[Worker, float, float]  # and when its request arrived and began


class Cores:
    """The processor of the simulated machine. Times in seconds."""

    def __init__(self, count: float) -> None:
        self.count = count
        self.used_s = 0.0  # by all, together
        self.crowded_s = 0.0  # in which somebody waited for a core
        self._clock = 0.0
        self._wait_clock = 0.0  # how long a worker that computes has waited for a core
        self._now_s = 0.0
        self._computing = 0  # workers
        self._sequence = 0
        self._ends: list[tuple[float, int, Worker, int]] = []

    def begin(self, worker: Worker, cpu_s: float, arrived_s: float, began_s: float) -> None:
        """Let one more thread of the worker compute. `advance` first."""
        if worker.cpu_jobs:
            self._settle(worker)
        else:
            self._computing += 1
            worker.cpu_clock, worker.cpu_began = 0.0, self._clock
            worker.cpu_wait_began = self._wait_clock
        self._sequence += 1
        job = (worker.cpu_clock + cpu_s, self._sequence, arrived_s, began_s)
        heappush(worker.cpu_jobs, job)
        self._expect(worker)

    def pass_to(self, now_s: float) -> None:
        """Let time pass, at most to the next end."""
        passed_s = now_s - self._now_s
        self._now_s = now_s
        if self._computing and passed_s > 0:
            share = min(1.0, self.count / self._computing)
            self._clock += passed_s * share
            self._wait_clock += passed_s * (1.0 - share)
            self.used_s += passed_s * share * self._computing
            self.crowded_s += passed_s if share < 1.0 else 0.0

    def advance(self, now_s: float) -> list[Finished]:
        """Let time pass, at most to the next end; return what ends now."""
        self.pass_to(now_s)
        finished = []
        while (worker := self._next()) and self._ends[0][0] <= self._clock + _EPSILON:
            self._settle(worker)
            _, _, arrived_s, began_s = heappop(worker.cpu_jobs)
            finished.append((worker, arrived_s, began_s))
            self._go_on(worker)
        return finished

    def next_end_s(self) -> float | None:
        """Return when the next computation ends, if nobody begins or ends before."""
        if self._next() is None:
            return None
        share = min(1.0, self.count / self._computing)
        return self._now_s + max(0.0, self._ends[0][0] - self._clock) / share

    def drop(self, worker: Worker) -> None:
        """The worker was killed. `advance` first."""
        if worker.cpu_jobs:
            self._settle(worker)
            worker.cpu_jobs.clear()
            self._go_on(worker)

    def used_by(self, worker: Worker) -> float:
        """Return the CPU time of a worker since its start."""
        if worker.cpu_jobs:
            self._settle(worker)
        return worker.cpu_s

    def waited_by(self, worker: Worker) -> float:
        """Return how long a worker has waited for a core since its start."""
        if worker.cpu_jobs:
            self._settle(worker)
        return worker.cpu_wait_s

    def _settle(self, worker: Worker) -> None:
        """Bring the worker's clocks up to now."""
        given_s = self._clock - worker.cpu_began
        worker.cpu_began = self._clock
        worker.cpu_s += given_s
        worker.cpu_wait_s += self._wait_clock - worker.cpu_wait_began
        worker.cpu_wait_began = self._wait_clock
        worker.cpu_clock += given_s / len(worker.cpu_jobs)

    def _go_on(self, worker: Worker) -> None:
        if worker.cpu_jobs:
            self._expect(worker)
        else:
            worker.cpu_stamp += 1
            self._computing -= 1

    def _expect(self, worker: Worker) -> None:
        """Note when the worker's next thread will be done, unless something changes."""
        left_s = (worker.cpu_jobs[0][0] - worker.cpu_clock) * len(worker.cpu_jobs)
        self._sequence += 1
        worker.cpu_stamp += 1
        end = (self._clock + left_s, self._sequence, worker, worker.cpu_stamp)
        heappush(self._ends, end)

    def _next(self) -> Worker | None:
        """Return whose thread ends next, after dropping what has changed since."""
        while self._ends:
            _, _, worker, stamp = self._ends[0]
            if stamp == worker.cpu_stamp and worker.life is not Life.GONE:
                return worker
            heappop(self._ends)
        return None
