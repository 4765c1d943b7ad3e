"""python -m benchmarks.collector: full collections in quiet moments, beside CPython's own.

One worker on a core of its own serves `collector_app`, once as ever and once with thresholds of
its own, which the server leaves alone; both take turns in every round. `bursts`: connections that
all ask, again and again, and pause together. `steady`: one request after the other, without a
pause. `large`: like bursts, and each request leaves a megabyte in a cycle.

The clock starts before a request is sent and stops when the kernel received the answer.
"""

from __future__ import annotations

import gc
import http.client
import json
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

import click

from benchmarks import family
from benchmarks.apps import JSON_BODY
from benchmarks.cores import choose_cores, pinned
from benchmarks.hostile import get
from benchmarks.latency import arrival_ns, begin_to_connect, quantile
from benchmarks.processes import Running, running
from benchmarks.scenarios import Scenario
from benchmarks.servers import OURS, SERVERS

CONNECTIONS: Final = 4
_SAMPLE_S: Final = 0.2  # between two looks at the memory
_RECEIVE_BYTES: Final = 65536
_SERVER: Final = next(server for server in SERVERS if server.name == OURS)
_APP: Final = "benchmarks.collector_app:app"


@dataclass(frozen=True, slots=True)
class Pattern:
    """How it is asked. burst: requests on each connection before all pause; 0: no pauses."""

    path: str
    burst: int
    pause_s: float = 0.0  # the mean; exponentially distributed


PATTERNS: Final = {
    "bursts": Pattern("/", 10, 0.1),
    "steady": Pattern("/", 0),
    "large": Pattern("/large", 5, 0.2),
}
VARIANTS: Final = {"quiet moments": "", "CPython's own": "default"}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn has shown. Durations in nanoseconds, memory in bytes."""

    durations_ns: list[int]
    seconds: float
    memory: list[int]
    pauses_ms: list[float]  # of full collections
    met: int  # of these, in the middle of a request


class Asker:
    """Some kept connections that ask together."""

    def __init__(self, port: int, path: str) -> None:
        self.durations_ns: list[int] = []
        self._request = get(path)
        self._epoll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        for _ in range(CONNECTIONS):
            sock = socket.socket()
            begin_to_connect(self._epoll, sock, ("127.0.0.1", port))
            self._socks[sock.fileno()] = sock

    def close(self) -> None:
        """Hang up."""
        for sock in self._socks.values():
            sock.close()
        self._epoll.close()

    def ask(self) -> None:
        """Ask once on each connection, all at once, and take the answers."""
        sent: dict[int, int] = {}
        for fd, sock in self._socks.items():
            sent[fd] = time.time_ns()
            sock.send(self._request)
        while sent:
            for fd, _ in self._epoll.poll(30):
                data, ancillary, _, _ = self._socks[fd].recvmsg(
                    _RECEIVE_BYTES, socket.CMSG_SPACE(16)
                )
                if not data.endswith(JSON_BODY):
                    raise click.ClickException(f"answered {data[:100]!r}")
                self.durations_ns.append(arrival_ns(ancillary) - sent.pop(fd))


def turn(pattern: Pattern, variant: str, seconds: float, seed: int) -> Turn:
    """Serve and ask for so long."""
    cores = choose_cores()
    scenario = Scenario("collector", "", _APP, JSON_BODY, pattern.path, threads=8)
    with _environment(VARIANTS[variant]), running(_SERVER, scenario, cores.server) as server:
        with pinned(cores.load):
            asker = Asker(server.port, pattern.path)
            # A collection in the middle would be measured as the server's.
            gc.collect()
            gc.disable()
            try:
                memory, took_s = _ask(asker, server, pattern, seconds, random.Random(seed))
            finally:
                gc.enable()
                asker.close()
        pauses_ms, met = _collections(server.port)
    return Turn(asker.durations_ns, took_s, memory, pauses_ms, met)


def _ask(
    asker: Asker, server: Running, pattern: Pattern, seconds: float, chance: random.Random
) -> tuple[list[int], float]:
    memory: list[int] = []
    begin_s = time.monotonic()
    look_s = begin_s
    while (now_s := time.monotonic()) < begin_s + seconds:
        if now_s >= look_s:
            memory.append(family.of_family(server.pid).pss)
            look_s = now_s + _SAMPLE_S
        for _ in range(pattern.burst or 10):
            asker.ask()
        if pattern.burst:
            time.sleep(chance.expovariate(1 / pattern.pause_s))
    took_s = time.monotonic() - begin_s
    memory.append(family.of_family(server.pid).pss)
    return memory, took_s


def _collections(port: int) -> tuple[list[float], int]:
    """Return how long full collections took, ms, and how many of them hit a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/collections")
    said = json.loads(connection.getresponse().read())
    connection.close()
    return said["pauses_ms"], said["met"]


@contextmanager
def _environment(value: str) -> Iterator[None]:
    os.environ["COLLECTOR_BENCH"] = value
    try:
        yield
    finally:
        del os.environ["COLLECTOR_BENCH"]


def row(name: str, variant: str, turns: list[Turn]) -> str:
    """Return a line of the table: latencies over all turns, of the rest the median."""
    ordered = sorted(duration for turn in turns for duration in turn.durations_ns)
    latencies = [quantile(ordered, fraction) / 1e6 for fraction in (0.5, 0.99, 0.999, 1.0)]
    rate = median(len(turn.durations_ns) / turn.seconds for turn in turns)
    memory = [
        median(look(turn.memory) for turn in turns) / 1e6
        for look in (lambda m: m[0], max, lambda m: m[-1])
    ]
    pauses = [pause for turn in turns for pause in turn.pauses_ms]
    cells = [
        name,
        variant,
        str(len(ordered)),
        f"{rate:.0f}",
        *(f"{latency:.2f}" for latency in latencies),
        *(f"{size:.0f}" for size in memory),
        str(len(pauses)),
        str(sum(turn.met for turn in turns)),
        f"{max(pauses, default=0):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


HEAD: Final = (
    "| load | collector | requests | /s | p50 ms | p99 | p99.9 | max | MB begin | most | end "
    "| full collections | in a request | longest ms |\n" + "| --- " * 14 + "|"
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--load", "names", multiple=True, type=click.Choice(list(PATTERNS)))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the pauses.")
def main(names: tuple[str, ...], rounds: int, seconds: float, seed: int) -> None:
    """Ask the same of both collectors in turns; prints a table."""
    click.echo(HEAD)
    for name in names or PATTERNS:
        turns: dict[str, list[Turn]] = {variant: [] for variant in VARIANTS}
        for number in range(rounds):
            for variant in VARIANTS:
                turns[variant].append(turn(PATTERNS[name], variant, seconds, seed + number))
        for variant in VARIANTS:
            click.echo(row(name, variant, turns[variant]))


if __name__ == "__main__":
    main()
