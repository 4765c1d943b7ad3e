"""What this server is to reach, scenario by scenario, as data; and whether a run has reached it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.sample import FIGURES, Sample
from benchmarks.servers import CANNED, OURS
from benchmarks.summary import Spread, best, merit_of, ratios, values

BEST: Final = "best peer"


@dataclass(frozen=True, slots=True)
class Bound:
    """One promise.

    figure: the scenario's merit if empty.
    against: a peer, BEST, or None for the figure itself. Against a peer the bound is a factor:
        so many times as good, however the figure counts.
    bound, aim: what must be reached, and what is hoped for; None: there is none.
    """

    scenario: str
    against: str | None
    bound: float | None
    aim: float | None = None
    figure: str = ""

    @property
    def name(self) -> str:
        """The figure's name."""
        return self.figure or merit_of(self.scenario)

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.against is not None or FIGURES[self.name].higher_is_better

    def holds(self, spread: Spread) -> bool | None:
        """Return whether the median keeps the bound; None if there is no bound."""
        return _reaches(spread.median, self.bound, at_least=self.at_least)

    def reaches_aim(self, spread: Spread) -> bool | None:
        """Return whether the median reaches the aim; None if there is no aim."""
        return _reaches(spread.median, self.aim, at_least=self.at_least)


BOUNDS: Final = (
    Bound("hello", "granian", 1.1),
    Bound("hello", "bjoern", 0.70, 0.85),
    Bound("hello", "gunicorn", 8.0),
    Bound("hello", CANNED, None, 0.80),
    Bound("browser", "granian", 1.0),
    Bound("browser", "bjoern", 0.60, 0.80),
    Bound("flask", "granian", 1.0),
    Bound("flask", "bjoern", 0.85, 0.95),
    Bound("flask", "waitress", 2.2),
    Bound("flask", "gunicorn", 2.4),
    Bound("post", "granian", 1.0),
    Bound("post", BEST, None, 1.0),
    Bound("connect", "granian", 1.0),
    Bound("connect", BEST, None, 1.0),
    # bjoern answers the first only of requests sent together, so there is no factor over it.
    Bound("pipelined", "bjoern", 1.0),
    Bound("pipelined", BEST, 1.0),
    Bound("pipelined", CANNED, None, 0.9),
    Bound("large", BEST, 0.9, 1.0),
    Bound("file", BEST, 0.9, 1.0),
    Bound("upload", BEST, 0.9, 1.0),
    Bound("sleep", None, 0.95, 0.98, "ideal"),
    Bound("sleep", None, 13_000.0, None, "p99_us"),
    Bound("mixed", None, 3.0, 2.0, "tail"),
    Bound("idle", None, 0.95, 0.98, "kept"),
    Bound("idle", None, 4096.0, 2048.0, "idle_bytes"),
    Bound("start", "gunicorn", 1 / 1.1, 1.0, "start_ms"),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A bound beside what was measured.

    peer: against which server, where the bound says only "the best".
    """

    bound: Bound
    peer: str
    spread: Spread


def judge(samples: Sequence[Sample], server: str = OURS) -> Iterator[Judged]:
    """Yield every bound for which `samples` have what it takes."""
    for bound in BOUNDS:
        if bound.against is None:
            own = list(values(samples, bound.scenario, server, bound.name).values())
            peer, spread = "", Spread.of(own)
        else:
            peer = bound.against
            if peer == BEST:
                peer = best(samples, bound.scenario, {server, CANNED})
            spread = ratios(samples, bound.scenario, server, peer, bound.name)
        if spread is not None:
            yield Judged(bound, peer, spread)


def _reaches(value: float, limit: float | None, *, at_least: bool) -> bool | None:
    if limit is None:
        return None
    return value >= limit if at_least else value <= limit
