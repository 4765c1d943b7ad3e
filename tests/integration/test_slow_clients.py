"""Clients that are slow or silent: none holds a thread, each has an end, nobody else notices."""

from __future__ import annotations

import json
import time

import pytest

from tests.integration.raw_client import (
    SMALL_BUFFER,
    RawClient,
    drip,
    incidents,
    ordinary_requests_are_answered,
    request,
    wait_for_incident,
)
from tests.integration.server_process import PATIENCE_S, ServerProcess, eventually
from tests.integration.side_by_side import SideBySide, Stage

PIECE_BYTES = 1 << 16

play = SideBySide()
outcomes = play.outcomes


def serve(stage: Stage, *arguments: str) -> ServerProcess:
    """Start one worker of two threads."""
    limits = ("--max-workers", "1", "--max-threads", "2")
    return stage.serve("slow_bodies:app", *limits, *arguments)


def content(mark: int, count: int) -> bytes:
    """Return what /large and /generated send."""
    pieces = (b"%08d%08d" % (mark, number) for number in range(count))
    return b"".join(piece + bytes(PIECE_BYTES - 16) for piece in pieces)


def assert_too_late(client: RawClient) -> None:
    """It was told that its request did not come in time, and could read that."""
    answer = client.response()
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert client.rest() == b""


def drip_on(client: RawClient, piece: bytes, pause_s: float) -> None:
    """Send the same again and again, for as long as there is anybody."""
    stop_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < stop_s:
        client.send(piece)
        time.sleep(pause_s)


@play
def test_a_head_has_its_time_and_more_bytes_do_not_buy_more(stage: Stage) -> None:
    server = serve(stage, "--header-timeout", "1")
    silent = stage.client(server)  # no byte of a head, so there is nothing to answer
    stopped = stage.client(server)
    stopped.send(b"GET /ready HTTP/1.1\r\nHost:")
    slow = stage.client(server)
    # After a request that came in time: the second one on a connection is not better off.
    assert slow.get("/ready").status == 200
    assert not drip(slow, request("/ready", headers={"X-Long": "x" * 1000}), 8, 0.05)
    for client in (stopped, slow):
        assert_too_late(client)
    assert silent.rest() == b""
    assert incidents(server) == {"too_late": 2}
    in_time = stage.client(server)
    assert drip(in_time, request("/ready"), 8, 0.03)
    assert in_time.response().text == "ready\n"


@play
def test_a_body_that_stops_or_crawls_is_answered_408(stage: Stage) -> None:
    server = serve(stage, "--body-timeout", "0.8", "--min-rate", "2000")
    head = request("/upload", "POST", {"Content-Length": "100000"})
    stopped, crawling, chunked = (stage.client(server) for _ in range(3))
    stopped.send(head + b"x" * 5000)
    chunked.send(request("/upload", "POST", {"Transfer-Encoding": "chunked"}) + b"5\r\nhe")
    crawling.send(head)
    # Never silent for as long as --body-timeout, and still too slow on the average.
    assert not drip(crawling, bytes(1000), 20, 0.05)
    for client in (stopped, crawling, chunked):
        assert_too_late(client)
    wait_for_incident(server, "too_late", 3)
    assert incidents(server) == {"too_late": 3}
    steady = stage.client(server)
    steady.send(request("/upload", "POST", {"Content-Length": "10000"}))
    assert drip(steady, bytes(10000), 500, 0.06)  # 8000 a second, for longer than the timeout
    assert json.loads(steady.response().body)[0] == 10000
    ordinary_requests_are_answered(server)


@play
def test_whoever_takes_nothing_of_a_response_is_cut(stage: Stage) -> None:
    server = serve(stage, "--write-timeout", "0.5", "--min-rate", "0")
    targets = [f"/{kind}?mark={mark}&count=128" for kind in ("large", "generated") for mark in "12"]
    clients = [stage.begin(server, target, SMALL_BUFFER) for target in targets]
    ordinary_requests_are_answered(server)
    server.eventually(lambda s: s["connections"] == s["streams"] == 0)
    for client in clients:
        assert len(client.received()) < 128 * PIECE_BYTES
    ordinary_requests_are_answered(server)
    assert incidents(server)["stalled"] == 4


