"""What a run of `scale` leaves behind: points, medians and shapes, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.report import NOTHING, table
from benchmarks.scale_curves import CURVES, Curve
from benchmarks.scale_shape import (
    FLAT,
    FLAT_FACTOR,
    LINEAR_FACTOR,
    TOO_SHORT,
    WORSE,
    Shape,
    shape,
)

JSON_FORMAT: Final = 1
LABELS: Final[Mapping[str, str]] = {
    "rate": "requests/s",
    "cpu_us": "CPU us/request",
    "p99_us": "p99 us",
    "mb_s": "MB/s",
    "ideal": "of the ideal",
    "per_core": "requests/s/core",
    "idle_bytes": "bytes/connection",
    "memory_mb": "PSS MB",
    "start_ms": "start ms",
    "fork_ms": "fork ms",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One server at one point of a curve in one round: figures, or why there are none."""

    curve: str
    size: int
    round: int
    server: str
    figures: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known about one run."""

    began: str  # ISO 8601, UTC
    machine: Mapping[str, object]
    seconds: float
    skipped: Mapping[str, str]
    points: Sequence[Point]

    def curves(self) -> list[Curve]:
        """Return the curves of which there are points."""
        names = {point.curve for point in self.points}
        return [curve for curve in CURVES if curve.name in names]

    def servers(self, curve: Curve) -> list[str]:
        """Return who took part in a curve, in the order of their turns."""
        return list(dict.fromkeys(p.server for p in self.points if p.curve == curve.name))

    def line(self, curve: Curve, server: str, figure: str) -> list[tuple[int, float]]:
        """Return size and median over the rounds of each point where there is a figure."""
        found: dict[int, list[float]] = {}
        for point in self.points:
            if (point.curve, point.server) == (curve.name, server) and figure in point.figures:
                found.setdefault(point.size, []).append(point.figures[figure])
        return [(size, median(found[size])) for size in sorted(found)]

    def rounds(self, curve: Curve) -> int:
        """Return how many rounds there were of a curve."""
        return max(point.round for point in self.points if point.curve == curve.name)

    def failures(self, curve: Curve) -> list[str]:
        """Return what went wrong, each thing once."""
        found = [p for p in self.points if p.curve == curve.name and p.failure]
        return list(dict.fromkeys(f"{p.server}, at {p.size:,}: {p.failure}" for p in found))


def as_text(results: Results) -> str:
    """Return the report: a Markdown document that is readable as it is."""
    parts = [_heading(results), _shapes(results)]
    for curve in results.curves():
        parts += [f"## {curve.name}: {curve.summary}", _figures(results, curve)]
        if curve.kind == "workers":
            parts.append(_speed_up(results, curve))
        failures = results.failures(curve)
        if failures:
            parts.append("\n".join(f"- {failure}" for failure in failures))
    return "\n\n".join(parts) + "\n"


def as_json(results: Results) -> str:
    """Return the run as JSON, for `read_points` and for whoever looks closer."""
    document = {
        "format": JSON_FORMAT,
        "began": results.began,
        "machine": dict(results.machine),
        "seconds": results.seconds,
        "skipped": dict(results.skipped),
        "shapes": [
            {"curve": curve.name, "server": server, "figure": curve.figure, **asdict(seen)}
            for curve, server, seen in _all_shapes(results)
        ],
        "points": [asdict(point) for point in results.points],
    }
    return json.dumps(document, indent=1, allow_nan=False)


def read_points(path: Path) -> list[Point]:
    """Return the points of an earlier run.

    Raises: ValueError if the file is none of `as_json`; OSError.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != JSON_FORMAT:
        raise ValueError(f"{path} is not a result of benchmarks.scale")
    return [Point(**point) for point in document["points"]]


