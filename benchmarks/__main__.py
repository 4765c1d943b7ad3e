"""python -m benchmarks: measure this server beside its peers."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click

from benchmarks import machine, plot, report
from benchmarks.cores import choose_cores
from benchmarks.load import Generator, LoadError, choose_generator
from benchmarks.runner import Plan, Sample, run
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import SERVERS, Server

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
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "results",
    help="Where the files go; default benchmarks/results.",
)
@click.option("--quick", is_flag=True, help="One round of one second: does everything work?")
def main(
    rounds: int,
    seconds: int,
    scenarios: tuple[str, ...],
    servers: tuple[str, ...],
    connections: int | None,
    threads: int | None,
    reference: str,
    output_dir: Path,
    quick: bool,
) -> None:
    """Measure this server and its peers, one after another in interleaved rounds.

    Prints a table to standard output and writes it, the JSON behind it and a plot to the
    output directory. Exit status 1 if any turn failed or any answer was an error.
    """
    signal.signal(signal.SIGTERM, _leave)  # as Ctrl+C: the running server is ended on the way out
    try:
        generator = choose_generator()
    except LoadError as error:
        raise click.ClickException(str(error)) from error
    chosen, skipped = _available([s for s in SERVERS if not servers or s.name in servers])
    if not chosen:
        raise click.ClickException("; ".join(f"{name}: {why}" for name, why in skipped.items()))
    plan = Plan(
        [_fit(s, connections, threads) for s in SCENARIOS if not scenarios or s.name in scenarios],
        chosen,
        rounds=1 if quick else rounds,
        seconds=1 if quick else seconds,
        warm_up_s=1,
    )
    results = _measure(plan, generator, skipped, _reference(reference, chosen))
    for path in _write(results, output_dir):
        click.echo(f"written: {path}", err=True)
    click.echo(report.as_text(results))
    sys.exit(1 if any(_bad(sample) for sample in results.samples) else 0)


def _measure(
    plan: Plan, generator: Generator, skipped: dict[str, str], reference: str
) -> report.Results:
    cores = choose_cores()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    facts = machine.facts(plan.servers, generator, cores)
    for name, reason in skipped.items():
        click.echo(f"{name} skipped: {reason}", err=True)
    samples = run(
        plan, generator, cores, lambda sample: click.echo(report.progress(sample), err=True)
    )
    return report.Results(began, facts, plan, reference, skipped, samples)


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


def _write(results: report.Results, directory: Path) -> list[Path]:
    """Write table, JSON and plot; return the files that were written."""
    directory.mkdir(parents=True, exist_ok=True)
    moment = results.began.replace(":", "").removesuffix("+0000")
    stem = directory / f"{moment}-{results.machine['commit']}"
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
    return sample.measurement is None or sample.measurement.errors > 0


def _leave(signal_number: int, frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
