"""python -m benchmarks.slow_clients: what thousands of slow clients do to the ordinary ones.

In each round a server is measured three times with the same load of ordinary requests (see
`latency`): alone, while a herd of slow clients arrives, and with all of them there. The
server has one core; the load and the herd, two processes, share another.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click

from benchmarks import slow_report
from benchmarks.cores import choose_cores
from benchmarks.crowd import raise_descriptor_limit
from benchmarks.hostile import SLOW
from benchmarks.servers import OURS, SERVERS, Server
from benchmarks.slow_run import Plan, run

PEERS: Final = ("gunicorn", "waitress", "granian")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=20.0, show_default=True)
@click.option("--idle", type=click.IntRange(0), default=2000, show_default=True, help="Clients.")
@click.option("--each", type=click.IntRange(0), default=200, show_default=True, help="Of the rest.")
@click.option("--only", multiple=True, type=click.Choice(list(SLOW)), help="Only this kind.")
@click.option("--without", multiple=True, type=click.Choice(list(SLOW)), help="Not this kind.")
@click.option("--arrivals", type=click.FloatRange(1), default=500.0, show_default=True, help="/s.")
@click.option("--threads", type=click.IntRange(1), default=8, show_default=True)
@click.option("--peer", multiple=True, type=click.Choice([*PEERS, "none"]), help="Beside ours.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    rounds: int,
    seconds: float,
    idle: int,
    each: int,
    only: tuple[str, ...],
    without: tuple[str, ...],
    arrivals: float,
    threads: int,
    peer: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Measure ordinary requests without and with thousands of slow clients.

    Prints a Markdown report. Exit status 1 if an ordinary request to this server failed.
    """
    signal.signal(signal.SIGTERM, _leave)
    raise_descriptor_limit()
    counts = chosen(idle, each, only, without)
    plan = Plan(_servers(peer), counts, arrivals, threads, rounds, seconds)
    cores = choose_cores()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    facts = slow_report.facts(plan.servers, cores)
    turns = run(plan, cores, lambda turn: click.echo(slow_report.progress(turn), err=True))
    results = slow_report.Results(began, facts, plan, turns)
    if json_file is not None:
        json_file.write_text(slow_report.as_json(results) + "\n", encoding="utf-8")
    click.echo(slow_report.as_text(results))
    sys.exit(1 if any(turn.bad for turn in turns if turn.server == OURS) else 0)


def chosen(idle: int, each: int, only: Sequence[str], without: Sequence[str]) -> dict[str, int]:
    """Return how many slow clients of each kind there are to be."""
    names = [name for name in SLOW if (not only or name in only) and name not in without]
    counts = {name: idle if name == "idle" else each for name in names}
    return {name: count for name, count in counts.items() if count}


def _servers(peers: Sequence[str]) -> list[Server]:
    servers = [server for server in SERVERS if server.name == OURS or server.name in peers]
    missing = [f"{server.name}: {server.missing()}" for server in servers if server.missing()]
    if missing:
        raise click.ClickException("; ".join(missing))
    return servers


def _leave(signal_number: int, frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
