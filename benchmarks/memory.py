"""python -m benchmarks.memory: what large bodies, large answers and idle connections cost.

Each transfer has a server of its own, with one worker, whose memory is read many times a
second while it lasts; what counts is how far it rises above what it was before.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click

from benchmarks.answer import Answer, AnswerReader
from benchmarks.cores import choose_cores
from benchmarks.crowd import Crowd, Kind, raise_descriptor_limit
from benchmarks.family import Holdings, of_process
from benchmarks.hostile import get, keeps_quiet
from benchmarks.processes import running
from benchmarks.report import table
from benchmarks.scenarios import BROWSER_HEADERS, Scenario
from benchmarks.servers import OURS, SERVERS
from benchmarks.stress_app import FILE_VARIABLE, HELLO_BODY, crc_of_pieces, pieces

Address = tuple[str, int]

MB: Final = 1_000_000
FEW_CONNECTIONS: Final = 10
_LOOK_S: Final = 0.02
_PATIENCE_S: Final = 60.0
_RECEIVE_BYTES: Final = 262_144
_SCENARIO: Final = Scenario("stress", "", "benchmarks.stress_app:app", HELLO_BODY)


class Failed(Exception):
    """A transfer was not answered as it should be."""


@dataclass(frozen=True, slots=True)
class Rise:
    """The worker's memory around one transfer, bytes."""

    before: Holdings
    peak_pss: int
    peak_rss: int
    seconds: float
    looks: int

    @property
    def pss(self) -> int:
        """How far the proportional set size rose."""
        return max(0, self.peak_pss - self.before.pss)

    @property
    def rss(self) -> int:
        """How far the resident set size rose."""
        return max(0, self.peak_rss - self.before.rss)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One thing to measure. rate: bytes per second that the client keeps to; 0: all it can."""

    name: str
    rate: float
    run: Callable[[Address, float], None]


@dataclass(frozen=True, slots=True)
class IdleCost:
    """What idle connections cost: the worker's memory with few and with many of them."""

    name: str
    few: int
    many: int
    pss_few: int
    pss_many: int
    pss_after: int  # when all were closed

    @property
    def bytes_each(self) -> float:
        """Memory for each connection."""
        return (self.pss_many - self.pss_few) / (self.many - self.few)


# -- transfers --------------------------------------------------------------------------------


def upload(address: Address, size: int, rate: float = 0.0) -> None:
    """Send a chunked body of `size` bytes; see that all of it arrived. Raises: Failed."""
    pace = _Pace(rate)
    with socket.create_connection(address, _PATIENCE_S) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces(size):
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            pace.wait(len(piece))
        sock.sendall(b"0\r\n\r\n")
        answer = _receive(sock, _Pace(0.0))
    expected = b"%d %d" % (size, crc_of_pieces(size))
    if (answer.status, answer.start) != (200, expected):
        raise Failed(f"sent {expected!r}, answered {answer.status} {answer.start!r}")


def download(address: Address, target: str, size: int, crc: int, rate: float = 0.0) -> None:
    """Fetch `target`; see that it has `size` bytes and this CRC-32. Raises: Failed."""
    with socket.create_connection(address, _PATIENCE_S) as sock:
        sock.sendall(get(target))
        answer = _receive(sock, _Pace(rate))
    if (answer.status, answer.length, answer.crc) != (200, size, crc):
        raise Failed(f"asked {target}, got {answer.length} bytes, status {answer.status}")


class _Pace:
    """Keeps a transfer from being faster than it should be."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began_s = time.monotonic()
        self._moved = 0

    def wait(self, size: int) -> None:
        self._moved += size
        if self._rate:
            ahead_s = self._moved / self._rate - (time.monotonic() - self._began_s)
            if ahead_s > 0:
                time.sleep(ahead_s)


def _receive(sock: socket.socket, pace: _Pace) -> Answer:
    reader = AnswerReader()
    while data := sock.recv(_RECEIVE_BYTES):
        reader.feed(data)
        if (answer := reader.take()) is not None:
            return answer
        pace.wait(len(data))
    answer = reader.end()
    if answer is None:
        raise Failed("closed without an answer")
    return answer


def write_file(path: Path, size: int) -> int:
    """Make the file that /file answers; return its CRC-32."""
    crc = 0
    with path.open("wb") as file:
        for piece in pieces(size):
            file.write(piece)
            crc = zlib.crc32(piece, crc)
    return crc


# -- measuring --------------------------------------------------------------------------------


def worker_of(address: Address) -> int:
    """Return the process that answers there."""
    with socket.create_connection(address, _PATIENCE_S) as sock:
        sock.sendall(get("/pid", "Connection: close"))
        return int(_receive(sock, _Pace(0.0)).start)


def rise_during(pid: int, transfer: Callable[[], None]) -> Rise:
    """Run `transfer` on another thread and watch the memory of a process meanwhile.

    Raises: whatever the transfer raises.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            transfer()
        except Exception as error:  # noqa: BLE001 - raised again below, on the caller's thread
            errors.append(error)

    before = of_process(pid)
    peak_pss, peak_rss, looks = before.pss, before.rss, 0
    began_s = time.monotonic()
    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_S)
        now = of_process(pid)
        peak_pss, peak_rss, looks = max(peak_pss, now.pss), max(peak_rss, now.rss), looks + 1
    if errors:
        raise errors[0]
    return Rise(before, peak_pss, peak_rss, time.monotonic() - began_s, looks)


