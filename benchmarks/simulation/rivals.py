"""The rules of other servers, written anew from what their sources say, and two fixed numbers.

Each looks once a second. Where a rule counts idle workers, one that starts counts as idle
only where the server does so. A worker that died is replaced as the server does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Final

from benchmarks.simulation.crew import Life, Worker
from benchmarks.simulation.loads import Limits, Load
from benchmarks.simulation.pool import Pool, Rule

_TICK_S: Final = 1.0
_MAX_SPAWN_RATE: Final = 32
_LIVING: Final = (Life.STARTING, Life.READY)


class Fixed:
    """So many workers, always; the dead are replaced at once."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.wanted: int | None = workers

    def first(self, limits: Limits) -> int:
        """All of them."""
        return self.wanted or 0

    def look(self, pool: Pool) -> float:
        """Replace who is missing."""
        missing = (self.wanted or 0) - pool.live
        if missing > 0:
            pool.spawn(missing)
        return pool.now_s + _TICK_S

    def full(self, pool: Pool) -> float | None:
        """Nothing follows."""
        return None

    def news(self, pool: Pool) -> float | None:
        """Nothing follows."""
        return None

    def died(self, pool: Pool, worker: Worker) -> float | None:
        """It is replaced at once."""
        return pool.now_s


class Ticking:
    """What the rules that look once a second have in common."""

    name = ""
    wanted: int | None = None

    def first(self, limits: Limits) -> int:
        """Return how many workers there are at the start."""
        return limits.min_workers

    def look(self, pool: Pool) -> float:
        """Act, then sleep for a second."""
        # Between whole seconds, when the loads change: there a change would always meet
        # the rule at its worst, having just looked, and shortly before them at its best.
        if pool.now_s > 0.0:
            self.tick(pool)
        return floor(pool.now_s / _TICK_S + 0.5) * _TICK_S + _TICK_S / 2

    def tick(self, pool: Pool) -> None:
        """Act."""
        raise NotImplementedError

    def full(self, pool: Pool) -> float | None:
        """Nobody hears of it."""
        return None

    def news(self, pool: Pool) -> float | None:
        """Nobody hears of it."""
        return None

    def died(self, pool: Pool, worker: Worker) -> float | None:
        """It is seen at the next tick."""
        return None


def _idle(pool: Pool) -> list[Worker]:
    """Return the ready workers with a free thread, the oldest first."""
    threads = pool.limits.threads
    found = [w for w in pool.workers.values() if w.life is Life.READY and w.busy < threads]
    return sorted(found, key=lambda worker: (worker.spawned_s, worker.slot))


def _spawn_within(pool: Pool, count: int) -> int:
    """Fork as many as the maximum allows; return how many that were."""
    count = max(0, min(count, pool.limits.max_workers - pool.live))
    if count:
        pool.spawn(count)
    return count


class Prefork(Ticking):
    """Apache prefork: MinSpareServers, MaxSpareServers; 1, 2, 4 .. 32 forks a second.

    server/mpm/prefork/prefork.c, perform_idle_server_maintenance. A starting child counts
    as idle, "or we swamp things". A calm cycle starts the doubling anew.
    """

    name = "apache prefork"

    def __init__(self, min_spare: int, max_spare: int) -> None:
        self._min_spare, self._max_spare = min_spare, max_spare
        self._rate = 1

    def tick(self, pool: Pool) -> None:
        """Fork if too few are idle, retire one if too many are."""
        idle = _idle(pool)
        count = len(idle) + pool.live - pool.ready
        if count > self._max_spare and pool.live > pool.limits.min_workers and idle:
            # Whoever reads the pipe of death first; the longest idle one is as good a guess.
            pool.retire(idle[0])
            self._rate = 1
        elif count < self._min_spare:
            if pool.live >= pool.limits.max_workers:
                self._rate = 1
                return
            _spawn_within(pool, self._rate)
            self._rate = min(_MAX_SPAWN_RATE, 2 * self._rate)
        else:
            self._rate = 1


