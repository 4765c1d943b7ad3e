"""From what was seen over time to figures: when enough workers were there, how often it changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from benchmarks.elastic_load import Answered
from benchmarks.latency import quantile

NEVER: Final = math.inf
_NS: Final = 1_000_000_000
_LEAVING: Final = "KillPending"
_READY: Final = ("Busy", "Idle")


class Look(Protocol):
    """What these functions need of a moment."""

    @property
    def at_ns(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def kill_pending(self) -> int: ...
    @property
    def workers(self) -> dict[int, str]: ...


@dataclass(frozen=True, slots=True)
class Changes:
    """How often the number of workers was changed."""

    spawned: int = 0
    retired: int = 0  # told to leave
    revived: int = 0  # told to stay after all

    @property
    def count(self) -> int:
        """All of them."""
        return self.spawned + self.retired + self.revived


@dataclass(frozen=True, slots=True)
class Window:
    """A short span of time: what came, what of it was answered how late, how many workers."""

    at_s: float
    arrivals_per_s: float
    p99_ms: float
    total: float


def milliseconds(ordered_ns: Sequence[int], fraction: float) -> float:
    """Return a quantile of sorted durations; infinite if there are none."""
    return quantile(ordered_ns, fraction) / 1e6 if ordered_ns else NEVER


def seconds_until_ready(looks: Sequence[Look], from_ns: int, needed: int) -> float:
    """Return how long it took from a moment on until so many workers were ready."""
    for look in looks:
        if look.at_ns >= from_ns and look.ready >= needed:
            return (look.at_ns - from_ns) / _NS
    return NEVER


def seconds_until_back(looks: Sequence[Look], from_ns: int, most: int) -> float:
    """Return how long it took from a moment on until there were so many workers for good."""
    later = [look for look in looks if look.at_ns >= from_ns]
    above = [number for number, look in enumerate(later) if look.total > most]
    if not later or (above and above[-1] == len(later) - 1):
        return NEVER
    back = later[above[-1] + 1] if above else later[0]
    return (back.at_ns - from_ns) / _NS


def rebounds(counts: Sequence[int]) -> int:
    """Return how often a number of workers rose again after it had fallen."""
    found = 0
    fell = False
    for before, after in pairwise(counts):
        if after < before:
            fell = True
        elif after > before and fell:
            found += 1
            fell = False
    return found


def staying(look: Look) -> int:
    """Return how many workers are to stay."""
    return look.total - look.kill_pending


def changes(looks: Sequence[Look]) -> Changes:
    """Count what the manager did: newcomers, those told to leave, those taken back."""
    spawned = retired = revived = 0
    for before, after in pairwise(looks):
        spawned += len(after.workers.keys() - before.workers.keys())
        for pid, state in before.workers.items():
            was_leaving = state == _LEAVING
            # Whoever is gone at the next look was told to between the two.
            is_leaving = after.workers.get(pid, _LEAVING) == _LEAVING
            retired += is_leaving and not was_leaving
            revived += was_leaving and not is_leaving
    return Changes(spawned, retired, revived)


def seconds_until_replaced(looks: Sequence[Look], killed_ns: int, pid: int, needed: int) -> float:
    """Return how long after a kill as many workers were ready as there are to be."""
    for look in looks:
        # The manager may not have noticed the death at the first look.
        if look.at_ns > killed_ns and pid not in look.workers and look.ready >= needed:
            return (look.at_ns - killed_ns) / _NS
    return NEVER


def ready_pids(look: Look) -> list[int]:
    """Return the workers that serve."""
    return [pid for pid, state in look.workers.items() if state in _READY]


def is_explained(moment_ns: int, kills_ns: Sequence[int], within_ns: int) -> bool:
    """Whether what broke did so just after a kill."""
    return any(0 <= moment_ns - kill_ns <= within_ns for kill_ns in kills_ns)


def windows(
    answered: Sequence[Answered], looks: Sequence[Look], begin_ns: int, end_ns: int, width_s: float
) -> Iterator[Window]:
    """Cut a span of time into windows, for a curve."""
    width_ns = int(width_s * _NS)
    for at_ns in range(begin_ns, end_ns, width_ns):
        here = [a.duration_ns for a in answered if at_ns <= a.due_ns < at_ns + width_ns]
        totals = [look.total for look in looks if at_ns <= look.at_ns < at_ns + width_ns]
        yield Window(
            (at_ns - begin_ns) / _NS,
            len(here) / width_s,
            quantile(sorted(here), 0.99) / 1e6,
            sum(totals) / len(totals) if totals else math.nan,
        )
