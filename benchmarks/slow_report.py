"""What a run of `slow_clients` leaves behind: a report in Markdown, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks import machine
from benchmarks.cores import Cores
from benchmarks.report import NOTHING, table
from benchmarks.servers import Server
from benchmarks.slow_run import ALONE, ARRIVING, THERE, Figures, Plan, Turn
from benchmarks.summary import Spread

JSON_FORMAT: Final = 1
LOADS: Final = ("kept", "fresh")
_PHASES: Final = (ALONE, ARRIVING, THERE)
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known about one run."""

    began: str  # ISO 8601, UTC
    machine: Mapping[str, object]
    plan: Plan
    turns: Sequence[Turn]

    def of(self, server: str, clients: str) -> list[Turn]:
        """Return the turns of one server in one phase that brought figures."""
        found = [t for t in self.turns if (t.server, t.clients) == (server, clients)]
        return [turn for turn in found if turn.loads]


def facts(servers: Sequence[Server], cores: Cores) -> dict[str, object]:
    """Return what belongs beside the numbers."""
    return {
        **machine.surroundings(cores),
        "versions": {server.name: server.version() for server in servers},
    }


def ratio(results: Results, server: str, load: str, clients: str) -> Spread | None:
    """Return by how much the p99 is higher with slow clients than alone, in the same round."""
    alone = {turn.round: turn.loads[load].p99 for turn in results.of(server, ALONE)}
    others = {turn.round: turn.loads[load].p99 for turn in results.of(server, clients)}
    return Spread.of([others[n] / alone[n] for n in others if alone.get(n)])