class PhpFpm(Ticking):
    """php-fpm, pm = dynamic: doubling as in prefork, but never more than min_spare - idle.

    sapi/fpm/fpm/fpm_process_ctl.c, fpm_pctl_perform_idle_server_maintenance. A child that
    starts has no request yet and counts as idle. A dead child is replaced at once
    (fpm_children.c, fpm_children_bury).
    """

    name = "php-fpm dynamic"

    def __init__(self, min_spare: int, max_spare: int) -> None:
        self._min_spare, self._max_spare = min_spare, max_spare
        self._rate = 1

    def tick(self, pool: Pool) -> None:
        """Fork if too few are idle, retire one if too many are."""
        idle = _idle(pool)
        count = len(idle) + pool.live - pool.ready
        if count > self._max_spare and pool.live > pool.limits.min_workers and idle:
            pool.retire(idle[0])  # last_idle_child: the one that was started first
            self._rate = 1
        elif count < self._min_spare:
            if not _spawn_within(pool, min(self._rate, self._min_spare - count)):
                self._rate = 1
                return
            self._rate = min(_MAX_SPAWN_RATE, 2 * self._rate)
        else:
            self._rate = 1

    def died(self, pool: Pool, worker: Worker) -> float | None:
        """It is replaced at once."""
        _spawn_within(pool, 1)
        return None


class _Uwsgi(Ticking):
    """What uWSGI's algorithms share: a process that died, not cheaped, comes back."""

    def __init__(self) -> None:
        self._dead = 0

    def died(self, pool: Pool, worker: Worker) -> float | None:
        """The master sees it in its next cycle."""
        self._dead += 1
        return None

    def tick(self, pool: Pool) -> None:
        """Replace the dead, then act as the algorithm says."""
        _spawn_within(pool, self._dead)
        self._dead = 0
        self.cheaper(pool)

    def cheaper(self, pool: Pool) -> None:
        """Act as the algorithm says."""
        raise NotImplementedError

    @staticmethod
    def cheap(pool: Pool) -> None:
        """Retire the oldest worker that is not busy; without one, nobody."""
        idle = [worker for worker in _idle(pool) if not worker.busy]
        if idle:
            pool.retire(idle[0])


class UwsgiSpare(_Uwsgi):
    """uWSGI cheaper-algo spare: overload, step.

    core/master_utils.c, uwsgi_cheaper_algo_spare. A worker is busy if any of its threads
    is; one that starts is not.
    """

    def __init__(self, overload: int, step: int) -> None:
        super().__init__()
        self.name = f"uwsgi spare {overload}/{step}"
        self._overload, self._step = overload, step
        self._overload_count = self._idle_count = 0

    def cheaper(self, pool: Pool) -> None:
        """Fork after more than `overload` ticks without an idle worker."""
        if any(w.life in _LIVING and not w.busy for w in pool.workers.values()):
            self._overload_count = max(0, self._overload_count - 1)
        else:
            self._overload_count += 1
            self._idle_count = 0
        if self._overload_count > self._overload:
            _spawn_within(pool, self._step)
            self._overload_count = 0
            return
        if pool.live > pool.limits.min_workers:
            self._idle_count += 1
            if self._idle_count > self._overload:
                self._idle_count = 0
                self.cheap(pool)


_Name = tuple[int, float]


def _name(worker: Worker) -> _Name:
    return worker.slot, worker.spawned_s


@dataclass
class _Load:
    """How long a worker had run at the last check, and how often it was seen busy since."""

    running_s: float = 0.0
    was_busy: int = 0


