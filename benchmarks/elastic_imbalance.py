"""Imbalance: what a few slow connections of one worker do to the quick ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.elastic_load import Connection, Load, Seen
from benchmarks.elastic_scaling import PATIENCE_S, said
from benchmarks.elastic_series import milliseconds
from benchmarks.elastic_server import Shape, serving
from benchmarks.elastic_verdict import Check, Outcome
from benchmarks.hostile import get

FAST: Final = get("/")
SLOW: Final = get("/sleep?ms=1000")
SLOW_S: Final = 1.0
_CONNECTIONS: Final = 16
_SLOW_ONES: Final = 4
_SHOWN: Final = 40
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Imbalance:
    """What was seen before and after four connections turned slow."""

    held: Counter[int]  # connections of each worker before
    unloaded: Sequence[int]  # sorted durations, ns
    others: Seen
    slow: Seen
    begin_ns: int  # of the time with slow ones
    end_ns: int

    @property
    def loaded(self) -> list[int]:
        """How long the others' requests took then, sorted."""
        return self.others.durations_ns(self.begin_ns, self.end_ns)

    @property
    def slow_share(self) -> float:
        """The slow ones' rate, as a share of one request each second and connection."""
        # A quick request may have been under way when they turned slow; of the last slow one
        # only what lies within the time counts.
        slow = [a for a in self.slow.answered if a.duration_ns >= SLOW_S * _NS]
        whole = sum(min(1.0, (self.end_ns - a.due_ns) / a.duration_ns) for a in slow)
        return whole * SLOW_S / (_SLOW_ONES * (self.end_ns - self.begin_ns) / _NS)


def imbalance(name: str, number: int, *, quick: bool) -> Outcome:
    """Let four connections of the most crowded worker turn slow, and measure the others."""
    with serving(Shape(2, 8, 2)) as target, Load(target.address, seed=number) as load:
        seen = turn_slow(load, quick=quick)
    return judge_imbalance(name, number, seen)


def turn_slow(load: Load, *, quick: bool) -> Imbalance:
    """Keep 16 connections, and let four of the most crowded worker turn slow."""
    unloaded_s, loaded_s = (5, 8) if quick else (20, 30)
    kept = load.keep(_CONNECTIONS, FAST, 0.2)
    load.run_for(2)
    begin_ns = time.time_ns()
    load.run_for(unloaded_s)
    unloaded = kept[0].seen.durations_ns(begin_ns, time.time_ns())
    held = Counter(connection.holder for connection in kept)
    slow = most_crowded(kept, held)
    others = next(connection for connection in kept if connection not in slow).seen
    load.change(slow, SLOW, 0)
    slow_seen = load.separate(slow)
    begin_ns = time.time_ns()
    load.run_for(loaded_s)
    end_ns = time.time_ns()
    load.finish(PATIENCE_S)
    return Imbalance(held, unloaded, others, slow_seen, begin_ns, end_ns)


def judge_imbalance(name: str, number: int, seen: Imbalance) -> Outcome:
    """Return the figures of the others, and of the slow ones."""
    others, slow, loaded = seen.others, seen.slow, seen.loaded
    p99s = milliseconds(seen.unloaded, 0.99), milliseconds(loaded, 0.99)
    checks = (
        Check("errors", len(others.failures) + len(slow.failures), 0, each=True),
        Check("p99 of the others / unloaded", p99s[1] / p99s[0], 3, "x"),
        Check("slow ones' share of their ideal rate", seen.slow_share, 0.95, at_least=True),
    )
    figures = {
        "connections per worker": " ".join(map(str, sorted(seen.held.values(), reverse=True))),
        "unloaded p50 ms": milliseconds(seen.unloaded, 0.5),
        "unloaded p99 ms": p99s[0],
        "others p50 ms": milliseconds(loaded, 0.5),
        "others p99 ms": p99s[1],
        "others max ms": milliseconds(loaded, 1),
        "others p99 ms after the first second": milliseconds(
            others.durations_ns(seen.begin_ns + _NS, seen.end_ns), 0.99
        ),
        "late p99 ms": milliseconds(sorted(others.late_ns), 0.99),
        "closed idle": len(others.closed_idle) + len(slow.closed_idle),
    }
    bound_ns = 3e6 * p99s[0]
    beyond = [
        f"{a.duration_ns / 1e6:.0f} ms at {(a.due_ns - seen.begin_ns) / _NS:.2f} s"
        for a in sorted(others.answered, key=lambda answered: answered.due_ns)
        if a.due_ns >= seen.begin_ns and a.duration_ns > bound_ns
    ]
    notes = [f"beyond the bound: {', '.join(beyond[:_SHOWN])}"] if beyond else []
    return Outcome(name, number, checks, figures, [*notes, *said(others), *said(slow)])


def most_crowded(kept: Sequence[Connection], held: Counter[int]) -> list[Connection]:
    """Return four connections of the worker with the most; of the next one if it has fewer."""
    order = [holder for holder, _ in held.most_common()]
    return sorted(kept, key=lambda connection: order.index(connection.holder))[:_SLOW_ONES]