def idle_cost(address: Address, pid: int, name: str, request: bytes, many: int) -> IdleCost:
    """Measure the memory of idle connections, each of which has made one request.

    Raises: Failed if they cannot all be opened.
    """
    crowd = Crowd(address, starts_per_s=2000)
    kind = Kind(name, keeps_quiet(request))
    try:
        crowd.add(kind, FEW_CONNECTIONS)
        pss_few = _settled_pss(crowd, pid)
        crowd.add(kind, many - FEW_CONNECTIONS)
        pss_many = _settled_pss(crowd, pid)
    finally:
        crowd.close()
    deadline_s = time.monotonic() + _PATIENCE_S
    while of_process(pid).descriptors > many and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
    return IdleCost(name, FEW_CONNECTIONS, many, pss_few, pss_many, of_process(pid).pss)


def _settled_pss(crowd: Crowd, pid: int) -> int:
    if not crowd.run_for(_PATIENCE_S, lambda: crowd.is_settled):
        raise Failed(f"not all connections could be opened: {crowd.tallies}")
    return of_process(pid).pss


@contextmanager
def _server() -> Iterator[tuple[Address, int]]:
    server = next(server for server in SERVERS if server.name == OURS)
    with running(server, _SCENARIO, choose_cores().server) as child:
        address = ("127.0.0.1", child.port)
        yield address, worker_of(address)


def _transfers(size: int, rate: float, file_crc: int) -> Iterator[Transfer]:
    crc = crc_of_pieces(size)
    for speed in (0.0, rate):
        yield Transfer("chunked upload", speed, lambda where, rate: upload(where, size, rate))
        yield Transfer(
            "generator download",
            speed,
            lambda where, rate: download(where, f"/stream?bytes={size}", size, crc, rate),
        )
        yield Transfer(
            "file_wrapper download",
            speed,
            lambda where, rate: download(where, "/file", size, file_crc, rate),
        )


# -- the command ------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--megabytes", type=click.IntRange(1), default=500, show_default=True)
@click.option("--rate", type=click.FloatRange(1), default=60.0, show_default=True, help="MB/s.")
@click.option("--limit", type=click.IntRange(1), default=32, show_default=True, help="MB of rise.")
@click.option("--idle", type=click.IntRange(100), default=2000, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(megabytes: int, rate: float, limit: int, idle: int, json_file: Path | None) -> None:
    """Measure the memory of large transfers, fast and at --rate, and of idle connections.

    Prints a Markdown report. Exit status 1 if a transfer raised the worker's memory by more
    than --limit.
    """
    signal.signal(signal.SIGTERM, _leave)
    raise_descriptor_limit()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "file"
        os.environ[FILE_VARIABLE] = str(file)
        file_crc = write_file(file, megabytes * MB)
        rises = [
            (transfer, _measure(transfer))
            for transfer in _transfers(megabytes * MB, rate * MB, file_crc)
        ]
    costs = list(_idle_costs(idle))
    click.echo(f"# Memory, {began}\n\n{_rise_table(rises)}\n\n{_idle_table(costs)}")
    if json_file is not None:
        json_file.write_text(_as_json(began, megabytes, rises, costs) + "\n", encoding="utf-8")
    sys.exit(1 if any(rise.pss > limit * MB for _, rise in rises) else 0)


def _measure(transfer: Transfer) -> Rise:
    with _server() as (address, pid):
        rise = rise_during(pid, lambda: transfer.run(address, transfer.rate))
    click.echo(f"{transfer.name}, {_speed(transfer)}: {rise.pss / MB:.1f} MB", err=True)
    return rise


def _idle_costs(many: int) -> Iterator[IdleCost]:
    browser = get("/", *(f"{name}: {value}" for name, value in BROWSER_HEADERS))
    for name, request in (("two-line head", get("/")), ("14 browser fields", browser)):
        with _server() as (address, pid):
            yield idle_cost(address, pid, name, request, many)


def _rise_table(rises: Sequence[tuple[Transfer, Rise]]) -> str:
    head = ["transfer", "client", "s", "PSS before MB", "PSS peak MB", "PSS rise MB", "RSS rise MB"]
    body = [
        [
            transfer.name,
            _speed(transfer),
            f"{rise.seconds:.1f}",
            f"{rise.before.pss / MB:.1f}",
            f"{rise.peak_pss / MB:.1f}",
            f"{rise.pss / MB:.1f}",
            f"{rise.rss / MB:.1f}",
        ]
        for transfer, rise in rises
    ]
    return table(head, body)


def _idle_table(costs: Sequence[IdleCost]) -> str:
    head = ["idle connections", "head", "PSS with 10 MB", "with all", "closed", "bytes each"]
    body = [
        [
            str(cost.many),
            cost.name,
            f"{cost.pss_few / MB:.1f}",
            f"{cost.pss_many / MB:.1f}",
            f"{cost.pss_after / MB:.1f}",
            f"{cost.bytes_each:,.0f}",
        ]
        for cost in costs
    ]
    return table(head, body)


def _speed(transfer: Transfer) -> str:
    return f"{transfer.rate / MB:g} MB/s" if transfer.rate else "as fast as it can"


def _as_json(
    began: str,
    megabytes: int,
    rises: Sequence[tuple[Transfer, Rise]],
    costs: Sequence[IdleCost],
) -> str:
    return json.dumps(
        {
            "format": 1,
            "began": began,
            "megabytes": megabytes,
            "transfers": [
                {"name": transfer.name, "rate": transfer.rate, **dataclasses.asdict(rise)}
                for transfer, rise in rises
            ],
            "idle": [{**dataclasses.asdict(cost), "bytes_each": cost.bytes_each} for cost in costs],
        },
        indent=1,
    )


def _leave(signal_number: int, frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
