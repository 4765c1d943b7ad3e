"""python -m benchmarks.soak --minutes N: good, slow and hostile clients at once, for long.

The server runs with its defaults and scales as it likes. The good clients check every byte of
every answer. Every few seconds it is noted what the server's processes hold and what it says
of itself. When the clients have gone, everything must be as it was before they came: exit
status 1 and a line for each thing that is not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import click

import spm
from benchmarks import machine
from benchmarks.crowd import Crowd, Kind, raise_descriptor_limit
from benchmarks.hostile import HOSTILE, SLOW
from benchmarks.memory import write_file
from benchmarks.ordinary import ORDINARY, file_reader, sleeper
from benchmarks.processes import ServerError, running
from benchmarks.report import table
from benchmarks.scenarios import Scenario
from benchmarks.servers import OURS, Server
from benchmarks.soak_record import Look, Record, Tolerance, judge
from benchmarks.stress_app import FILE_VARIABLE, HELLO_BODY

FILE_BYTES: Final = 3_000_000
FINISH_S: Final = 60.0  # for the good clients' last answers
WAVE_S: Final = 40.0
THREAD_IDLE_S: Final = 10.0  # after which a thread that is not needed ends
_WARM_UP_S: Final = 1.0
_MB: Final = 1e6
_SCENARIO: Final = Scenario("stress", "", "benchmarks.stress_app:app", HELLO_BODY)

COUNTS: Final[Mapping[str, int]] = {
    "kept": 20,
    "fresh": 10,
    "poster": 4,
    "chunker": 4,
    "streamer": 2,
    "file-reader": 2,
    "sleeper": 60,
    "idle": 200,
    **{name: 20 for name in SLOW if name != "idle"},
    **dict.fromkeys(HOSTILE, 3),
}
"""How many clients of each kind."""


def crowd_of(
    address: tuple[str, int], counts: Mapping[str, int], file_crc: int, wave_s: float = WAVE_S
) -> Crowd:
    """Return a crowd of these clients, who are about to come in any order."""
    kinds: dict[str, Kind] = {**ORDINARY, **SLOW, **HOSTILE}
    for kind in (file_reader(FILE_BYTES, file_crc), sleeper(wave_s)):
        kinds[kind.name] = kind
    crowd = Crowd(address, starts_per_s=500)
    for name, count in counts.items():
        crowd.add(kinds[name], count)
    crowd.shuffle()
    return crowd


def soak(
    crowd: Crowd,
    look: Callable[[], Look],
    seconds: float,
    every_s: float,
    settle_s: float,
    report: Callable[[Look], None] = lambda look: None,
    *,
    spare_threads: int = 0,
) -> Record:
    """Let the crowd loose, then let it go, and return what was seen meanwhile.

    look: looks at the server. every_s: how often. settle_s: how long the server may take,
    after the last client has gone, to be again what it was before.
    spare_threads: how many threads more may be left.
    """
    record = Record(look(), spare_threads)
    report(record.before)
    for _ in range(max(1, round(seconds / every_s))):
        crowd.run_for(every_s)
        record.looks.append(look())
        report(record.looks[-1])
    # The good ones come to their ends; whoever else is there is not waited for.
    crowd.is_leaving = True
    good = crowd.of(good=True)
    crowd.run_for(FINISH_S, lambda: not any(tally.open for tally in good))
    crowd.close()
    record.good = {name: crowd.tallies[name] for name, k in crowd.kinds.items() if k.is_good}
    record.bad = {name: crowd.tallies[name] for name, k in crowd.kinds.items() if not k.is_good}
    record.settle(look, settle_s, report)
    return record


def warm_up(address: tuple[str, int]) -> None:
    """Have the server start what stays for good, and end what does not."""
    crowd = Crowd(address)
    crowd.add(sleeper(_WARM_UP_S), 3)
    crowd.run_for(3 * _WARM_UP_S)
    crowd.close()
    time.sleep(THREAD_IDLE_S + 2)


def looker(pid: int, path: str) -> Callable[[], Look]:
    """Return what looks at the server with this manager and this control socket."""
    return lambda: Look.at(pid, spm.ask(path, timeout_s=30.0))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True)
@click.option("--every", type=click.FloatRange(0.1), default=3.0, show_default=True, help="s.")
@click.option("--settle", type=click.FloatRange(1), default=90.0, show_default=True, help="s.")
@click.option("--without", multiple=True, type=click.Choice(list(COUNTS)), help="Not this kind.")
@click.option("--only", multiple=True, type=click.Choice(list(COUNTS)), help="Only this kind.")
@click.option("--option", multiple=True, help="For the server, e.g. --option=--max-workers=2.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    minutes: float,
    every: float,
    settle: float,
    without: tuple[str, ...],
    only: tuple[str, ...],
    option: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Soak a server with good, slow and hostile clients; see that nothing is left of them."""
    signal.signal(signal.SIGTERM, _leave)
    raise_descriptor_limit()
    counts = {
        name: count
        for name, count in COUNTS.items()
        if name not in without and (not only or name in only)
    }
    began = datetime.now(UTC).isoformat(timespec="seconds")
    with _served(option) as (pid, port, file_crc):
        address = ("127.0.0.1", port)
        warm_up(address)
        crowd = crowd_of(address, counts, file_crc)
        look = looker(pid, spm.find(pid=pid))
        record = soak(crowd, look, minutes * 60, every, settle, lambda seen: _say(str(seen)))
    problems = list(judge(record, Tolerance()))
    title = f"# Soak of {minutes:g} minutes, {began}, commit {machine.commit()}"
    click.echo(f"{title}\n\n{as_text(record)}\n")
    for problem in problems:
        click.echo(f"PROBLEM: {problem}")
    click.echo("everything is as it was" if not problems else f"{len(problems)} problem(s)")
    if json_file is not None:
        json_file.write_text(as_json(began, minutes, record, problems), encoding="utf-8")
    sys.exit(1 if problems else 0)


