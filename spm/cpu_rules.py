"""What CPU time says about the number of workers: when one more helps, and when none does.

A worker is at most one core's worth of Python, for its threads share a GIL. So if every
worker's core is full and the machine has another, one more worker helps, whatever the
number of threads. And workers beyond what fills all cores only wait for each other. How many
that is, is told by their *appetite*: the share of a core that a worker would use if it had one
for itself. Workers that sleep have hardly any, and there can be as many as they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, inf
from typing import Final, NamedTuple

from .observation import CpuLook, Memory, Observation, WorkerSeen

# A worker above FULL is taken for CPU-bound; retiring must not push the others above KEEP. Far
# enough apart that one worker at 0.86 that becomes two at 0.43 does not become one again.
FULL: Final = 0.85
KEEP: Final = 0.7
_LEAST_APPETITE: Final = 0.01
_MACHINE_FULL: Final = 0.9
# Somebody waits for a core so much of the time: a newcomer would, too.
_PRESSED: Final = 0.6
# How long before the workers' appetite is believed to be another.
_APPETITE_S: Final = 2.0
# Workers are not always all at work. And if those that wait are of another kind than those
# that compute, the next look finds a smaller appetite, and room for more.
_MARGIN: Final = 1.25
_ROUNDING: Final = 0.3
# In cores: with less in use nobody is in anybody's way, and what is measured is housekeeping.
_WORKING: Final = 0.5
_HOUSEKEEPING: Final = 0.05
_EPSILON: Final = 1e-9
# One thread at a time runs or waits: together 1, but for what is not measured exactly.
_EXCLUSIVE: Final = 1.25


class Verdict(NamedTuple):
    """What the rules come to. most: so many workers can be of use; wanted: asked for; keep."""

    most: int
    wanted: int = 0
    keep: int = 0


def judge(
    seen: Observation,
    ready: Sequence[WorkerSeen],
    live: int,
    memory: Memory,
    cores: int,
    persist_s: float,
    now_s: float,
) -> tuple[Memory, Verdict]:
    """Return what the CPU time of the ready workers says.

    live: ready and starting ones. cores: how many may be used. persist_s: how long all
    workers must have been full before another is asked for.
    """
    used = sum(worker.cpu for worker in ready)
    memory = _learn_appetite(seen, ready, memory, now_s)
    most = 1 << 20
    if memory.appetite:
        most = max(1, ceil(_MARGIN * cores / memory.appetite - _ROUNDING))
        # One more than of use does no harm; retiring it could, if the appetite changes.
        most = max(most, min(live, most + 1))
    memory, wanted = _one_more(seen, ready, used, live, memory, cores, persist_s, now_s)
    return memory, Verdict(most, wanted, ceil(used / KEEP - _EPSILON))


def _learn_appetite(
    seen: Observation, ready: Sequence[WorkerSeen], memory: Memory, now_s: float
) -> Memory:
    """Follow the workers' appetite while they work; 0: they hardly do."""
    look = seen.cpu_look or _slow_look(ready)
    if look.load < _WORKING:
        return memory._replace(appetite=0.0, appetite_s=now_s)
    appetite = look.appetite
    if memory.appetite:
        share = min(1.0, (now_s - memory.appetite_s) / _APPETITE_S)
        appetite = memory.appetite + share * (appetite - memory.appetite)
    return memory._replace(appetite=max(_LEAST_APPETITE, appetite), appetite_s=now_s)


def _slow_look(ready: Sequence[WorkerSeen]) -> CpuLook:
    """Return the same of the last half second, in which workers may have been idle."""
    used = sum(worker.cpu for worker in ready)
    wait = sum(worker.run_wait for worker in ready)
    work = sum(worker.work for worker in ready)
    return CpuLook(used + wait, used / max(used, work - wait, _EPSILON))


def is_at_work(busy: int, cpu: float) -> bool:
    """Whether a worker has an appetite at all: those that idle say nothing of the others."""
    return busy > 0 or cpu >= _HOUSEKEEPING


def share_without_core(cpu: float, waits: float) -> float:
    """Return the share of the time in which a worker was ready to run and had no core.

    waits: what its threads have waited, added up. As long as the GIL is what they fight for,
    one at a time runs or waits for a core; but threads that wake up from sleep one by one
    may wait at the same time, and then it is the share in which none does that counts.
    """
    exclusive = cpu + waits <= _EXCLUSIVE
    return min(1.0, waits) if exclusive else 1.0 - exp(-waits)


def appetite_of(cpu: float, run_wait: float) -> float:
    """Return the share of a core that a worker would use if it had one for itself.

    Of the time in which it did not wait for a core, the share in which it used one.
    """
    not_waited = 1.0 - run_wait
    if not_waited <= _EPSILON:
        return 1.0  # it has waited all the time, and wanted one all the time
    return min(1.0, cpu / max(cpu, not_waited))


def _one_more(
    seen: Observation,
    ready: Sequence[WorkerSeen],
    used: float,
    live: int,
    memory: Memory,
    cores: int,
    persist_s: float,
    now_s: float,
) -> tuple[Memory, int]:
    """Return how many workers full ones ask for; 0: they do not.

    One more at a time, and none while one is starting: each newcomer changes the very
    number that is looked at.
    """
    if not ready or used < FULL * len(ready):
        return memory._replace(cpu_full_since_s=inf), 0
    since_s = min(memory.cpu_full_since_s, now_s)
    memory = memory._replace(cpu_full_since_s=since_s)
    pressed = seen.machine_cpu >= _MACHINE_FULL or seen.cpu_pressure >= _PRESSED
    if pressed or live >= cores or live > len(ready) or now_s - since_s < persist_s:
        return memory, 0
    # The newcomer gets the same time to take its share before the next one is asked for.
    return memory._replace(cpu_full_since_s=now_s), live + 1
