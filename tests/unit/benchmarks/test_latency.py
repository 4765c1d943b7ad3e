"""Latencies count from when a request was due, and what is never answered counts as well."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from benchmarks.latency import Latencies, Load, Measurement, quantile
from benchmarks.stress_app import HELLO_BODY
from tests.unit.benchmarks.local_server import answering, read_all, read_head, served

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(HELLO_BODY), HELLO_BODY)
KEPT = Load(connections=2, kept_rate=200.0, fresh_rate=0.0)
FRESH = Load(kept_rate=0.0, fresh_rate=200.0)
SECONDS = 0.25
DUE = 50  # requests of KEPT in SECONDS


def measured(address: tuple[str, int], load: Load, patience_s: float = 10.0) -> Measurement:
    measurement = Measurement(address, load, SECONDS, patience_s=patience_s)
    measurement.run()
    return measurement


def test_quantiles_are_values_that_occurred() -> None:
    ordered = list(range(1, 1001))
    assert [quantile(ordered, part) for part in (0.0, 0.5, 0.99, 0.999, 1.0)] == [
        *(1, 500, 990, 999, 1000)
    ]
    assert quantile([7], 0.5) == 7
    assert quantile([], 0.5) == 0


def test_kept_connections_ask_by_the_timetable() -> None:
    with served(answering(HELLO)) as address:
        kept = measured(address, KEPT).kept
    assert (kept.answered, kept.errors, kept.unanswered) == (DUE, 0, 0)
    assert len(kept.durations_ns) == DUE
    assert min(kept.durations_ns) > 0


def test_new_connections_ask_once_each() -> None:
    heads = []

    def handler(sock: socket.socket) -> None:
        heads.append(read_head(sock))
        sock.sendall(HELLO)

    with served(handler) as address:
        fresh = measured(address, FRESH).fresh
    assert (fresh.errors, fresh.unanswered) == (0, 0)
    assert fresh.answered == len(heads) == len(fresh.durations_ns) > 10
    assert all(b"Connection: close" in head for head in heads)


def test_a_pause_of_the_server_is_charged_to_all_that_was_due_in_it() -> None:
    pause_s = 0.15
    paused = threading.Event()

    def handler(sock: socket.socket) -> None:
        while read_head(sock):
            if not paused.is_set():
                paused.set()
                time.sleep(pause_s)
            sock.sendall(HELLO)

    load = Load(connections=1, kept_rate=200.0, fresh_rate=0.0)
    with served(handler) as address:
        kept = measured(address, load).kept
    assert kept.answered == DUE
    # One request met the pause; but of the 30 that were due in it, half waited for half of it.
    assert sum(duration >= pause_s / 2 * 1e9 for duration in kept.durations_ns) >= 15


def test_requests_that_are_never_answered_count_with_those_they_kept_from_being_sent() -> None:
    with served(read_all) as address:
        kept = measured(address, KEPT, patience_s=0.1).kept
    assert (kept.answered, kept.unanswered) == (0, DUE)
    assert len(kept.durations_ns) == DUE
    assert quantile(sorted(kept.durations_ns), 0.5) >= SECONDS / 2 * 1e9


@pytest.mark.parametrize("load", [KEPT, FRESH], ids=["kept", "fresh"])
def test_wrong_answers_are_errors(load: Load) -> None:
    with served(answering(HELLO.replace(b"World", b"Earth"))) as address:
        measurement = measured(address, load)
    seen: Latencies = measurement.kept if load is KEPT else measurement.fresh
    assert seen.answered == 0
    assert seen.errors == len(seen.durations_ns) > 0
    assert "Earth" in seen.noted[0]


def test_a_closed_connection_is_an_error_and_another_is_opened() -> None:
    def once(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(HELLO)
        read_head(sock)

    with served(once) as address:
        kept = measured(address, KEPT).kept
    assert "closed without an answer" in kept.noted[0]
    assert kept.answered > 2
    assert kept.errors > 2


def test_an_announced_end_is_no_error() -> None:
    closing = HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    def once(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(closing)

    with served(once) as address:
        kept = measured(address, KEPT).kept
    assert (kept.answered, kept.errors) == (DUE, 0)


def test_a_server_that_is_not_there_is_an_error_each_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    measurement = measured(address, KEPT)
    assert measurement.kept.errors > 10
    assert measurement.kept.answered == 0
