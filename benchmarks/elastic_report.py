"""What a run of `elastic` leaves behind: tables in Markdown, JSON, and the curves of the bursts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.elastic_verdict import FAILS, HOLDS, Outcome, Verdict, all_hold, judge
from benchmarks.plot import OURS_COLOUR, PEER_COLOUR
from benchmarks.report import NOTHING, table

JSON_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known about one run."""

    began: str  # ISO 8601, UTC
    machine: Mapping[str, object]
    rounds: int
    is_quick: bool
    outcomes: Sequence[Outcome]


def as_text(results: Results) -> str:
    """Return the report: a Markdown document that is readable as it is."""
    parts = [_heading(results), _verdicts(judge(results.outcomes)), *_figures(results.outcomes)]
    return "\n\n".join([*parts, "\n".join(_notes(results.outcomes))]).strip() + "\n"


def as_json(results: Results) -> str:
    """Return the run as JSON; what never happened is null."""
    document = {
        "format": JSON_FORMAT,
        "began": results.began,
        "machine": dict(results.machine),
        "rounds": results.rounds,
        "quick": results.is_quick,
        "holds": all_hold(results.outcomes),
        "verdicts": [
            {**asdict(verdict), "holds": verdict.holds} for verdict in judge(results.outcomes)
        ],
        "outcomes": [asdict(outcome) for outcome in results.outcomes],
    }
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def progress(outcome: Outcome) -> str:
    """Return some lines about a round that is over."""
    start = f"{outcome.scenario} round {outcome.round}"
    if outcome.failure:
        return f"{start} FAILED: {outcome.failure}"
    lines = [
        f"  {shown(check.value)} {check.unit} {check.what} "
        f"({_bound(check.at_least)} {check.bound:g})"
        for check in outcome.checks
    ]
    return "\n".join([start, *lines])


def draw(outcomes: Sequence[Outcome], path: Path) -> bool:
    """Draw arrivals, workers and p99 over time of each scenario that has a curve.

    Returns whether there was anything to draw. Raises: ImportError without matplotlib.
    """
    curves = {o.scenario: o.curve for o in outcomes if o.curve}  # the last round of each
    if not curves:
        return False
    # Not at the top: a run without matplotlib still has its table and its JSON.
    import matplotlib

    matplotlib.use("Agg")  # draws into files, needs no display
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a quarter of the size
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        3,
        len(curves),
        figsize=(6 * len(curves), 6),
        squeeze=False,
        sharex="col",
        layout="constrained",
    )
    for column, (name, curve) in enumerate(curves.items()):
        rows: list[Mapping[str, float]] = list(curve)  # type: ignore[arg-type]
        times = [row["at_s"] for row in rows]
        for axis, key, label in zip(
            axes[:, column],
            ("arrivals_per_s", "total", "p99_ms"),
            ("arrivals/s", "Total (workers)", "p99 ms"),
            strict=True,
        ):
            values = [row[key] for row in rows]
            axis.step(times, values, where="post", color=OURS_COLOUR)
            axis.fill_between(times, values, step="post", color=PEER_COLOUR, alpha=0.4)
            axis.set_ylabel(label, fontsize=8)
            axis.set_ylim(bottom=0)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0][column].set_title(name, fontsize=10)
        axes[2][column].set_xlabel("s", fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
    return True


def shown(value: object) -> str:
    """Return a figure in few digits."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return "never" if math.isinf(value) else NOTHING
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _heading(results: Results) -> str:
    about = results.machine
    lines = [
        f"{about.get('cpu')}, {about.get('cores')} cores, Linux {about.get('kernel')}, "
        f"{about.get('python')}; load average {about.get('load_average')}.",
        "Nothing is pinned: the manager, the template, all workers and the load generator share "
        "the cores, since scaling needs more than one.",
        f"{results.rounds} round(s){', short ones (--quick)' if results.is_quick else ''}; the "
        "value is the median of the rounds, or where each must hold the worst of them.",
        f"All together: {HOLDS if all_hold(results.outcomes) else FAILS}.",
    ]
    title = f"# Elastic, {results.began}, commit {about.get('commit')}"
    return title + "\n\n" + "\n".join(f"- {line}" for line in lines)


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    body = [
        [
            verdict.scenario,
            verdict.check.what,
            f"{shown(verdict.value)} {verdict.check.unit}".strip(),
            f"{shown(verdict.low)}-{shown(verdict.high)}",
            f"{_bound(verdict.check.at_least)} {verdict.check.bound:g}",
            HOLDS if verdict.holds else f"**{FAILS}**",
        ]
        for verdict in verdicts
    ]
    return table(["scenario", "what", "value", "low-high", "bound", ""], body)


def _figures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield a table of the further figures of each scenario, a column for each round."""
    for name in dict.fromkeys(outcome.scenario for outcome in outcomes):
        rounds = [o for o in outcomes if o.scenario == name and o.figures]
        keys = dict.fromkeys(key for outcome in rounds for key in outcome.figures)
        body = [
            [name, key, *(shown(outcome.figures.get(key, NOTHING)) for outcome in rounds)]
            for key in keys
        ]
        if body:
            yield table(["scenario", "figure", *(f"round {o.round}" for o in rounds)], body)


def _notes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        where = f"- {outcome.scenario}, round {outcome.round}"
        if outcome.failure:
            yield f"{where}: {outcome.failure}"
        for note in outcome.notes:
            yield f"{where}: {note}"


def _bound(at_least: bool) -> str:
    return "≥" if at_least else "≤"


def _finite(value: Any) -> Any:
    """Return JSON's values: what is infinite or not a number becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
