"""Elastic's load and application, against a server of a few lines."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from benchmarks.elastic_app import BODY, app, compute, loops_for
from benchmarks.elastic_imbalance import most_crowded
from benchmarks.elastic_load import Load
from benchmarks.elastic_quiet import wake_ups
from benchmarks.elastic_server import Moment, Shape, ours
from benchmarks.hostile import get
from benchmarks.load import parse_wrk
from tests.unit.benchmarks.local_server import Handler, answering, read_head, served

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Worker: 42\r\n\r\ndone"
CLOSING = ANSWER.replace(b"X-Worker", b"Connection: close\r\nX-Worker")
REQUEST = get("/")
BOUND_S = 20.0


@contextmanager
def loaded(handler: Handler) -> Iterator[Load]:
    with served(handler) as address, Load(address) as load:
        yield load


def test_fresh_requests_come_at_the_rate_that_is_set_last() -> None:
    with loaded(answering(ANSWER)) as load:
        flow = load.fresh(REQUEST)
        flow.pace(1000)
        load.run_for(BOUND_S, lambda: len(flow.seen.answered) >= 20)
        flow.pace(0)
        sent = flow.seen.sent
        load.run_for(0.05)
        load.finish(BOUND_S)
    assert flow.seen.sent == sent
    assert len(flow.seen.answered) == sent
    assert not flow.seen.failures
    dues = sorted(answered.due_ns for answered in flow.seen.answered)
    gaps = {after - before for before, after in pairwise(dues)}
    assert gaps == {1_000_000}  # whatever this process did meanwhile


def test_the_clock_starts_when_a_request_was_due() -> None:
    with loaded(answering(ANSWER)) as load:
        flow = load.fresh(REQUEST)
        flow.pace(100)
        time.sleep(0.2)  # this process stands still
        load.run_for(BOUND_S, lambda: bool(flow.seen.answered))
        load.finish(BOUND_S)
    assert max(answered.duration_ns for answered in flow.seen.answered) >= 190_000_000


def test_poisson_arrivals_are_uneven_and_the_same_for_a_seed() -> None:
    def dues() -> list[int]:
        with loaded(answering(ANSWER)) as load:
            flow = load.fresh(REQUEST, is_poisson=True)
            flow.pace(2000)
            load.run_for(BOUND_S, lambda: len(flow.seen.answered) >= 10)
            load.finish(BOUND_S)
        moments = sorted(answered.due_ns for answered in flow.seen.answered)[:10]
        return [moment - moments[0] for moment in moments]

    first = dues()
    assert first == dues()
    assert len({after - before for before, after in pairwise(first)}) > 5


def test_kept_connections_are_kept_and_know_their_worker() -> None:
    connections = []

    def handler(sock: socket.socket) -> None:
        connections.append(sock)
        answering(ANSWER)(sock)

    with loaded(handler) as load:
        kept = load.keep(3, REQUEST, 0.01)
        load.run_for(BOUND_S, lambda: len(kept[0].seen.answered) >= 12)
        load.finish(BOUND_S)
    assert len(connections) == 3
    assert [connection.holder for connection in kept] == [42] * 3
    assert not kept[0].seen.failures
    assert not kept[0].seen.closed_idle


def test_without_a_period_the_next_request_follows_the_answer() -> None:
    with loaded(answering(ANSWER)) as load:
        kept = load.keep(1, REQUEST, 0)
        assert load.run_for(BOUND_S, lambda: len(kept[0].seen.answered) >= 50)


def test_connections_that_were_set_apart_are_counted_apart() -> None:
    with loaded(answering(ANSWER)) as load:
        kept = load.keep(2, REQUEST, 0)
        load.run_for(BOUND_S, lambda: all(connection.holder for connection in kept))
        apart = load.separate(kept[:1])
        load.change(kept[:1], REQUEST, 0.001)
        before = len(kept[1].seen.answered)
        load.run_for(BOUND_S, lambda: bool(apart.answered))
        load.run_for(BOUND_S, lambda: len(kept[1].seen.answered) > before)
        load.finish(BOUND_S)
    assert apart is not kept[1].seen
    assert len(kept[1].seen.answered) > before


def test_a_close_with_notice_is_polite_and_another_connection_follows() -> None:
    with loaded(answering(CLOSING)) as load:
        kept = load.keep(1, REQUEST, 0)
        load.run_for(BOUND_S, lambda: len(kept[0].seen.answered) >= 2)
    assert kept[0].seen.closed_politely >= 2
    assert not kept[0].seen.closed_idle
    assert not kept[0].seen.failures


def test_a_close_without_notice_between_two_requests_is_seen() -> None:
    def once(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(ANSWER)

    with loaded(once) as load:
        kept = load.keep(1, REQUEST, 60.0)
        assert load.run_for(BOUND_S, lambda: bool(kept[0].seen.closed_idle))
    assert not kept[0].seen.failures


def test_a_request_without_an_answer_is_a_failure_of_its_worker() -> None:
    def once(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(ANSWER)
        read_head(sock)

    with loaded(once) as load:
        kept = load.keep(1, REQUEST, 0)
        assert load.run_for(BOUND_S, lambda: bool(kept[0].seen.failures))
    failure = kept[0].seen.failures[0]
    assert (failure.what, failure.holder) == ("closed without an answer", 42)


@pytest.mark.parametrize(
    "answer", [ANSWER.replace(b"done", b"gone"), ANSWER.replace(b"200 OK", b"503 No")]
)
def test_a_wrong_answer_is_a_failure(answer: bytes) -> None:
    with loaded(answering(answer)) as load:
        flow = load.fresh(REQUEST)
        flow.pace(1000)
        assert load.run_for(BOUND_S, lambda: bool(flow.seen.failures))
    assert "answered" in flow.seen.failures[0].what


def test_what_is_owed_at_the_end_is_a_failure() -> None:
    def silent(sock: socket.socket) -> None:
        while read_head(sock):
            pass

    with loaded(silent) as load:
        kept = load.keep(1, REQUEST, 0.001)
        load.run_for(BOUND_S, lambda: kept[0].seen.sent == 1)
        load.finish(0.05)
    assert [failure.what for failure in kept[0].seen.failures] == ["no answer in 0.05 s"]


def test_what_was_due_in_time_is_asked_however_late_the_answer_before_was() -> None:
    def slow_at_first(sock: socket.socket) -> None:
        read_head(sock)
        time.sleep(1)
        sock.sendall(ANSWER)
        answering(ANSWER)(sock)

    with loaded(slow_at_first) as load:
        kept = load.keep(1, REQUEST, 0.02)
        load.run_for(0.1)
        load.finish(BOUND_S)
    seen = kept[0].seen
    assert len(seen.answered) == seen.sent >= 5
    assert seen.answered[1].due_ns - seen.answered[0].due_ns == 20_000_000
    assert seen.answered[1].duration_ns > 900_000_000
    assert sorted(seen.late_ns)[1] < 500_000_000  # that was not this process's fault


def test_a_server_that_is_not_there_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with Load(address) as load:
        flow = load.fresh(REQUEST)
        flow.pace(1000)
        assert load.run_for(BOUND_S, lambda: bool(flow.seen.failures))
    assert "refused" in flow.seen.failures[0].what


def test_nothing_is_opened_again_after_reopens_is_cleared() -> None:
    opened = []

    def handler(sock: socket.socket) -> None:
        opened.append(sock)
        answering(CLOSING)(sock)

    with loaded(handler) as load:
        kept = load.keep(1, REQUEST, 0)
        load.reopens = False
        load.run_for(BOUND_S, lambda: bool(kept[0].seen.closed_politely))
        load.run_for(0.1)
    assert len(opened) == 1


def test_latencies_of_seconds_are_read_from_wrk() -> None:
    # wrk pads the unit to two characters.
    text = """  Latency Distribution
     50%  149.16ms
     99%    1.43s 
  837 requests in 5.11s, 116.07KB read
