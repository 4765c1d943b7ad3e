"""What a run leaves behind: tables for people, JSON for programs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.bounds import Judged, judge
from benchmarks.runner import Plan
from benchmarks.sample import FIGURES, Figure, Sample
from benchmarks.scenarios import Scenario
from benchmarks.servers import OURS
from benchmarks.summary import Row, Spread, ratios, rows

JSON_FORMAT: Final = 2  # goes up when a reader of older files would misread a newer one
NOTHING: Final = "-"
# Up to so many peers a cell has room for the spread.
_FEW_PEERS: Final = 2


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known about one run."""

    began: str  # ISO 8601, UTC
    machine: Mapping[str, object]
    plan: Plan
    reference: str
    skipped: Mapping[str, str]  # server -> reason
    samples: Sequence[Sample]

    def missing_turns(self) -> int:
        """Return how many turns of the plan were not taken: the run was broken off."""
        return sum(1 for _ in self.plan.turns()) - len(self.samples)


def as_text(results: Results) -> str:
    """Return the report: a Markdown document that is readable as it is."""
    found = rows(results.samples, results.reference)
    parts = [
        _heading(results),
        _promises(results),
        _against_each(results, "", "as good in what the scenario is about"),
        _against_each(results, "cpu_us", "less processor time per request"),
        *(_scenario_part(scenario, found, results) for scenario in results.plan.scenarios),
        _notes(found, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(results: Results) -> str:
    """Return the run as JSON: facts, plan, every sample, and the summary made of them."""
    plan = results.plan
    return json.dumps(
        {
            "format": JSON_FORMAT,
            "began": results.began,
            "machine": dict(results.machine),
            "plan": {
                "rounds": plan.rounds,
                "seconds": plan.seconds,
                "warm_up_s": plan.warm_up_s,
                "scenarios": [_scenario(scenario) for scenario in plan.scenarios],
                "servers": [server.name for server in plan.servers],
            },
            "reference": results.reference,
            "skipped": dict(results.skipped),
            "bounds": [_judged(judged) for judged in judge(results.samples)],
            "summary": [asdict(row) for row in rows(results.samples, results.reference)],
            "samples": [asdict(sample) for sample in results.samples],
        },
        indent=1,
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]], words: int = 2) -> str:
    """Return a Markdown table with aligned columns: `words` of them left, then figures right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        _line(head, widths, words),
        _rule(widths, words),
        *(_line(cells, widths, words) for cells in body),
    ]
    return "\n".join(lines)


def progress(sample: Sample, merit: str) -> str:
    """Return one line about a sample that was just taken."""
    start = f"{sample.scenario:9} round {sample.round}  {sample.server:10}"
    if sample.failure:
        return f"{start} FAILED: {sample.failure}"
    errors = f"  {sample.errors} errors" if sample.errors else ""
    if merit not in sample.figures:
        return f"{start} nothing measured{errors}"
    figure = FIGURES[merit]
    return f"{start} {_shown(figure, sample.figures[merit]):>12} {figure.head}{errors}"


def _heading(results: Results) -> str:
    facts, plan = results.machine, results.plan
    versions = facts.get("versions")
    named = versions.items() if isinstance(versions, Mapping) else ()
    title = f"# Benchmark of {results.began}, commit {facts.get('commit')}"
    lines = [
        f"{facts.get('cpu')}, {facts.get('cores')} cores, Linux {facts.get('kernel')}, "
        f"{facts.get('python')}; server on core {facts.get('server_core')}, "
        f"{facts.get('generator')} on core {facts.get('load_core')}.",
        f"Medians of {plan.rounds} interleaved round(s) of {plan.seconds:g} s after "
        f"{plan.warm_up_s:g} s of warm-up; one worker process per server.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in named) + ".",
    ]
    return "\n\n".join([title, "\n".join(f"- {line}" for line in lines)])


def _promises(results: Results) -> str:
    """Return the table of what was to be reached; empty if nothing of it was measured."""
    body = [_promise(judged) for judged in judge(results.samples)]
    if not body:
        return ""
    head = ["scenario", "figure", "measured", "low-high", "bound", "holds", "aim", "reached"]
    return "## What was to be reached\n\n" + table(head, body)


def _promise(judged: Judged) -> list[str]:
    bound, spread = judged.bound, judged.spread
    figure = FIGURES[bound.name]
    if bound.against is None:
        name = figure.head
        shown: Callable[[float], str] = functools.partial(_shown, figure)
    else:
        best = f" (best: {judged.peer})" if judged.peer != bound.against else ""
        name = f"{figure.head} / {bound.against}{best}"
        shown = "{:.2f}".format
    sign = ">=" if bound.at_least else "<="
    return [
        bound.scenario,
        name,
        shown(spread.median),
        f"{shown(spread.low)}-{shown(spread.high)}",
        NOTHING if bound.bound is None else f"{sign} {shown(bound.bound)}",
        _yes_or_no(bound.holds(spread)),
        NOTHING if bound.aim is None else f"{sign} {shown(bound.aim)}",
        _yes_or_no(bound.reaches_aim(spread)),
    ]


def _yes_or_no(answer: bool | None) -> str:
    return NOTHING if answer is None else "yes" if answer else "NO"


def _against_each(results: Results, figure: str, title: str) -> str:
    """Return the table of our own factor over every peer; empty if we did not take part."""
    peers = [server.name for server in results.plan.servers if server.name != OURS]
    if not peers or len(peers) == len(results.plan.servers):
        return ""
    body = []
    for scenario in results.plan.scenarios:
        spreads = [ratios(results.samples, scenario.name, OURS, peer, figure) for peer in peers]
        if any(spreads):
            name = FIGURES[figure or scenario.merit].head
            cells = [_factor(spread, with_spread=len(peers) <= _FEW_PEERS) for spread in spreads]
            body.append([scenario.name, name, *cells])
    if not body:
        return ""
    head = ["scenario", "figure", *(f"/ {peer}" for peer in peers)]
    return f"## {OURS}: how many times {title}\n\n{table(head, body)}"


def _factor(spread: Spread | None, *, with_spread: bool) -> str:
    if spread is None:
        return NOTHING
    around = f" ({spread.low:.2f}-{spread.high:.2f})" if with_spread else ""
    return f"{spread.median:.2f}{around}"


def _scenario_part(scenario: Scenario, found: Sequence[Row], results: Results) -> str:
    own = [row for row in found if row.scenario == scenario.name]
    if not own:
        return ""
    measured = {name for row in own for name in row.figures}
    others = [FIGURES[name] for name in FIGURES if name in measured - {scenario.merit}]
    head = ["server", FIGURES[scenario.merit].head, f"x {results.reference}", "low-high"]
    head += [*(figure.head for figure in others), "errors"]
    body = [_cells(row, FIGURES[scenario.merit], others) for row in own]
    budget = f"{scenario.connections} connection(s), {scenario.threads} threads"
    title = f"## {scenario.name}: {scenario.summary}; {budget}"
    return f"{title}\n\n{table(head, body, words=1)}"


def _cells(row: Row, merit: Figure, others: Sequence[Figure]) -> list[str]:
    ratio, spread = row.ratio, row.figures.get(merit.name)
    bound = "*" if row.generator_bound and merit.higher_is_better else ""
    return [
        row.server,
        "failed" if spread is None else _shown(merit, spread.median) + bound,
        _factor(ratio, with_spread=False),
        f"{ratio.low:.2f}-{ratio.high:.2f}" if ratio else NOTHING,
        *(
            _shown(figure, row.figures[figure.name].median)
            if figure.name in row.figures
            else NOTHING
            for figure in others
        ),
        str(row.errors + len(row.failures)),
    ]


def _notes(found: Sequence[Row], results: Results) -> str:
    notes = [f"- {server} skipped: {reason}" for server, reason in results.skipped.items()]
    if missing := results.missing_turns():
        notes.append(f"- broken off: {missing} turn(s) were not taken")
    for scenario in results.plan.scenarios:
        for server in results.plan.servers:
            if reason := server.unfit(scenario):
                notes.append(f"- {scenario.name}: no turn for {server.name}: {reason}")
            elif further := server.further(scenario):
                notes.append(f"- {scenario.name}, {server.name}: with {' '.join(further)}")
    if any(row.generator_bound for row in found):
        notes.append("- `*` the load generator was the limit: the server can do more")
    for row in found:
        notes += [f"- {row.scenario}, {row.server}: {why}" for why in dict.fromkeys(row.failures)]
    notes += [f"- {line}" for sample in results.samples for line in _said(sample)]
    return "## Notes\n\n" + "\n".join(notes) if notes else ""


def _said(sample: Sample) -> Iterator[str]:
    for note in sample.notes:
        yield f"{sample.scenario}, {sample.server}, round {sample.round}: {note}"


def _shown(figure: Figure, value: float) -> str:
    return format(value * figure.factor, figure.form)


def _judged(judged: Judged) -> dict[str, object]:
    return {
        **asdict(judged.bound),
        "figure": judged.bound.name,
        "peer": judged.peer,
        "measured": asdict(judged.spread),
        "holds": judged.bound.holds(judged.spread),
        "reaches_aim": judged.bound.reaches_aim(judged.spread),
    }


def _scenario(scenario: Scenario) -> dict[str, object]:
    return {
        "name": scenario.name,
        "summary": scenario.summary,
        "merit": scenario.merit,
        "path": scenario.path,
        "headers": len(scenario.headers),
        "connections": scenario.connections,
        "threads": scenario.threads,
    }


def _line(cells: Sequence[str], widths: Sequence[int], words: int) -> str:
    padded = [
        cell.ljust(width) if column < words else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _rule(widths: Sequence[int], words: int) -> str:
    left = ["-" * width for width in widths[:words]]
    right = ["-" * (width - 1) + ":" for width in widths[words:]]
    return f"| {' | '.join(left + right)} |"