def renumbered(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the points of several runs, their rounds counted on from one run to the next."""
    taken: dict[tuple[str, str], int] = {}
    found: list[Point] = []
    for points in runs:
        before = dict(taken)
        for point in points:
            key = point.curve, point.server
            number = before.get(key, 0) + point.round
            taken[key] = max(taken.get(key, 0), number)
            found.append(
                Point(point.curve, point.size, number, point.server, point.figures, point.failure)
            )
    return found


def progress(point: Point) -> str:
    """Return one line about a point that was just taken."""
    start = f"{point.curve:9} round {point.round}  {point.server:10} {point.size:>11,}"
    if point.failure:
        return f"{start}  FAILED: {point.failure}"
    told = (f"{shown(v)} {LABELS[k]}" for k, v in point.figures.items() if k in LABELS)
    return f"{start}  {', '.join(told)}"


def shape_of(results: Results, curve: Curve, server: str) -> Shape | None:
    """Return the shape of a server's curve; None if there is no point of it."""
    line = results.line(curve, server, curve.figure)
    return shape(line) if line and all(value > 0 for _, value in line) else None


def is_as_it_should_be(curve: Curve, seen: Shape) -> bool:
    """Whether this shape is what the curve was drawn to see."""
    return seen.name == FLAT if curve.should_be_flat else seen.name != WORSE


def shown(value: float) -> str:
    """Return a figure in few digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _heading(results: Results) -> str:
    about = results.machine
    counts = {curve.name: results.rounds(curve) for curve in results.curves()}.values()
    fewest, most = min(counts, default=0), max(counts, default=0)
    rounds = str(most) if fewest == most else f"{fewest} to {most}"
    lines = [
        f"# Scale curves, {results.began}, commit {about.get('commit')}",
        "",
        f"{about.get('cpu')}, {about.get('cores')} cores, Linux {about.get('kernel')}, "
        f"{about.get('python')}. Medians of {rounds} interleaved rounds; {results.seconds:g} s "
        "each point. One worker on one core, the load generator on another, where nothing else "
        "is said.",
        "",
        f"*Flat*: no figure is {FLAT_FACTOR:g} times another (*spread*). *Linear*: over the upper "
        "half, what a unit costs beyond the first point stays within a factor of "
        f"{LINEAR_FACTOR:g} (*per unit*).",
    ]
    lines += [f"\n{name} skipped: {reason}" for name, reason in results.skipped.items()]
    return "\n".join(lines)


def _all_shapes(results: Results) -> Iterator[tuple[Curve, str, Shape]]:
    for curve in results.curves():
        for server in results.servers(curve):
            seen = shape_of(results, curve, server)
            if seen is not None and seen.name != TOO_SHORT:
                yield curve, server, seen


def _shapes(results: Results) -> str:
    head = ["curve", "server", "from", "to", "spread", "per unit", "shape", "as it should be"]
    body = []
    for curve, server, seen in _all_shapes(results):
        line = results.line(curve, server, curve.figure)
        (first, low), (last, high) = line[0], line[-1]
        body.append(
            [
                f"{curve.name}, {LABELS[curve.figure]}",
                server,
                f"{shown(low)} at {first:,}",
                f"{shown(high)} at {last:,}",
                f"{seen.spread:,.2f}",
                f"{seen.unit_spread:.2f}" if seen.unit_spread else NOTHING,
                seen.name,
                "yes" if is_as_it_should_be(curve, seen) else "NO",
            ]
        )
    return table(head, body)


def _figures(results: Results, curve: Curve) -> str:
    sizes = sorted({p.size for p in results.points if p.curve == curve.name})
    head = [LABELS[curve.figure], curve.unit, *(f"{size:,}" for size in sizes)]
    body = []
    for figure in (curve.figure, *curve.others):
        for server in results.servers(curve):
            line = dict(results.line(curve, server, figure))
            values = [shown(line[size]) if size in line else NOTHING for size in sizes]
            body.append([LABELS[figure], server, *values])
    head[0] = "figure"
    return table(head, body)


def _speed_up(results: Results, curve: Curve) -> str:
    """Say by which factor the rate grows with the workers, and why it has to end."""
    lines = [
        f"More workers than the {results.machine.get('cores')} cores cannot be quicker, and the "
        "load generator needs a part of them, too. Rate, times that of one worker:",
        "",
    ]
    for server in results.servers(curve):
        line = results.line(curve, server, "rate")
        if line:
            said = ", ".join(f"{rate / line[0][1]:.2f} with {count}" for count, rate in line[1:])
            lines.append(f"- {server}: {said}")
    return "\n".join(lines)
