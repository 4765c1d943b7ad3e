"""From samples to figures: medians, and ratios within each round.

Machines differ, and one machine differs from minute to minute; the ratio of two servers in
the same round is what travels. So ratios are made round by round, and their median is taken,
not the ratio of medians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Self

from benchmarks.runner import Sample

# From this share of its core on the generator, not the server, decides the rate.
GENERATOR_LIMIT: Final = 0.95


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
    """One server in one scenario. None: not measured."""

    scenario: str
    server: str
    rate: Spread | None  # requests per second
    ratio: Spread | None  # of its rate to the reference's, in the same round
    p50_us: Spread | None
    p99_us: Spread | None
    cpu_us: Spread | None  # the server's processor time per request
    memory_mb: Spread | None
    errors: int
    generator_bound: bool
    failures: tuple[str, ...]


def rows(samples: Sequence[Sample], reference: str) -> list[Row]:
    """Return a row for each scenario and server, in the order of the samples."""
    keys = dict.fromkeys((sample.scenario, sample.server) for sample in samples)
    return [_row(samples, scenario, server, reference) for scenario, server in keys]


def ratios(samples: Sequence[Sample], scenario: str, server: str, other: str) -> Spread | None:
    """Return by which factor `server` is faster than `other`; None if one was not measured."""
    rates = _rates(samples, scenario, server)
    others = _rates(samples, scenario, other)
    return Spread.of([rates[n] / others[n] for n in rates if others.get(n)])


def _row(samples: Sequence[Sample], scenario: str, server: str, reference: str) -> Row:
    own = [s for s in samples if (s.scenario, s.server) == (scenario, server)]
    measured = [s.measurement for s in own if s.measurement is not None]
    good = [s for s in own if s.measurement is not None]
    return Row(
        scenario,
        server,
        rate=Spread.of([m.rate for m in measured]),
        ratio=ratios(samples, scenario, server, reference),
        p50_us=Spread.of([m.p50_us for m in measured]),
        p99_us=Spread.of([m.p99_us for m in measured]),
        cpu_us=Spread.of([s.cpu_us for s in good]),
        memory_mb=Spread.of([s.memory_mb for s in good]),
        errors=sum(m.errors for m in measured),
        generator_bound=bool(good) and median(s.load_share for s in good) >= GENERATOR_LIMIT,
        failures=tuple(s.failure for s in own if s.failure),
    )


def _rates(samples: Sequence[Sample], scenario: str, server: str) -> dict[int, float]:
    """Return round -> rate."""
    return {
        s.round: s.measurement.rate
        for s in samples
        if (s.scenario, s.server) == (scenario, server) and s.measurement is not None
    }
