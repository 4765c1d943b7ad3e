"""Checks: a figure, the bound that it must keep, and what several rounds say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

HOLDS: Final = "holds"
FAILS: Final = "does not hold"
_SLACK: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of one round.

    bound: what it may be at the most, or with `at_least` at the least.
    each: every round must keep the bound, not only their median: for what must never happen.
    """

    what: str
    value: float
    bound: float
    unit: str = ""
    at_least: bool = False
    each: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one round of one scenario brought.

    figures: further ones, not judged. curve: for the report. failure: why there is nothing.
    is_peer: another server, shown for comparison; it promises nothing.
    """

    scenario: str
    round: int
    checks: Sequence[Check] = ()
    figures: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()
    curve: Sequence[object] = ()
    failure: str = ""
    is_peer: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all rounds say of one figure. value: the median, or the worst if each counts."""

    scenario: str
    check: Check  # of the first round; its value does not count
    value: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; no figure keeps none."""
        if math.isnan(self.value):
            return False
        if self.check.at_least:
            return self.value >= self.check.bound - _SLACK
        return self.value <= self.check.bound + _SLACK


def judge(outcomes: Sequence[Outcome]) -> list[Verdict]:
    """Return a verdict for each figure, in the order in which they came."""
    found: dict[tuple[str, str], list[Check]] = {}
    for outcome in _own(outcomes):
        for check in outcome.checks:
            found.setdefault((outcome.scenario, check.what), []).append(check)
    return [_judge(scenario, checks) for (scenario, _), checks in found.items()]


def all_hold(outcomes: Sequence[Outcome]) -> bool:
    """Whether every bound is kept and every round came to its end."""
    own = _own(outcomes)
    failed = any(outcome.failure or not outcome.checks for outcome in own)
    return bool(own) and not failed and all(verdict.holds for verdict in judge(own))


def _own(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.is_peer]


def _judge(scenario: str, checks: Sequence[Check]) -> Verdict:
    first = checks[0]
    values = [check.value for check in checks]
    if any(math.isnan(value) for value in values):
        return Verdict(scenario, first, math.nan, math.nan, math.nan)
    worst = min(values) if first.at_least else max(values)
    value = worst if first.each else median(values)
    return Verdict(scenario, first, value, min(values), max(values))