@play
def test_whoever_takes_a_response_below_the_rate_is_cut(stage: Stage) -> None:
    server = serve(stage, "--write-timeout", "0.5", "--min-rate", "16m")
    client = stage.begin(server, "/large?mark=1&count=128", 1 << 16)
    # Never still, and never fast.
    eventually(lambda: client.read(1 << 14) and incidents(server) == {"stalled": 1})
    assert len(client.received()) < 128 * PIECE_BYTES


def read_steadily(stage: Stage, kind: str) -> None:
    """Ask for a large response and read it slowly for longer than the write timeout.

    What the kernel of the server's side holds takes this client far longer than that to read.
    Until a part of it is free, the socket takes nothing more, and says nothing of the client.
    """
    server = serve(stage, "--write-timeout", "0.7")
    client = stage.begin(server, f"/{kind}?mark=7&count=128", 1 << 15)
    client.piece_bytes, client.pause_s = 1 << 14, 0.1
    stop_s = time.monotonic() + 2.5
    while time.monotonic() < stop_s:
        client.receive()
    client.piece_bytes, client.pause_s = 1 << 16, 0.0
    assert client.response().body == content(7, 128)
    assert incidents(server) == {}


@play
def test_who_reads_steadily_is_not_cut_however_much_the_kernel_holds(stage: Stage) -> None:
    read_steadily(stage, "large")


@play
def test_who_reads_a_stream_steadily_is_not_cut_either(stage: Stage) -> None:
    read_steadily(stage, "generated")


@play
def test_an_idle_connection_is_closed_without_a_word(stage: Stage) -> None:
    server = serve(stage, "--keep-alive", "0.8")
    clients = [stage.client(server) for _ in range(5)]
    assert [client.get("/ready").text for client in clients] == ["ready\n"] * 5
    used = clients.pop()
    for _ in range(12):
        time.sleep(0.1)
        assert used.get("/ready").text == "ready\n"
    assert [client.rest() for client in clients] == [b""] * 4
    assert used.rest() == b""
    assert incidents(server) == {}


@play
def test_reading_after_the_last_word_has_an_end(stage: Stage) -> None:
    server = serve(stage, "--linger-timeout", "0.3")
    silent, talking, flooding = (stage.client(server) for _ in range(3))
    for client in (silent, talking, flooding):
        client.send(b"nonsense\r\n\r\n")
        assert client.response().status == 400
        assert client.rest() == b""
    server.eventually(lambda s: s["connections"] == 3)
    for client, piece, pause_s in ((flooding, 1 << 16, 0.001), (talking, 10, 0.05)):
        with pytest.raises(ConnectionError):  # or it would be listened to without end
            drip_on(client, bytes(piece), pause_s)
    server.eventually(lambda s: s["connections"] == 0)
    assert incidents(server) == {"bad_request": 3}


@play
def test_slow_and_silent_clients_hold_no_thread(stage: Stage) -> None:
    server = serve(stage)
    silent = [stage.client(server) for _ in range(60)]
    idle = [stage.client(server) for _ in range(60)]
    for client in idle:
        assert client.get("/ready").status == 200
    heads = [stage.client(server) for _ in range(60)]
    for client in heads:
        client.send(b"GET /ready HTTP/1.1\r\nHost: ")
    bodies = [stage.client(server) for _ in range(60)]
    for client in bodies:
        client.send(request("/upload", "POST", {"Content-Length": "20"}) + b"half of it")
    readers = [stage.begin(server, "/large?mark=1&count=64", SMALL_BUFFER) for _ in range(10)]
    status = server.eventually(lambda s: s["connections"] == 250 and s["requests"] == 70)
    assert status["busy_threads"] == status["streams"] == status["waiting"] == 0
    assert status["threads"] <= 3
    ordinary_requests_are_answered(server)
    assert json.loads(server.get("/files").body)[1] <= 4
    for client in heads:
        client.send(b"test\r\n\r\n")
        assert client.response().text == "ready\n"
    for client in bodies:
        client.send(b"the others")
        assert json.loads(client.response().body)[0] == 20
    for client in readers:
        assert client.response().body == content(1, 64)
    assert all(client.is_open() for client in (*silent, *idle))
    assert incidents(server) == {}
