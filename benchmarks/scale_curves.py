"""The curves: what grows, how far, and what is looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from benchmarks.apps import SLEEP_S
from benchmarks.scale_apps import COMPUTE_S

THREADS: Final = 8  # as in the scenarios of the suite, where threads are not what grows
CONNECTIONS: Final = 32
WORKERS_CONNECTIONS: Final = 64
HELLO_APP: Final = "benchmarks.apps:hello"


@dataclass(frozen=True, slots=True)
class Curve:
    """One thing that grows.

    kind: how it is measured, see `scale_measure.MEASURES`.
    sizes: how large it is at each point.
    figure: the figure whose shape is named and that is drawn.
    others: further figures for the table.
    drawn: those of them that have a panel of their own.
    should_be_flat: else linear will do.
    needs_threads, needs_workers: says nothing about a server with one of them only.
    """

    name: str
    summary: str
    kind: str
    unit: str
    sizes: tuple[int, ...]
    figure: str
    others: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    app: str = HELLO_APP
    path: str = "/"
    should_be_flat: bool = False
    needs_threads: bool = False
    needs_workers: bool = False

    def up_to(self, largest: int) -> Curve:
        """Return the curve without the points beyond `largest`."""
        return replace(self, sizes=tuple(size for size in self.sizes if size <= largest))


_COSTS: Final = ("rate",)
_DECADES: Final = (0, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
_WORKERS: Final = (1, 2, 4, 8)

CURVES: Final = (
    Curve(
        "idle",
        "hello beside idle connections",
        "idle",
        "idle connections",
        (10, 100, 1_000, 10_000),
        "cpu_us",
        _COSTS,
        should_be_flat=True,
    ),
    Curve(
        "headers",
        "hello with header fields that stay the same on a connection",
        "headers",
        "header fields",
        (1, 3, 10, 30, 100),
        "cpu_us",
        _COSTS,
    ),
    Curve(
        "changing",
        "hello with header fields, one of which changes with each request",
        "changing",
        "header fields",
        (2, 3, 10, 30, 100),
        "cpu_us",
        _COSTS,
    ),
    Curve(
        "response",
        "a body out of memory",
        "response",
        "bytes of response",
        _DECADES,
        "cpu_us",
        ("rate", "mb_s"),
        app="benchmarks.scale_apps:body",
    ),
    Curve(
        "request",
        "a body that the application reads",
        "request",
        "bytes of request",
        _DECADES,
        "cpu_us",
        ("rate", "mb_s"),
        app="benchmarks.scale_apps:upload",
    ),
    Curve(
        "threads",
        f"the application sleeps {SLEEP_S * 1000:.0f} ms, as many connections as threads",
        "threads",
        "threads",
        (1, 2, 4, 8, 16, 32, 64),
        "ideal",
        ("rate", "cpu_us", "p99_us"),
        drawn=("cpu_us",),
        app="benchmarks.apps:sleep",
        should_be_flat=True,
        needs_threads=True,
    ),
    Curve(
        "workers",
        "hello, nothing pinned, the load generator beside the workers",
        "workers",
        "workers",
        _WORKERS,
        "cpu_us",
        _COSTS,
        drawn=_COSTS,
        should_be_flat=True,
        needs_workers=True,
    ),
    Curve(
        "computing",
        f"the application computes {COMPUTE_S * 1000:.0f} ms, nothing pinned",
        "workers",
        "workers",
        _WORKERS,
        "cpu_us",
        _COSTS,
        drawn=_COSTS,
        app="benchmarks.scale_apps:compute",
        should_be_flat=True,
        needs_workers=True,
    ),
    Curve(
        "memory",
        "memory of all processes beside idle connections; bytes for each beyond the first ten",
        "memory",
        "idle connections",
        (100, 1_000, 10_000),
        "memory_mb",
        ("idle_bytes",),
        drawn=("idle_bytes",),
    ),
    Curve(
        "pss",
        "memory of all processes, Flask, after a second of load",
        "pss",
        "workers",
        _WORKERS,
        "memory_mb",
        app="benchmarks.flask_app:app",
        path="/json",
        needs_workers=True,
    ),
    Curve(
        "start",
        "from start, and from the fork of the process that answers, to the first answer; Flask",
        "start",
        "workers",
        _WORKERS,
        "start_ms",
        ("fork_ms",),
        drawn=("fork_ms",),
        app="benchmarks.scale_born_app:app",
        should_be_flat=True,
    ),
)