class UwsgiBusyness(_Uwsgi):
    """uWSGI cheaper-algo busyness with its defaults, but for overload, step and alert.

    plugins/cheaper_busyness/cheaper_busyness.c. A worker's running time moves when
    requests end.
    """

    _HIGH: Final = 50
    _LOW: Final = 25
    _PENALTY: Final = 2
    _MULTIPLIER: Final = 10
    _BACKLOG_MULTIPLIER: Final = 3

    def __init__(self, overload: int, step: int, alert: int) -> None:
        super().__init__()
        self.name = f"uwsgi busyness {overload}/{step}"
        self._overload, self._step, self._alert = overload, step, alert
        self._multiplier = self._MULTIPLIER
        self._loads: dict[_Name, _Load] = {}
        self._checked_s = 0.0
        self._next_cheap_s = -1.0
        self._cheaped_s = float("-inf")
        self._cheaped_last = False
        self._tolerated = 0
        self._emergencies = 0

    def cheaper(self, pool: Pool) -> None:
        """Act by the mean busyness of the last `overload` seconds, or by the backlog."""
        if self._next_cheap_s < 0:
            self._put_off(pool)
        for worker in pool.workers.values():
            if worker.life in _LIVING:
                entry = self._loads.setdefault(_name(worker), _Load(worker.running_s))
                entry.was_busy += worker.busy > 0
        alarm = len(pool.queue) > self._alert and pool.live < pool.limits.max_workers
        if pool.now_s - self._checked_s < self._overload - 1e-9:
            if alarm:
                self._help(pool)
            return
        self._checked_s = pool.now_s
        busyness = self._busyness(pool)
        if busyness > self._HIGH:
            self._grow(pool)
        elif alarm:
            self._help(pool)
        elif pool.live == 1:
            return
        elif busyness < self._LOW:
            self._calm(pool)
        else:
            self._tolerate(pool)

    def _busyness(self, pool: Pool) -> int:
        total, count = 0, 0
        loads = {}
        for worker in pool.workers.values():
            if worker.life not in _LIVING:
                continue
            entry = self._loads[_name(worker)]
            ran_s = worker.running_s - entry.running_s
            percent = min(100, int(ran_s * 100 / self._overload))
            total += 100 if ran_s == 0 and entry.was_busy else percent
            count += 1
            loads[_name(worker)] = _Load(worker.running_s)
        self._loads = loads
        return total // count if count else 0

    def _grow(self, pool: Pool) -> None:
        self._tolerated = 0
        if not _spawn_within(pool, self._step):
            return
        self._cheaped_last = False
        if (pool.now_s - self._cheaped_s) // self._overload <= self._multiplier:
            self._multiplier += self._PENALTY
        else:
            self._relax()
        self._put_off(pool)

    def _help(self, pool: Pool) -> None:
        """Fork an emergency worker."""
        self._multiplier = self._MULTIPLIER
        self._cheaped_last = False
        self._emergencies += _spawn_within(pool, 1)
        self._put_off(pool)

    def _calm(self, pool: Pool) -> None:
        self._tolerated = 0
        if pool.live <= pool.limits.min_workers or pool.now_s < self._next_cheap_s:
            return
        if self._cheaped_last:
            self._relax()
        self._put_off(pool)
        self._cheaped_s = pool.now_s
        self._cheaped_last = True
        self._emergencies = max(0, self._emergencies - 1)
        self.cheap(pool)

    def _tolerate(self, pool: Pool) -> None:
        self._emergencies = max(0, self._emergencies - 1)
        self._tolerated += 1
        if self._tolerated >= 3:
            self._put_off(pool)
        else:
            self._next_cheap_s += self._overload

    def _relax(self) -> None:
        self._multiplier = max(self._MULTIPLIER, self._multiplier - 1)

    def _put_off(self, pool: Pool) -> None:
        """Set the time before which nobody is cheaped."""
        times = self._BACKLOG_MULTIPLIER if self._emergencies else self._multiplier
        self._next_cheap_s = pool.now_s + self._overload * times


def enough_for(load: Load, limits: Limits) -> int:
    """Return how many workers a steady load as high as the peak of this one is given."""
    if load.profile is None or load.need is not None:
        return load.need_at(0.0, limits)
    threads = load.profile.peak * load.mean_service_s
    return max(
        limits.min_workers,
        min(limits.max_workers, ceil((threads + sqrt(threads)) / limits.threads - 1e-9)),
    )


def rivals(load: Load, limits: Limits) -> list[Rule]:
    """Return the other rules, new. Spare servers and steps grow with the limits."""
    size = max(1, limits.max_workers // 16)
    return [
        Prefork(2 * size, 4 * size),
        PhpFpm(2 * size, 4 * size),
        UwsgiSpare(3, size),
        UwsgiSpare(1, 4 * size),
        UwsgiBusyness(3, size, 33),
        UwsgiBusyness(1, 4 * size, 8),
        Fixed("fixed at maximum", limits.max_workers),
        Fixed("fixed at need", enough_for(load, limits)),
    ]
