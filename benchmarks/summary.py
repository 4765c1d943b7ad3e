"""From samples to figures: medians, and ratios within each round.

Machines differ, and one machine differs from minute to minute; the ratio of two servers in
the same round is what travels. So ratios are made round by round, and their median is taken,
not the ratio of medians.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Self

from benchmarks.sample import FIGURES, Sample
from benchmarks.scenarios import SCENARIOS

# From this share of its core on the generator, not the server, decides the rate.
GENERATOR_LIMIT: Final = 0.95
MERITS: Final[Mapping[str, str]] = {scenario.name: scenario.merit for scenario in SCENARIOS}


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """Return the spread of `values`; None if there are none."""
        return cls(median(values), min(values), max(values)) if values else None


@dataclass(frozen=True, slots=True)
class Row:
    """One server in one scenario.

    figures: those that were measured, in the order of FIGURES.
    ratio: of its merit to the reference's, in the same round; above 1 it is the better one.
    """

    scenario: str
    server: str
    merit: str
    figures: Mapping[str, Spread]
    ratio: Spread | None
    errors: int
    generator_bound: bool
    failures: tuple[str, ...]


def rows(samples: Sequence[Sample], reference: str) -> list[Row]:
    """Return a row for each scenario and server, in the order of the samples."""
    keys = dict.fromkeys((sample.scenario, sample.server) for sample in samples)
    return [_row(samples, scenario, server, reference) for scenario, server in keys]


def merit_of(scenario: str) -> str:
    """Return the figure by which servers are compared in a scenario."""
    return MERITS.get(scenario, "rate")


def ratios(
    samples: Sequence[Sample], scenario: str, server: str, other: str, figure: str = ""
) -> Spread | None:
    """Return by which factor `server` is better than `other`; None if one was not measured.

    figure: by which one; the scenario's merit if empty. Where less of it is better the factor
        is the other's divided by the server's, so that above 1 is better in any case.
    """
    name = figure or merit_of(scenario)
    own, others = values(samples, scenario, server, name), values(samples, scenario, other, name)
    pairs = [(own[n], others[n]) for n in own if own[n] and others.get(n)]
    if FIGURES[name].higher_is_better:
        return Spread.of([mine / theirs for mine, theirs in pairs])
    return Spread.of([theirs / mine for mine, theirs in pairs])


def values(samples: Sequence[Sample], scenario: str, server: str, figure: str) -> dict[int, float]:
    """Return round -> figure."""
    return {
        sample.round: sample.figures[figure]
        for sample in samples
        if (sample.scenario, sample.server) == (scenario, server) and figure in sample.figures
    }


def best(samples: Sequence[Sample], scenario: str, others_than: Collection[str]) -> str:
    """Return the server whose median merit is best; empty if none was measured."""
    merit = merit_of(scenario)
    names = dict.fromkeys(s.server for s in samples if s.scenario == scenario)
    medians = {
        name: median(found.values())
        for name in names
        if name not in others_than and (found := values(samples, scenario, name, merit))
    }
    choose = max if FIGURES[merit].higher_is_better else min
    return choose(medians, key=lambda name: medians[name]) if medians else ""


def _row(samples: Sequence[Sample], scenario: str, server: str, reference: str) -> Row:
    own = [s for s in samples if (s.scenario, s.server) == (scenario, server)]
    figures = {}
    for name in FIGURES:
        spread = Spread.of([s.figures[name] for s in own if name in s.figures])
        if spread is not None:
            figures[name] = spread
    load = figures.get("load_share")
    return Row(
        scenario,
        server,
        merit_of(scenario),
        figures,
        ratio=ratios(samples, scenario, server, reference),
        errors=sum(s.errors for s in own),
        generator_bound=load is not None and load.median >= GENERATOR_LIMIT,
        failures=tuple(s.failure for s in own if s.failure),
    )
