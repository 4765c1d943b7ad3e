"""The kind `mixed`: what slow requests do to the quick ones beside them.

Two ways of asking, on the same connections of the same server process: in turn, each
connection as soon as it has its answer, and at a rate that every server can keep. Each way has
windows without slow requests and windows with them by turns, so that what the machine does
meanwhile hits both alike; the tail is the quotient of the medians of their p99.

The merit is the tail of asking in turn: the client has been seen to take 0.87 of its core at
the most there (105,000 answers a second; `load_share` says it for each turn), so it is the
server that is measured, at its limit. `tail_at_rate` is the harder one: a server that is hardly
loaded has a small p99 alone, and shows whatever it takes to notice that a thread sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.cores import Cores, pinned
from benchmarks.mixed_app import QUICK_BODY, QUICK_PATH, SLOW_BODY, SLOW_PATH
from benchmarks.processes import ServerError, running
from benchmarks.sample import Outcome
from benchmarks.scenarios import Scenario
from benchmarks.server import Server
from benchmarks.steady import Client, Question, Window

RATE: Final = 2000.0  # requests per second: a quarter of what the slowest server can answer
SLOW_EVERY: Final = 100
PAIRS: Final = 3  # of windows, for each way
_WINDOW_SHARE: Final = 0.25  # of the seconds of a turn
_NOTED: Final = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """A window without slow requests and the one with them that came next."""

    alone: Window
    beside: Window


def measure(
    server: Server,
    scenario: Scenario,
    cores: Cores,
    seconds: float,
    warm_up_s: float,
    rate: float = RATE,
) -> Outcome:
    """Measure one server; takes three times `seconds`. Raises: ServerError."""
    with running(server, scenario, cores.server) as child, pinned(cores.load):
        address = ("127.0.0.1", child.port)
        quick, slow = Question(QUICK_PATH, QUICK_BODY), Question(SLOW_PATH, SLOW_BODY)
        window_s = seconds * _WINDOW_SHARE
        spin = cores.load is not None
        try:
            with Client(address, scenario.connections, quick, slow, spin=spin) as client:
                client.in_turn(warm_up_s, SLOW_EVERY)
                in_turn = pairs(lambda every: client.in_turn(window_s, every))
                at_rate = pairs(lambda every: client.at_rate(rate, window_s, every))
        except OSError as error:
            raise ServerError(f"lost the server: {error}") from error
        return outcome(in_turn, at_rate, child.memory_mb())


def pairs(ask: Callable[[int], Window]) -> list[Pair]:
    """Ask without and with slow requests by turns."""
    return [Pair(ask(0), ask(SLOW_EVERY)) for _ in range(PAIRS)]


def outcome(in_turn: Sequence[Pair], at_rate: Sequence[Pair], memory_mb: float) -> Outcome:
    """Return the figures of a turn."""
    windows = [window for pair in (*in_turn, *at_rate) for window in (pair.alone, pair.beside)]
    figures = {
        "rate": median(pair.beside.rate for pair in in_turn),
        "p50_us": median(pair.beside.quick_us(0.50) for pair in in_turn),
        "p99_us": median(pair.beside.quick_us(0.99) for pair in in_turn),
        "tail": tail(in_turn),
        "tail_at_rate": tail(at_rate),
        "load_share": median(pair.alone.client_share for pair in in_turn),
        "memory_mb": memory_mb,
    }
    noted = [what for window in windows for what in window.noted]
    return Outcome(
        figures,
        errors=sum(window.errors for window in windows),
        notes=tuple(dict.fromkeys(noted))[:_NOTED],
    )


def tail(measured: Sequence[Pair]) -> float:
    """Return p99 of the quick requests beside slow ones, over their p99 alone."""
    alone_us = median(pair.alone.quick_us(0.99) for pair in measured)
    beside_us = median(pair.beside.quick_us(0.99) for pair in measured)
    return beside_us / alone_us if alone_us else 0.0
