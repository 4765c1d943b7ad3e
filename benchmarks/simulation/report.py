"""What a simulation leaves behind: a report in Markdown, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from statistics import median_low
from typing import Final

from benchmarks.report import NOTHING, table
from benchmarks.simulation.cost import Cost
from benchmarks.simulation.figures import Figures
from benchmarks.simulation.loads import Load
from benchmarks.simulation.run import Outcome, Plan

JSON_FORMAT: Final = 1
REFERENCE: Final = "fixed at maximum"
_HEAD: Final = (
    *("rule", "wait p50 ms", "wait p99 ms", "p99 ms", "x fixed", "worker-s", "workers", "most"),
    *("spawns", "retired", "settled", "turns", "enough s", "down s", "answered", "broken"),
    *("unserved", "decide us"),
)
_LEGEND: Final = """\
- wait: from arrival to a thread; p99 ms: of the whole latency; x fixed: that to the same with
  all workers always there
- worker-s: seconds of all processes together; workers: their mean number once settled
- spawns, retired: all of them; settled: both together once settled; turns: from growing to
  shrinking or back, beyond the turns of the load itself
- enough s: the longest time with fewer workers ready than the load just needs; down s: from
  its end to a quarter of the maximum (flash: half), `never`: not while it was simulated
- with several seeds: the median, and the highest after a dash
- broken: held by a worker that died; unserved: still waiting two minutes after the end
- decide us: real time of one call of decide(), the only figure that another run changes"""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known about one run."""

    plan: Plan
    outcomes: Sequence[Outcome]
    costs: Sequence[Cost]

    def of(self, load: str) -> list[Outcome]:
        """Return what came out under one load."""
        return [outcome for outcome in self.outcomes if outcome.load == load]


def as_text(results: Results, pictures: Sequence[str] = ()) -> str:
    """Return the report: a Markdown document. pictures: loads that have one beside it."""
    limits = results.plan.limits
    parts = [
        "# Simulation of the rules for the number of workers",
        f"{limits.min_workers} to {limits.max_workers} workers of {limits.threads} thread(s), "
        f"{limits.cores:g} core(s); seeds {', '.join(map(str, results.plan.seeds))}.",
        _LEGEND,
    ]
    for load in results.plan.loads:
        parts += [f"## {load.name}: {load.title}", of_load(results, load)]
        if load.name in pictures:
            parts.append(f"![{load.name}]({load.name}.png)")
    if results.costs:
        parts += ["## The cost of decide(), microseconds of one call", _costs(results.costs)]
    return "\n\n".join(parts) + "\n"


def of_load(results: Results, load: Load) -> str:
    """Return the table of one load."""
    outcomes = results.of(load.name)
    fixed = [outcome.runs for outcome in outcomes if outcome.rule == REFERENCE]
    return table(_HEAD, [list(_cells(o, fixed[0] if fixed else ())) for o in outcomes])


def _cells(outcome: Outcome, fixed: Sequence[Figures]) -> Iterator[str]:
    runs = outcome.runs
    ratios = [
        found.latency_p99_s / other.latency_p99_s
        for found, other in zip(runs, fixed, strict=False)
        if other.latency_p99_s
    ]
    yield outcome.rule
    yield _spread([found.wait_p50_s * 1e3 for found in runs], "{:.1f}")
    yield _spread([found.wait_p99_s * 1e3 for found in runs], "{:.1f}")
    yield _spread([found.latency_p99_s * 1e3 for found in runs], "{:.1f}")
    yield _spread(ratios, "{:.2f}")
    yield _spread([found.worker_s for found in runs], "{:.0f}")
    yield _spread([found.settled_workers for found in runs], "{:.1f}")
    yield _spread([found.most for found in runs], "{:.0f}")
    yield _spread([found.spawns for found in runs], "{:.0f}")
    yield _spread([found.retirements for found in runs], "{:.0f}")
    yield _spread([found.changes for found in runs], "{:.0f}")
    yield _spread([found.oscillations for found in runs], "{:.0f}")
    yield _spread([_or_never(found.enough_s) for found in runs], "{:.2f}")
    yield _spread([_or_never(found.down_s) for found in runs if found.has_quiet], "{:.1f}")
    yield _spread([found.answered for found in runs], "{:.0f}")
    yield _spread([found.broken for found in runs], "{:.0f}")
    yield _spread([found.unserved for found in runs], "{:.0f}")
    yield NOTHING if outcome.decide_us is None else f"{outcome.decide_us:.0f}"


def _or_never(seconds: float | None) -> float:
    return inf if seconds is None else seconds


def _spread(values: Sequence[float], form: str) -> str:
    """Return the median, and if they differ, the highest: `median-highest`."""
    if not values:
        return NOTHING
    found = (median_low(values), max(values))
    texts = ["never" if value == inf else form.format(value) for value in found]
    return "-".join(dict.fromkeys(texts))


def _costs(costs: Sequence[Cost]) -> str:
    body = []
    for cost in costs:
        each = (cost.steady_us, cost.growing_us, cost.retiring_us)
        cells = [f"{microseconds:.1f}" for microseconds in each]
        body.append([f"{cost.workers}", *cells, f"{cost.steady_us / cost.workers:.2f}"])
    return table(["workers", "steady", "growing", "retiring", "steady, each worker"], body)


def as_json(results: Results) -> str:
    """Return the run as JSON: figures and curves."""
    plan = results.plan
    return json.dumps(
        {
            "format": JSON_FORMAT,
            "limits": asdict(plan.limits),
            "seeds": list(plan.seeds),
            "loads": {load.name: load.title for load in plan.loads},
            "outcomes": [
                {
                    "load": outcome.load,
                    "rule": outcome.rule,
                    "runs": [asdict(figures) for figures in outcome.runs],
                    "decide_us": outcome.decide_us,
                    "curve": [_point(sample) for sample in map(asdict, outcome.samples)],
                }
                for outcome in results.outcomes
            ],
            "costs": [asdict(cost) for cost in results.costs],
        },
    )


def _point(sample: dict[str, float]) -> list[float]:
    """Return a sample as a row: seconds, requests/s, need, live, ready, wanted, queue."""
    return [round(value, 3) if isinstance(value, float) else value for value in sample.values()]


def progress(outcome: Outcome) -> str:
    """Return one line about an outcome."""
    p99 = _spread([found.latency_p99_s * 1e3 for found in outcome.runs], "{:.1f}")
    changes = _spread([found.spawns + found.retirements for found in outcome.runs], "{:.0f}")
    return f"{outcome.load:12} {outcome.rule:24} p99 {p99:>16} ms {changes:>9} changes"