@contextmanager
def _served(options: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    """Run the server with its defaults; give its pid, its port and the file's CRC-32."""

    def command(port: int, app: str, threads: int) -> tuple[str, ...]:
        return ("main.py", "--bind", f"127.0.0.1:{port}", *options, app)

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "file"
        os.environ[FILE_VARIABLE] = str(file)
        file_crc = write_file(file, FILE_BYTES)
        try:
            with running(Server(OURS, "main", "", command), _SCENARIO, None) as child:
                yield child.pid, child.port, file_crc
        except ServerError as error:
            raise click.ClickException(str(error)) from error


def as_text(record: Record) -> str:
    """Return the record as two Markdown tables: the clients, and the server over time."""
    head = ["kind", "clients", "connections", "requests", "answers", "ended", "cut", "refused"]
    head += ["failed", "answers by status"]
    body = []
    for name, tally in {**record.good, **record.bad}.items():
        statuses = " ".join(f"{status}:{n}" for status, n in sorted(tally.statuses.items()))
        counts = (tally.requests, tally.answers, tally.ended, tally.cut, tally.refused)
        cells = [tally.wanted, tally.opened, *counts, tally.failed, statuses]
        body.append([name, *map(str, cells)])
    shown = [record.before, *_some(record.looks), record.after]
    return f"{table(head, body)}\n\n{_looks_table([look for look in shown if look])}"


def _looks_table(looks: list[Look]) -> str:
    head = ["s", "state", "PSS MB", "threads", "descriptors", "connections", "requests", "streams"]
    began_s = looks[0].at_s
    body = [
        [
            f"{look.at_s - began_s:.0f}",
            f"{look.workers} workers",
            f"{look.held.pss / _MB:.1f}",
            str(look.held.threads),
            str(look.held.descriptors),
            str(look.connections),
            str(look.requests),
            str(look.streams),
        ]
        for look in looks
    ]
    return table(head, body)


def _some(looks: list[Look]) -> list[Look]:
    """Return about a dozen of them."""
    return looks[:: max(1, len(looks) // 12)]


def as_json(began: str, minutes: float, record: Record, problems: list[str]) -> str:
    """Return everything that was seen."""
    values: dict[str, Any] = {
        "format": 1,
        "began": began,
        "minutes": minutes,
        "problems": problems,
        **asdict(record),
    }
    return json.dumps(values, indent=1) + "\n"


def _say(text: str) -> None:
    click.echo(text, err=True)


def _leave(signal_number: int, frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