def as_text(results: Results) -> str:
    """Return the report: a Markdown document that is readable as it is."""
    parts = [
        _heading(results),
        _latencies(results),
        _ratios(results),
        _holdings(results),
        _herd(results),
        "\n".join(_notes(results)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(results: Results) -> str:
    """Return the run as JSON: facts, plan and every turn."""
    plan = results.plan
    return json.dumps(
        {
            "format": JSON_FORMAT,
            "began": results.began,
            "machine": dict(results.machine),
            "plan": {
                "servers": [server.name for server in plan.servers],
                "slow_clients": dict(plan.counts),
                "arrivals_per_s": plan.per_second,
                "threads": plan.threads,
                "rounds": plan.rounds,
                "seconds": plan.seconds,
                "load": asdict(plan.load),
            },
            "turns": [asdict(turn) for turn in results.turns],
        },
        indent=1,
    )


def progress(turn: Turn) -> str:
    """Return one line about a turn that is over."""
    start = f"round {turn.round}  {turn.server:10} {turn.clients:8}"
    if turn.failure:
        return f"{start} FAILED: {turn.failure}"
    loads = [
        f"{name} p50 {f.p50:.2f} p99 {f.p99:.2f} max {f.longest:.1f} ms"
        + (f" ({f.bad} BAD)" if f.bad else "")
        for name, f in turn.loads.items()
    ]
    return f"{start} {'; '.join(loads)}"


def _heading(results: Results) -> str:
    about, plan = results.machine, results.plan
    versions = about.get("versions")
    named = versions.items() if isinstance(versions, Mapping) else ()
    load = plan.load
    herd = ", ".join(f"{count} {name}" for name, count in plan.counts.items())
    lines = [
        f"{about.get('cpu')}, {about.get('cores')} cores, Linux {about.get('kernel')}, "
        f"{about.get('python')}; server on core {about.get('server_core')}, load and slow "
        f"clients on core {about.get('load_core')}; load average {about.get('load_average')}.",
        f"{plan.rounds} round(s) of {plan.seconds:g} s, each with a server started afresh; one "
        f"process, {plan.threads} threads.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in named) + ".",
        f"Slow clients: {herd}; arriving at {plan.per_second:g} a second.",
        f"Load: kept, {load.kept_rate:g} requests/s over {load.connections} kept connections; "
        f"fresh, {load.fresh_rate:g} requests/s, each on a new connection.",
    ]
    title = f"# Slow clients, {results.began}, commit {about.get('commit')}"
    return title + "\n\n" + "\n".join(f"- {line}" for line in lines)


def _latencies(results: Results) -> str:
    """Return the table of latencies: medians over the rounds, milliseconds."""
    head = ["server", "load", "slow clients", "p50 ms", "p99 ms", "low-high", "p99.9 ms"]
    head += ["max ms", "late p99", "answered", "bad"]
    body = []
    for server in results.plan.servers:
        for load in LOADS:
            for clients in _PHASES:
                seen = [turn.loads[load] for turn in results.of(server.name, clients)]
                body.append([server.name, load, clients, *_latency_cells(seen)])
    return table(head, body)


def _latency_cells(seen: Sequence[Figures]) -> list[str]:
    def middle(of: Callable[[Figures], float]) -> str:
        spread = Spread.of([of(figures) for figures in seen])
        return NOTHING if spread is None else f"{spread.median:.2f}"

    p99 = Spread.of([figures.p99 for figures in seen])
    return [
        middle(lambda figures: figures.p50),
        middle(lambda figures: figures.p99),
        NOTHING if p99 is None else f"{p99.low:.2f}-{p99.high:.2f}",
        middle(lambda figures: figures.p999),
        middle(lambda figures: figures.longest),
        middle(lambda figures: figures.late_p99),
        str(sum(figures.answered for figures in seen)),
        str(sum(figures.bad for figures in seen)),
    ]


def _ratios(results: Results) -> str:
    """Return the table of p99 with slow clients to p99 alone, made within each round."""
    head = ["server", "load", "p99 there / alone", "low-high", "p99 arriving / alone", "low-high"]
    body = []
    for server in results.plan.servers:
        for load in LOADS:
            cells = []
            for clients in (THERE, ARRIVING):
                spread = ratio(results, server.name, load, clients)
                cells += (
                    [NOTHING, NOTHING]
                    if spread is None
                    else [f"{spread.median:.2f}", f"{spread.low:.2f}-{spread.high:.2f}"]
                )
            body.append([server.name, load, *cells])
    return table(head, body)


def _holdings(results: Results) -> str:
    """Return the table of what the server's processes hold; medians over the rounds."""
    head = ["server", "slow clients", "PSS MB", "RSS MB", "threads", "descriptors", "core %"]
    body = []
    for server in results.plan.servers:
        for clients in _PHASES:
            turns = results.of(server.name, clients)
            body.append(
                [
                    server.name,
                    clients,
                    _middle([turn.holdings.pss / _MB for turn in turns]),
                    _middle([turn.holdings.rss / _MB for turn in turns]),
                    _middle([turn.holdings.threads for turn in turns]),
                    _middle([turn.holdings.descriptors for turn in turns]),
                    _middle([turn.cpu_share * 100 for turn in turns]),
                ]
            )
    return table(head, body)


def _herd(results: Results) -> str:
    """Return the table of what the slow clients themselves saw; medians over the rounds."""
    head = ["server", "kind", "wanted", "open", "settled", "cut", "refused", "steps/s"]
    body = []
    for server in results.plan.servers:
        turns = results.of(server.name, THERE)
        for kind, wanted in results.plan.counts.items():
            tallies = [turn.herd[kind] for turn in turns if kind in turn.herd]
            cells = [
                _middle([tally[name] for tally in tallies])
                for name in ("open", "settled", "cut", "refused")
            ]
            acts = _middle([turn.acts_per_s.get(kind, 0.0) for turn in turns])
            body.append([server.name, kind, str(wanted), *cells, acts])
    return table(head, body) if body else ""


def _middle(values: Sequence[float]) -> str:
    spread = Spread.of(values)
    return NOTHING if spread is None else f"{spread.median:,.0f}"


def _notes(results: Results) -> Iterator[str]:
    yield "- p99.9 and max: medians over the rounds, too; `bad`: unanswered, or answered wrongly"
    yield "- `late`: how late the load's own process sent; latency counts from the sending then"
    for turn in results.turns:
        where = f"- {turn.server}, round {turn.round}, {turn.clients}"
        if turn.failure:
            yield f"{where}: {turn.failure}"
        if not turn.settled:
            yield f"{where}: not all slow clients got where they were to stay"
        for load, figures in turn.loads.items():
            if figures.unanswered:
                yield f"{where}: {figures.unanswered} {load} requests without an answer"
            for what in dict.fromkeys(figures.noted):
                yield f"{where}: {load}: {what}"
