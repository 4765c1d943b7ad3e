"""What is noted while a simulation runs, and the figures made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log
from typing import Final

from benchmarks.simulation.loads import Limits, Load

# Values in the same bucket differ by half a per cent.
_STEPS_PER_E: Final = 200.0
_LEAST_S: Final = 1e-6
SAMPLES: Final = 300
_SAMPLE_S: Final = 0.05


class Histogram:
    """Times by their logarithm: quantiles to half a per cent in bounded memory."""

    __slots__ = ("_buckets", "count", "total_s")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Note one time; below a microsecond it is none."""
        self.count += 1
        self.total_s += seconds
        bucket = round(log(seconds / _LEAST_S) * _STEPS_PER_E) if seconds > _LEAST_S else -1
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def quantile(self, part: float) -> float:
        """Return the time that `part` of all do not exceed; 0 if there is none."""
        left = part * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return _LEAST_S * exp(bucket / _STEPS_PER_E) if bucket >= 0 else 0.0
        return 0.0

    @property
    def mean_s(self) -> float:
        """The mean time."""
        return self.total_s / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of a curve. wanted: what the rule aims at, where it says so."""

    at_s: float
    rate: float
    need: int
    live: int
    ready: int
    wanted: int | None
    queue: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out for one rule under one load. Times in seconds.

    changes: spawns and retirements after the load's `settled_s`.
    oscillations: how often it turned from growing to shrinking or back, beyond how often
        the need did; replacing the dead is neither.
    enough_s: the longest time with fewer workers ready than the load needs; None: to the end.
    down_s: from the end of the load to few workers again; None: not reached.
    broken: requests that died with their worker. unserved: still there long after the end.
    least, most: fewest workers after a retirement, most workers ever (starting and ready).
    """

    load: str
    rule: str
    arrived: int
    answered: int
    broken: int
    unserved: int
    wait_p50_s: float
    wait_p99_s: float
    wait_mean_s: float
    latency_p50_s: float
    latency_p99_s: float
    worker_s: float
    mean_workers: float
    settled_workers: float
    spawns: int
    retirements: int
    changes: int
    deaths: int
    oscillations: int
    enough_s: float | None
    down_s: float | None
    has_quiet: bool
    least: int
    most: int
    gave_up: bool


