"""python -m benchmarks.elastic: does scaling keep what it promises?

A scenario for each promise, with a bound for each figure; nothing is pinned. Exit status 1 if
a bound is not kept.
"""

from __future__ import annotations

import http.client
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click
import psutil

import spm
from benchmarks import (
    elastic_fit,
    elastic_imbalance,
    elastic_keep,
    elastic_losses,
    elastic_peers,
    elastic_quiet,
    elastic_report,
    elastic_scaling,
    machine,
)
from benchmarks.cores import Cores
from benchmarks.crowd import raise_descriptor_limit
from benchmarks.elastic_server import Shape
from benchmarks.elastic_verdict import Outcome, all_hold
from benchmarks.load import LoadError
from benchmarks.processes import ServerError

# name, round, short? -> what it brought
Measure = Callable[[str, int, bool], Outcome | list[Outcome]]

SCENARIOS: Final[dict[str, Measure]] = {
    "burst": lambda n, r, q: elastic_scaling.burst(n, r, Shape(2, 16, 1), 2.5, quick=q),
    "burst2": lambda n, r, q: elastic_scaling.burst(n, r, Shape(2, 8, 2), 1.6, quick=q),
    "keepalive": lambda n, r, q: elastic_keep.keepalive(n, r, quick=q),
    "kills": lambda n, r, q: elastic_losses.kills(n, r, quick=q),
    "term": lambda n, r, q: elastic_losses.term(n, r, quick=q),
    "imbalance": lambda n, r, q: elastic_imbalance.imbalance(n, r, quick=q),
    "cpu": lambda n, r, q: elastic_fit.cpu(n, r, quick=q),
    "io": lambda n, r, q: elastic_fit.io(n, r, quick=q),
    "steady": lambda n, r, q: elastic_scaling.steady(n, r, quick=q),
    "quiet": lambda n, r, q: elastic_quiet.quiet(n, r, quick=q),
}

PEERS: Final[dict[str, Measure]] = {
    "burst": lambda n, r, q: elastic_peers.burst(n, r, quick=q),
    "imbalance": lambda n, r, q: elastic_peers.imbalance(n, r, quick=q),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--quick", is_flag=True, help="One round of short phases: does everything work?")
@click.option("--peers", is_flag=True, help="gunicorn, too, in burst and imbalance.")
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "results",
    help="Where the files go; default benchmarks/results.",
)
def main(
    scenarios: tuple[str, ...], rounds: int, quick: bool, peers: bool, output_dir: Path
) -> None:
    """Measure how this server scales, and what it loses by it; all scenarios or those named.

    Prints a Markdown report and writes it, the JSON behind it and a plot to the output
    directory. Exit status 1 if a bound does not hold.
    """
    signal.signal(signal.SIGTERM, _leave)  # as Ctrl+C: running servers are ended on the way out
    raise_descriptor_limit()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    facts = machine.surroundings(Cores(None, None))
    rounds = 1 if quick else rounds
    with tempfile.TemporaryDirectory() as directory:
        # Control sockets in a place of their own: who looks for servers of this user, as
        # `status` does, would wake ours up.
        os.environ["XDG_RUNTIME_DIR"] = directory
        outcomes = _run(scenarios or tuple(SCENARIOS), rounds, quick, peers)
    results = elastic_report.Results(began, facts, rounds, quick, outcomes)
    for path in _write(results, output_dir):
        click.echo(f"written: {path}", err=True)
    click.echo(elastic_report.as_text(results))
    sys.exit(0 if all_hold(outcomes) else 1)


def _run(names: Sequence[str], rounds: int, quick: bool, peers: bool) -> list[Outcome]:
    """Run round after round, so that a slow minute does not hit one scenario alone."""
    outcomes: list[Outcome] = []
    for number in range(1, rounds + 1):
        for name in names:
            found = _measure(SCENARIOS[name], name, number, quick)
            if peers and name in PEERS:
                found += _measure(PEERS[name], name, number, quick)
            for outcome in found:
                click.echo(elastic_report.progress(outcome), err=True)
                outcomes.append(outcome)
    return outcomes


def _measure(measure: Measure, name: str, number: int, quick: bool) -> list[Outcome]:
    try:
        found = measure(name, number, quick)
    except (
        ServerError,
        LoadError,
        spm.SPMError,
        OSError,
        psutil.Error,
        http.client.HTTPException,
    ) as error:
        return [Outcome(name, number, failure=str(error) or repr(error))]
    return found if isinstance(found, list) else [found]


def _write(results: elastic_report.Results, directory: Path) -> list[Path]:
    """Write report, JSON and plot; return the files that were written."""
    directory.mkdir(parents=True, exist_ok=True)
    moment = results.began.replace(":", "").removesuffix("+0000")
    stem = f"elastic-{moment}-{results.machine['commit']}"
    text, data, picture = (directory / f"{stem}{suffix}" for suffix in (".md", ".json", ".svg"))
    text.write_text(elastic_report.as_text(results), encoding="utf-8")
    data.write_text(elastic_report.as_json(results) + "\n", encoding="utf-8")
    try:
        is_drawn = elastic_report.draw(results.outcomes, picture)
    except ImportError as error:
        click.echo(f"no plot: {error}", err=True)
        is_drawn = False
    return [text, data, picture] if is_drawn else [text, data]


def _leave(signal_number: int, frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
