"""python -m benchmarks: measure this server beside its peers."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click

from benchmarks import compare, counting, history, machine, plot, report
from benchmarks.cores import choose_cores
from benchmarks.load import LoadError, choose_generator
from benchmarks.runner import Plan, run
from benchmarks.sample import Sample
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import OURS, SERVERS, Server, ours

DEFAULT_REFERENCE = "granian"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds", type=click.IntRange(1), default=3, show_default=True, help="Length of one turn."
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    type=click.Choice([scenario.name for scenario in SCENARIOS]),
    help="Only this one; may be repeated.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    type=click.Choice([server.name for server in SERVERS]),
    help="Only this one; may be repeated.",
)
@click.option("--connections", type=click.IntRange(1), help="Instead of each scenario's own.")
@click.option("--threads", type=click.IntRange(1), help="Instead of each scenario's own.")
@click.option(
    "--reference",
    type=click.Choice([server.name for server in SERVERS]),
    default=DEFAULT_REFERENCE,
    show_default=True,
    help="The server that the others are divided by.",
)
@click.option(
    "--compare",
    "revision",
    metavar="REV",
    help="Measure this tree's server beside that of another git revision (and the --server that "
    "are named) instead of its peers.",
)
@click.option(
    "--history", "shows_history", is_flag=True, help="Show earlier runs; measure nothing."
)
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "results",
    help="Where the files go; default benchmarks/results.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="One round of one second; each scenario for the first server, the first scenario for "
    "each server: does everything work?",
)
def main(
    rounds: int,
    seconds: int,
    scenarios: tuple[str, ...],
    servers: tuple[str, ...],
    connections: int | None,
    threads: int | None,
    reference: str,
    revision: str | None,
    shows_history: bool,
    output_dir: Path,
    quick: bool,
) -> None:
    """Measure this server and its peers, one after another in interleaved rounds.

    Prints a table to standard output and writes it, the JSON behind it and a plot to the
    output directory. Exit status 1 if any turn failed, any answer was an error, or the run was
    broken off.
    """
    if shows_history:
        click.echo(history.as_text(output_dir, scenarios), nl=False)
        return
    signal.signal(signal.SIGTERM, _leave)  # as Ctrl+C: the running server is ended on the way out
    with contextlib.ExitStack() as stack:
        try:
            choose_generator()
            chosen = _servers(servers, revision, stack)
        except (LoadError, compare.RevisionError) as error:
            raise click.ClickException(str(error)) from error
        available, skipped = _available(chosen)
        if not available:
            raise click.ClickException("; ".join(f"{name}: {why}" for name, why in skipped.items()))
        plan = Plan(
            [
                _fit(s, connections, threads)
                for s in SCENARIOS
                if not scenarios or s.name in scenarios
            ],
            available,
            rounds=1 if quick else rounds,
            seconds=1 if quick else seconds,
            warm_up_s=0 if quick else 1,
            counts=not quick and _can_count(),
            quick=quick,
        )
        wanted = chosen[1].name if revision else reference
        results = _measure(plan, skipped, _reference(wanted, available))
    for path in _write(results, output_dir, "compare-" if revision else ""):
        click.echo(f"written: {path}", err=True)
    click.echo(report.as_text(results))
    bad = any(_bad(sample) for sample in results.samples)
    sys.exit(1 if bad or results.missing_turns() else 0)


def _servers(
    names: Sequence[str], revision: str | None, stack: contextlib.ExitStack
) -> list[Server]:
    """Return the servers to measure; the files of another revision stay as long as `stack`."""
    if revision is None:
        return [server for server in SERVERS if not names or server.name in names]
    both = [ours(), stack.enter_context(compare.revision(revision))]
    return both + [server for server in SERVERS if server.name in names and server.name != OURS]


def _measure(plan: Plan, skipped: dict[str, str], reference: str) -> report.Results:
    """Run the plan; what it has measured is kept if it is broken off."""
    cores = choose_cores()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    facts = machine.facts(plan.servers, choose_generator(), cores)
    for name, reason in skipped.items():
        click.echo(f"{name} skipped: {reason}", err=True)
    merits = {scenario.name: scenario.merit for scenario in plan.scenarios}
    samples: list[Sample] = []
    try:
        run(
            plan,
            cores,
            lambda sample: click.echo(report.progress(sample, merits[sample.scenario]), err=True),
            samples,
        )
    except KeyboardInterrupt:
        click.echo("broken off: this is what there is", err=True)
    return report.Results(began, facts, plan, reference, skipped, samples)


def _can_count() -> bool:
    why_not = counting.can_trace()
    if why_not:
        click.echo(f"system calls are not counted: {why_not}", err=True)
    return not why_not


def _available(wanted: Sequence[Server]) -> tuple[list[Server], dict[str, str]]:
    """Return the servers that can run here, and of the others why not."""
    skipped = {server.name: server.missing() for server in wanted if server.missing()}
    return [server for server in wanted if server.name not in skipped], skipped


def _reference(wanted: str, chosen: Sequence[Server]) -> str:
    names = [server.name for server in chosen]
    return wanted if wanted in names else names[-1]


def _fit(scenario: Scenario, connections: int | None, threads: int | None) -> Scenario:
    return dataclasses.replace(
        scenario,
        connections=connections or scenario.connections,
        threads=threads or scenario.threads,
    )


def _write(results: report.Results, directory: Path, prefix: str) -> list[Path]:
    """Write table, JSON and plot; return the files that were written."""
    directory.mkdir(parents=True, exist_ok=True)
    moment = results.began.replace(":", "").removesuffix("+0000")
    stem = directory / f"{prefix}{moment}-{results.machine['commit']}"
    text, data, picture = (stem.with_suffix(suffix) for suffix in (".md", ".json", ".svg"))
    text.write_text(report.as_text(results), encoding="utf-8")
    data.write_text(report.as_json(results) + "\n", encoding="utf-8")
    try:
        plot.draw(results, picture)
    except ImportError as error:
        click.echo(f"no plot: {error}", err=True)
        return [text, data]
    return [text, data, picture]


def _bad(sample: Sample) -> bool:
    return bool(sample.failure) or sample.errors > 0


def _leave(signal_number: int, frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