@dataclass
class Notes:
    """Collects while the simulation runs. Nothing after the load's end counts but requests."""

    load: Load
    limits: Limits
    waits: Histogram = field(default_factory=Histogram)
    latencies: Histogram = field(default_factory=Histogram)
    samples: list[Sample] = field(default_factory=list)
    spawns: int = 0
    retirements: int = 0
    changes: int = 0
    deaths: int = 0
    broken: int = 0
    gave_up: bool = False
    least: int = 1 << 30
    most: int = 0
    _worker_s: float = 0.0
    _settled_worker_s: float = 0.0
    _total: int = 0
    _total_since_s: float = 0.0
    _directions: list[int] = field(default_factory=list)
    _to_replace: int = 0
    _short_since_s: float | None = None
    _longest_short_s: float = 0.0
    _down_s: float | None = None
    _sampled_s: float = -1.0

    @property
    def sample_gap_s(self) -> float:
        """How often `look` is to be called."""
        return min(_SAMPLE_S, self.load.length_s / SAMPLES)

    def waited(self, arrived_s: float, wait_s: float) -> None:
        """A request has got its thread."""
        if self.load.measured[0] <= arrived_s < self.load.measured[1]:
            self.waits.add(wait_s)

    def answered(self, arrived_s: float, latency_s: float) -> None:
        """A request is done."""
        if self.load.measured[0] <= arrived_s < self.load.measured[1]:
            self.latencies.add(latency_s)

    def counted(self, now_s: float, total: int) -> None:
        """From now on there are so many workers, in whatever state."""
        start_s, end_s = (min(t, self.load.length_s) for t in (self._total_since_s, now_s))
        self._worker_s += self._total * (end_s - start_s)
        settled_s = max(start_s, self.load.settled_s)
        self._settled_worker_s += self._total * max(0.0, end_s - settled_s)
        self._total, self._total_since_s = total, now_s

    def spawned(self, now_s: float, count: int, live: int) -> None:
        """So many were forked or taken back; that makes `live`."""
        self.most = max(self.most, live)
        replacing = min(count, self._to_replace)
        self._to_replace -= replacing
        self.spawns += count
        self._changed(now_s, count - replacing, 1)
        self._count_change(now_s, replacing)

    def retired(self, now_s: float, live: int) -> None:
        """One was told to leave; that makes `live`."""
        self.least = min(self.least, live)
        self.retirements += 1
        self._changed(now_s, 1, -1)

    def died(self, held: int) -> None:
        """A worker died with so many requests."""
        self.deaths += 1
        self.broken += held
        self._to_replace += 1

    def _changed(self, now_s: float, count: int, direction: int) -> None:
        self._count_change(now_s, count)
        turned = not self._directions or self._directions[-1] != direction
        if count and turned and now_s < self.load.length_s:
            self._directions.append(direction)

    def _count_change(self, now_s: float, count: int) -> None:
        if self.load.settled_s <= now_s < self.load.length_s:
            self.changes += count

    def look(self, now_s: float, live: int, ready: int, wanted: int | None, queue: int) -> None:
        """See where things stand; whenever somebody got ready or died, and now and then."""
        load = self.load
        if now_s > load.length_s:
            return
        need = load.need_at(now_s, self.limits)
        self._judge(now_s, ready < need)
        few = max(self.limits.min_workers, round(load.quiet_share * self.limits.max_workers))
        quiet = load.quiet_s is not None and now_s >= load.quiet_s
        if quiet and self._down_s is None and live <= few and load.quiet_s is not None:
            self._down_s = now_s - load.quiet_s
        if now_s - self._sampled_s >= load.length_s / SAMPLES - 1e-9:
            self._sampled_s = now_s
            rate = load.profile.at(now_s) if load.profile else 0.0
            self.samples.append(Sample(now_s, rate, need, live, ready, wanted, queue))

    def _judge(self, now_s: float, short: bool) -> None:
        if short and self._short_since_s is None:
            self._short_since_s = now_s
        elif not short and self._short_since_s is not None:
            self._longest_short_s = max(self._longest_short_s, now_s - self._short_since_s)
            self._short_since_s = None

    def figures(self, rule: str, now_s: float, arrived: int, answered: int) -> Figures:
        """Return what came out."""
        load = self.load
        self.counted(max(now_s, load.length_s), 0)
        turns = max(0, len(self._directions) - 1)
        return Figures(
            load=load.name,
            rule=rule,
            arrived=arrived,
            answered=answered,
            broken=self.broken,
            unserved=arrived - answered - self.broken,
            wait_p50_s=self.waits.quantile(0.5),
            wait_p99_s=self.waits.quantile(0.99),
            wait_mean_s=self.waits.mean_s,
            latency_p50_s=self.latencies.quantile(0.5),
            latency_p99_s=self.latencies.quantile(0.99),
            worker_s=self._worker_s,
            mean_workers=self._worker_s / load.length_s,
            settled_workers=self._settled_worker_s / max(1e-9, load.length_s - load.settled_s),
            spawns=self.spawns,
            retirements=self.retirements,
            changes=self.changes,
            deaths=self.deaths,
            oscillations=max(0, turns - _turns(sample.need for sample in self.samples)),
            enough_s=None if self._short_since_s is not None else self._longest_short_s,
            down_s=self._down_s,
            has_quiet=load.quiet_s is not None,
            least=min(self.least, self.most),
            most=self.most,
            gave_up=self.gave_up,
        )


def _turns(needs: Iterable[int]) -> int:
    """Return how often a number turns from growing to shrinking or back."""
    signs = [after > before for before, after in pairwise(needs) if after != before]
    return sum(before != after for before, after in pairwise(signs))
