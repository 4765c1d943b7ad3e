"""The loads: what comes, how long it takes, and what happens to the workers meanwhile.

All are written for 16 threads and 2 cores, and grow with the number of workers. A recorded
load is made by `trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, exp
from random import Random
from typing import Final

from benchmarks.simulation.profile import Point, Profile

Request = tuple[float, float]  # when it comes, how long it takes

_EPSILON: Final = 1e-9
_THREADS: Final = 16
_CORES_PER_THREAD: Final = 1 / 8
_QUICK: Final = 0.2
# Requests per second in each hour of a day, mean 60: a quiet night, a dip at noon.
_HOURS: Final = (
    *(14, 9, 7, 6, 6, 10, 22, 45, 75, 96, 105, 100),
    *(80, 88, 102, 106, 100, 94, 92, 100, 104, 82, 50, 26),
)
_SECONDS_PER_HOUR: Final = 60.0


@dataclass(frozen=True)
class Limits:
    """Between how many workers, of how many threads, on how many cores."""

    min_workers: int
    max_workers: int
    threads: int
    cores: float

    @classmethod
    def of(cls, workers: int, threads: int) -> Limits:
        """Return the limits for at most so many workers of so many threads."""
        cores = max(1, round(workers * threads * _CORES_PER_THREAD))
        return cls(max(1, workers // 8), workers, threads, cores)


@dataclass(frozen=True)
class Load:
    """One load.

    profile: requests per second; of a closed loop, None.
    service: how long a request takes alone. cpu_share: what part of that is computing;
        it comes last, as when an answer is made of what the database said.
    clients: in a closed loop, so many ask, each as soon as it has its answer.
    recorded: yields the requests themselves, instead of profile and service.
    boot_s: mean time from fork to ready; preload: how the manager takes it to be.
    boot_failures: the share of workers that die before they are ready.
    kill_every_s, kills: a random ready worker is killed so often, between two times.
    measured: requests that come between these times count for the quantiles.
    settled_s: spawns and retirements after that are counted by themselves.
    quiet_s: when the load is over, and `quiet_share` of the workers are to be enough again.
    need: workers that are enough, where the profile cannot tell.
    """

    name: str
    title: str
    profile: Profile | None
    service: Callable[[Random], float]
    mean_service_s: float
    length_s: float
    measured: tuple[float, float]
    settled_s: float
    cpu_share: float = 0.0
    clients: int = 0
    recorded: Callable[[], Iterator[Request]] | None = None
    boot_s: float = 0.02
    preload: bool = True
    boot_failures: float = 0.0
    kill_every_s: float = 0.0
    kills: tuple[float, float] = (0.0, 0.0)
    quiet_s: float | None = None
    quiet_share: float = 0.25
    need: int | None = None

    def need_at(self, time_s: float, limits: Limits) -> int:
        """Return how many workers just carry what comes at a time, within the limits."""
        need = self.need
        if need is None:
            rate = self.profile.at(time_s) if self.profile else 0.0
            need = ceil(rate * self.mean_service_s / limits.threads - _EPSILON)
        return max(limits.min_workers, min(limits.max_workers, need))

    def requests(self, random: Random) -> Iterator[Request]:
        """Yield what comes by itself, in order of time."""
        if self.recorded is not None:
            yield from self.recorded()
        elif self.profile is not None:
            for time_s in self.profile.arrivals(random):
                yield time_s, self.service(random)


def _always(seconds: float) -> Callable[[Random], float]:
    return lambda random: seconds


def _slow_tail(seconds: float) -> Callable[[Random], float]:
    return lambda random: 20 * seconds if random.random() < 0.01 else seconds


def _open(
    name: str, title: str, points: tuple[Point, ...], service_s: float = 0.1, settled_s: float = 0.0
) -> Load:
    profile = Profile(points)
    length_s = profile.seconds
    return Load(
        name=name,
        title=title,
        profile=profile,
        service=_always(service_s),
        mean_service_s=service_s,
        length_s=length_s,
        measured=(settled_s, length_s),
        settled_s=settled_s,
    )


_STEP_POINTS: Final = ((0.0, 5.0), (10.0, 5.0), (10.0, 120.0), (25.0, 120.0), (25.0, 5.0))


def _step(name: str, title: str) -> Load:
    load = _open(name, title, (*_STEP_POINTS, (60.0, 5.0)), settled_s=15.0)
    return replace(load, measured=(10.0, 25.0), quiet_s=25.0)


def _ramp() -> Load:
    points = ((0.0, 5.0), (10.0, 5.0), (70.0, 140.0), (80.0, 140.0), (110.0, 5.0), (140.0, 5.0))
    return replace(_open("ramp", "5 to 140 and back to 5 requests/s", points), quiet_s=110.0)


def _square() -> Load:
    points: list[Point] = []
    for wave in range(6):
        start_s = 20.0 * wave
        points += [(start_s, 120.0), (start_s + 10, 120.0), (start_s + 10, 5.0), (start_s + 20, 5)]
    return _open("square", "120 and 5 requests/s, 10 s each", tuple(points))


def _steady(name: str, title: str, length_s: float) -> Load:
    return _open(name, title, ((0.0, 60.0), (length_s, 60.0)), settled_s=length_s / 8)


def _slow_tailed() -> Load:
    load = _steady("slow-tail", "60 requests/s, 1 % of them take 2 s", 240.0)
    return replace(load, service=_slow_tail(0.1), mean_service_s=0.1 * (0.99 + 0.2))


def _day() -> Load:
    hours = [(hour * _SECONDS_PER_HOUR, float(rate)) for hour, rate in enumerate(_HOURS)]
    points = (*hours, (24 * _SECONDS_PER_HOUR, float(_HOURS[0])))
    return _open("day", "a day of 24 minutes, 6 to 106 requests/s", points)


def _flash() -> Load:
    decay = tuple((20.5 + age, 20 + 180 * exp(-age / 15)) for age in range(90))
    load = _open("flash", "20 requests/s, suddenly 200, fading", ((0, 20), (20, 20), *decay))
    points = (*load.profile.points, (140.0, 20.0)) if load.profile else ()
    load = replace(load, profile=Profile(points), length_s=140.0, measured=(20.0, 140.0))
    return replace(load, quiet_s=90.0, quiet_share=0.5)


def _slow_boot(boot_s: float) -> Load:
    load = _step(f"boot-{boot_s:g}s", f"the step, with workers that take {boot_s:g} s to boot")
    return replace(load, boot_s=boot_s, preload=False)


def _crashes() -> Load:
    load = _steady("crashes", "60 requests/s; from 20 to 40 s a worker is killed every second", 60)
    return replace(load, kill_every_s=1.0, kills=(20.0, 40.0))


def _bad_boots() -> Load:
    load = _step("bad-boots", "the step, and three of ten workers die before they are ready")
    return replace(load, boot_failures=0.3)


def _cpu_closed() -> Load:
    load = _open("cpu-closed", "32 clients in a row, 5 ms of computing each", ((0, 0), (60, 0)))
    load = replace(load, profile=None, service=_always(0.005), mean_service_s=0.005, clients=32)
    return replace(load, cpu_share=1.0, need=2, settled_s=10.0, measured=(10.0, 60.0))


def _cpu_open() -> Load:
    points = ((0.0, 70.0), (90.0, 70.0))
    title = "70 requests/s of 20 ms of computing: 70 % of the cores"
    load = _open("cpu-open", title, points, service_s=0.02, settled_s=15.0)
    return replace(load, cpu_share=1.0, need=2)


def _mixed() -> Load:
    points = ((0.0, 20.0), (15.0, 20.0), (15.0, 140.0), (60.0, 140.0), (60.0, 20.0), (90.0, 20.0))
    title = "20, 140, 20 requests/s, 40 ms of waiting and 10 ms of computing each"
    load = _open("mixed", title, points, service_s=0.05, settled_s=25.0)
    return replace(load, cpu_share=0.2, measured=(15.0, 60.0), quiet_s=60.0)


def _all() -> tuple[Load, ...]:
    return (
        _step("step", "5, 120, 5 requests/s of 100 ms"),
        _ramp(),
        _square(),
        _steady("steady", "60 requests/s, Poisson", 240.0),
        _day(),
        _flash(),
        _slow_boot(0.5),
        _slow_boot(5.0),
        _slow_tailed(),
        _crashes(),
        _bad_boots(),
        _cpu_closed(),
        _cpu_open(),
        _mixed(),
    )


NAMES: Final = tuple(load.name for load in _all())


def loads(limits: Limits, *, quick: bool = False) -> Mapping[str, Load]:
    """Return all loads in the size that fits the limits; quick: a fifth as long."""
    size = limits.max_workers * limits.threads / _THREADS
    times = _QUICK if quick else 1.0
    return {load.name: _fitted(load, size, times) for load in _all()}


def _fitted(load: Load, size: float, times: float) -> Load:
    """Return the load `size` times as high and `times` as long."""
    return replace(
        load,
        profile=load.profile and load.profile.scaled(size, times),
        length_s=load.length_s * times,
        measured=(load.measured[0] * times, load.measured[1] * times),
        settled_s=load.settled_s * times,
        clients=ceil(load.clients * size),
        kill_every_s=load.kill_every_s / size if load.kill_every_s else 0.0,
        kills=(load.kills[0] * times, load.kills[1] * times),
        quiet_s=None if load.quiet_s is None else load.quiet_s * times,
        need=None if load.need is None else ceil(load.need * size),
    )
