"""What one turn gives: a sample with named figures, and what each figure means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Figure:
    """How a figure is shown, and which way is better."""

    name: str
    head: str  # of its column
    form: str = ",.0f"
    factor: float = 1.0  # from the value to what is shown
    higher_is_better: bool = False
    meaning: str = ""


_ALL: Final = (
    Figure("rate", "requests/s", higher_is_better=True, meaning="requests answered per second"),
    Figure("mb_s", "MB/s", higher_is_better=True, meaning="megabytes of content per second"),
    Figure("p50_us", "p50 ms", ".2f", 1e-3, meaning="median of the latencies"),
    Figure("p90_us", "p90 ms", ".2f", 1e-3, meaning="90th percentile of the latencies"),
    Figure("p99_us", "p99 ms", ".2f", 1e-3, meaning="99th percentile of the latencies"),
    Figure("p999_us", "p99.9 ms", ".2f", 1e-3, meaning="99.9th percentile of the latencies"),
    Figure("cpu_us", "CPU us", ",.1f", meaning="processor time of all its processes per request"),
    Figure("memory_mb", "MB", ",.0f", meaning="memory of all its processes (PSS) after the load"),
    Figure("load_share", "load", ".0%", meaning="share of its core that the generator took"),
    Figure("syscalls", "syscalls", ",.1f", meaning="system calls per request, in a turn apart"),
    Figure("switches", "switches", ",.2f", meaning="context switches per request"),
    Figure("start_ms", "start ms", meaning="from the start to the first answer"),
    Figure(
        "fork_ms",
        "fork ms",
        meaning="until a killed worker has been replaced and answers",
    ),
    Figure("idle_bytes", "idle bytes", meaning="worker memory for each idle connection"),
    Figure(
        "kept",
        "kept",
        ".3f",
        higher_is_better=True,
        meaning="rate beside idle connections, divided by the rate without them",
    ),
    Figure(
        "tail",
        "tail",
        ".2f",
        meaning="p99 of quick requests beside slow ones, divided by their p99 without these",
    ),
    Figure("tail_at_rate", "tail at rate", ".2f", meaning="the same, at a fixed rate"),
    Figure(
        "ideal",
        "of ideal",
        ".3f",
        higher_is_better=True,
        meaning="rate, divided by what the waiting alone would allow",
    ),
)
FIGURES: Final[Mapping[str, Figure]] = {figure.name: figure for figure in _ALL}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a measuring module found out in one turn."""

    figures: Mapping[str, float] = field(default_factory=dict)  # name (see FIGURES) -> value
    errors: int = 0  # answers that were not as they should be
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One server's turn in one round: figures, or why there are none."""

    scenario: str
    round: int
    server: str
    figures: Mapping[str, float] = field(default_factory=dict)
    errors: int = 0
    notes: tuple[str, ...] = ()
    failure: str = ""
