"""What a run leaves behind: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.runner import Plan, Sample
from benchmarks.scenarios import Scenario
from benchmarks.servers import OURS
from benchmarks.summary import Row, Spread, ratios, rows

JSON_FORMAT: Final = 1  # goes up when a reader of older files would misread a newer one
NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known about one run."""

    began: str  # ISO 8601, UTC
    machine: Mapping[str, object]
    plan: Plan
    reference: str
    skipped: Mapping[str, str]  # server -> reason
    samples: Sequence[Sample]


def as_text(results: Results) -> str:
    """Return the report: a Markdown document that is readable as it is."""
    found = rows(results.samples, results.reference)
    parts = [
        _heading(results),
        table(_rate_head(results.reference), [_rate_cells(row) for row in found]),
        _notes(found, results),
        _against_each(results),
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
            "summary": [asdict(row) for row in rows(results.samples, results.reference)],
            "samples": [asdict(sample) for sample in results.samples],
        },
        indent=1,
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns: words left, figures (third on) right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [_line(head, widths), _rule(widths), *(_line(cells, widths) for cells in body)]
    return "\n".join(lines)


def progress(sample: Sample) -> str:
    """Return one line about a sample that was just taken."""
    start = f"{sample.scenario:8} round {sample.round}  {sample.server:10}"
    if sample.measurement is None:
        return f"{start} FAILED: {sample.failure}"
    errors = f"  {sample.measurement.errors} errors" if sample.measurement.errors else ""
    return f"{start} {sample.measurement.rate:10,.0f} requests/s{errors}"


def _rate_head(reference: str) -> list[str]:
    return [
        "scenario",
        "server",
        "requests/s",
        f"x {reference}",
        "low-high",
        "p50 ms",
        "p99 ms",
        "CPU us",
        "MB",
        "errors",
    ]


def _rate_cells(row: Row) -> list[str]:
    if row.rate is None:
        return [row.scenario, row.server, "failed", *[NOTHING] * 6, str(len(row.failures))]
    ratio = row.ratio
    return [
        row.scenario,
        row.server,
        f"{row.rate.median:,.0f}{'*' if row.generator_bound else ''}",
        _median(ratio, ".2f"),
        f"{ratio.low:.2f}-{ratio.high:.2f}" if ratio else NOTHING,
        _median(row.p50_us, ".2f", 1e-3),
        _median(row.p99_us, ".2f", 1e-3),
        _median(row.cpu_us, ".1f"),
        _median(row.memory_mb, ".0f"),
        str(row.errors + len(row.failures)),
    ]


def _median(spread: Spread | None, form: str, factor: float = 1.0) -> str:
    return NOTHING if spread is None else format(spread.median * factor, form)


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
        f"{plan.warm_up_s:g} s of warm-up; one process per server.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in named) + ".",
        *(
            f"{s.name}: {s.summary}; {s.connections} connections, {s.threads} threads."
            for s in plan.scenarios
        ),
    ]
    return "\n\n".join([title, "\n".join(f"- {line}" for line in lines)])


def _notes(found: Sequence[Row], results: Results) -> str:
    notes = [f"- {server} skipped: {reason}" for server, reason in results.skipped.items()]
    if any(row.generator_bound for row in found):
        notes.append("- `*` the load generator was the limit: the server can do more")
    for row in found:
        notes += [f"- {row.scenario}, {row.server}: {why}" for why in dict.fromkeys(row.failures)]
    notes += [f"- {line}" for sample in results.samples for line in _errors(sample)]
    return "\n".join(notes)


def _errors(sample: Sample) -> Iterator[str]:
    """Yield a line that says what went wrong in a measurement; none if nothing did."""
    seen = sample.measurement
    if seen is not None and seen.errors:
        kinds = [f"{count} {kind} error(s)" for kind, count in seen.socket_errors.items()]
        if seen.error_responses:
            kinds.append(f"{seen.error_responses} response(s) of status 400 and above")
        where = f"{sample.scenario}, {sample.server}, round {sample.round}"
        yield f"{where}: {', '.join(kinds)} beside {seen.requests} requests"


def _against_each(results: Results) -> str:
    """Return the table of our own factor over every peer; empty if we did not take part."""
    peers = [server.name for server in results.plan.servers if server.name != OURS]
    if not peers or len(peers) == len(results.plan.servers):
        return ""
    body = []
    for scenario in results.plan.scenarios:
        spreads = [ratios(results.samples, scenario.name, OURS, peer) for peer in peers]
        body.append([OURS, scenario.name, *(_median(spread, ".2f") for spread in spreads)])
    return table(["server", "scenario", *(f"/ {peer}" for peer in peers)], body)


def _scenario(scenario: Scenario) -> dict[str, object]:
    return {
        "name": scenario.name,
        "summary": scenario.summary,
        "path": scenario.path,
        "headers": len(scenario.headers),
        "connections": scenario.connections,
        "threads": scenario.threads,
    }


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _rule(widths: Sequence[int]) -> str:
    left = ["-" * width for width in widths[:2]]
    right = ["-" * (width - 1) + ":" for width in widths[2:]]
    return f"| {' | '.join(left + right)} |"
