"""What a call of decide() costs, by the number of workers. Real time, not simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from benchmarks.simulation.loads import Limits
from benchmarks.simulation.smart import policy_of
from spm.observation import Memory, Observation, WorkerSeen, WorkerState
from spm.policy import Policy, decide

SIZES: Final = (1, 10, 100, 1_000, 10_000)
_TICK_S: Final = 0.1
_WARM_UP: Final = 100  # looks: the whole hold is full of peaks
_BUDGET_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of one call: when nothing is to be done, when growing, when retiring."""

    workers: int
    steady_us: float
    growing_us: float
    retiring_us: float


def measure(workers: int) -> Cost:
    """Return what a call costs with so many workers."""
    policy = policy_of(Limits(1, 2 * workers, 1, max(1, workers // 8)))
    half = workers // 2
    times = {
        name: _microseconds(policy, busy, waiting, live)
        for name, busy, waiting, live in (
            ("steady_us", half, 0, workers),
            ("growing_us", workers, workers, workers),
            ("retiring_us", 0, 0, workers),
        )
    }
    return Cost(workers, **times)


def _microseconds(policy: Policy, busy: int, waiting: int, live: int) -> float:
    crew = tuple(
        WorkerSeen(slot, WorkerState.READY, busy=int(slot < busy), cpu=0.1) for slot in range(live)
    )

    def look(number: int, memory: Memory) -> Observation:
        done = number * busy
        return Observation(
            workers=crew,
            arrived=done + busy + waiting,
            ended=done,
            service_s=_TICK_S * done,
            busy_s=_TICK_S * done,
            accept_queue=waiting,
            memory=memory,
        )

    memory = Memory()
    for number in range(_WARM_UP):
        memory = decide(look(number, memory), policy, number * _TICK_S).memory
    # The same look again and again: what was retired or spawned is not there in the next.
    seen = look(_WARM_UP, memory._replace(retired_s=-60.0, spawned_s=-60.0))
    return _time(lambda: decide(seen, policy, _WARM_UP * _TICK_S))


def _time(call: Callable[[], object]) -> float:
    """Return the least time of a call in microseconds: the others were disturbed."""
    least_s, until_s = float("inf"), perf_counter() + _BUDGET_S
    while True:
        began = perf_counter()
        call()
        ended = perf_counter()
        least_s = min(least_s, ended - began)
        if ended > until_s:
            return least_s * 1e6