Requests/sec:    163.85
"""  # noqa: W291
    measured = parse_wrk(text)
    assert (measured.p50_us, measured.p99_us) == (149_160, 1_430_000)


# -- application and server -----------------------------------------------------------------


def ask(path: str, query: str = "") -> tuple[dict[str, str], bytes]:
    heads: list[dict[str, str]] = []

    def start_response(status: str, fields: list[tuple[str, str]], *_: Any) -> Any:
        assert status == "200 OK"
        heads.append(dict(fields))

    body = b"".join(app({"PATH_INFO": path, "QUERY_STRING": query}, start_response))
    return heads[0], body


def test_the_application_names_its_process() -> None:
    fields, body = ask("/")
    assert (fields["X-Worker"], body) == (str(os.getpid()), BODY)


def test_the_application_sleeps_and_computes() -> None:
    began_s = time.monotonic()
    ask("/sleep", "ms=20")
    assert time.monotonic() - began_s >= 0.02
    assert ask("/compute", "loops=10")[1] == BODY
    assert compute(4) == 0 + 1 + 4 + 9


def test_more_time_is_more_loops() -> None:
    assert 1 <= loops_for(0.0001) < loops_for(0.1)


def test_a_shape_is_a_command_line() -> None:
    shape = Shape(2, 16, 1, ("--max-age", "3"))
    assert (str(shape), str(Shape(4, 4, 2))) == ("2..16 x 1", "4 x 2")
    command = " ".join(ours(shape, "pid").command(8000, "a:app", shape.threads))  # type: ignore[arg-type]
    for words in ("--min-workers 2", "--max-workers 16", "--max-threads 1", "--max-age 3"):
        assert words in command


def test_a_moment_is_read_from_the_readout() -> None:
    worker = {"pid": 7, "state": "Busy"}
    names = ("total", "starting", "kill_pending", "threads", "busy_threads", "connections")
    values = dict.fromkeys(names, 1) | {"busy": 2, "idle": 3, "requests": 9, "workers": [worker]}
    moment = Moment.of(values, 5)
    assert (moment.ready, moment.requests, moment.workers) == (5, 9, {7: "Busy"})


def test_wake_ups_are_counted_by_process() -> None:
    before = wake_ups(os.getpid())[os.getpid()]
    time.sleep(0.001)
    assert wake_ups(os.getpid())[os.getpid()] > before


def test_the_slow_ones_are_of_themost_crowded_worker() -> None:
    with Load(("127.0.0.1", 1)) as load:
        kept = load.keep(10, REQUEST, 60.0)
    for connection, holder in zip(kept, (1, 2, 2, 3, 2, 2, 1, 2, 3, 1), strict=True):
        connection.holder = holder
    held = Counter(connection.holder for connection in kept)
    assert [connection.holder for connection in most_crowded(kept, held)] == [2] * 4
