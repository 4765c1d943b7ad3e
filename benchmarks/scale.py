"""python -m benchmarks.scale: how cost and memory grow with what a server is given."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click
import psutil

from benchmarks import machine, scale_plot
from benchmarks.cores import Cores, choose_cores
from benchmarks.crowd import raise_descriptor_limit
from benchmarks.load import LoadError
from benchmarks.processes import ServerError
from benchmarks.scale_curves import CURVES, Curve
from benchmarks.scale_load import Errors
from benchmarks.scale_measure import Missing, Turn, take
from benchmarks.scale_report import (
    Point,
    Results,
    as_json,
    as_text,
    progress,
    read_points,
    renumbered,
)
from benchmarks.scale_servers import ONE_PROCESS, scalable
from benchmarks.scale_transfer import TransferError
from benchmarks.servers import Server

QUICK_LARGEST: Final = 1_000_000  # of any size, with --quick
_FAILURES: Final = (
    Errors,
    LoadError,
    Missing,
    OSError,
    ServerError,
    TransferError,
    psutil.Error,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--seconds", type=click.IntRange(1), default=2, show_default=True, help="Length of one point."
)
@click.option(
    "--curve",
    "curves",
    multiple=True,
    type=click.Choice([curve.name for curve in CURVES]),
    help="Only this one; may be repeated.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    type=click.Choice([server.name for server in scalable()]),
    help="Only this one; may be repeated.",
)
@click.option(
    "--add",
    "added",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The JSON of an earlier run, whose points are reported with this run's.",
)
@click.option("--no-run", is_flag=True, help="Measure nothing: report what was added.")
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "results",
    help="Where the files go; default benchmarks/results.",
)
@click.option("--quick", is_flag=True, help="One round of one second each, no huge bodies.")
def main(
    rounds: int,
    seconds: int,
    curves: tuple[str, ...],
    servers: tuple[str, ...],
    added: tuple[Path, ...],
    no_run: bool,
    output_dir: Path,
    quick: bool,
) -> None:
    """Measure the curves of this server and its peers, in interleaved rounds.

    Prints the report and writes it, the JSON behind it and a plot to the output directory.
    Exit status 1 if a point could not be measured.
    """
    signal.signal(signal.SIGTERM, _leave)  # as Ctrl+C: the running server is ended on the way out
    if not no_run and not shutil.which("wrk"):
        raise click.ClickException("the curves need wrk: apt install wrk")
    raise_descriptor_limit()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    wanted = [server for server in scalable() if not servers or server.name in servers]
    skipped = {server.name: server.missing() for server in wanted if server.missing()}
    chosen = [curve for curve in CURVES if not curves or curve.name in curves]
    if quick:
        rounds, seconds, chosen = 1, 1, [curve.up_to(QUICK_LARGEST) for curve in chosen]
    cores = choose_cores()
    facts = machine.surroundings(cores)
    runs = [read_points(path) for path in added]
    measured: list[Point] = []
    try:
        here = [server for server in wanted if server.name not in skipped and not no_run]
        for point in _run(chosen, here, rounds, seconds, cores):
            click.echo(progress(point), err=True)
            measured.append(point)
    finally:  # what was measured until Ctrl+C is not lost
        points = renumbered([*runs, measured])
        results = Results(began, facts, seconds, skipped, points)
        for path in _write(results, output_dir) if points else ():
            click.echo(f"written: {path}", err=True)
        click.echo(as_text(results))
    sys.exit(1 if any(point.failure for point in points) else 0)


def _run(
    curves: Sequence[Curve], servers: Sequence[Server], rounds: int, seconds: float, cores: Cores
) -> Iterator[Point]:
    """Measure; a point that fails ends its server's turn, the others go on."""
    for curve in curves:
        for number in range(1, rounds + 1):
            for server in servers:
                if _unfit(curve, server):
                    continue
                fitting = curve.up_to(1) if _has_one_worker(curve, server) else curve
                yield from _turn(Turn(fitting, server, cores, seconds), number)


def _turn(turn: Turn, number: int) -> Iterator[Point]:
    curve, server = turn.curve.name, turn.server.name
    sizes = iter(turn.curve.sizes)
    try:
        for size, figures in take(turn):
            next(sizes)
            yield Point(curve, size, number, server, figures)
    except _FAILURES as error:
        # The first line says what happened; the last, where a server has left a traceback, why.
        lines = str(error).splitlines() or [type(error).__name__]
        why = " ... ".join(dict.fromkeys([lines[0], lines[-1]]))
        yield Point(curve, next(sizes), number, server, failure=why)


def _unfit(curve: Curve, server: Server) -> bool:
    one_thread = curve.needs_threads and not server.has_threads
    return one_thread or (curve.needs_workers and _has_one_worker(curve, server))


def _has_one_worker(curve: Curve, server: Server) -> bool:
    return curve.unit == "workers" and server.name in ONE_PROCESS


def _write(results: Results, directory: Path) -> list[Path]:
    """Write report, JSON and plot; return the files that were written."""
    directory.mkdir(parents=True, exist_ok=True)
    moment = results.began.replace(":", "").removesuffix("+0000")
    stem = f"scale-{moment}-{results.machine['commit']}"
    text, data, picture = (directory / f"{stem}{suffix}" for suffix in (".md", ".json", ".svg"))
    text.write_text(as_text(results), encoding="utf-8")
    data.write_text(as_json(results) + "\n", encoding="utf-8")
    try:
        scale_plot.draw(results, picture)
    except ImportError as error:
        click.echo(f"no plot: {error}", err=True)
        return [text, data]
    return [text, data, picture]


def _leave(signal_number: int, frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
