"""HTTPServer: what clients send and do not take is bounded, must keep a pace, and is given back."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from httpcore_srv import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.ports import Order
from httpcore_srv.wsgi import Environ, StartResponse
from tests.fakes.store import full_disk
from tests.fakes.worker import FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    WorkerInThread,
    get,
    post,
    worker,
)

MEGABYTE = 1 << 20
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def limited(max_buffered: int, **timeouts: float) -> HTTPSettings:
    limits = HTTPLimits(max_buffered_bytes=max_buffered, body_memory_bytes=100_000)
    times: dict[str, Any] = {"header_s": 1000, "body_s": 1000, "write_s": 1000, **timeouts}
    return HTTPSettings(limits=limits, timeouts=HTTPTimeouts(**times))


def answering(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with what it was sent, or with as much as it is asked for."""
    content = environ["wsgi.input"].read()
    start_response("200 OK", [])
    asked = environ["PATH_INFO"][1:]
    return [b"x" * int(asked) if asked.isdigit() else content]


def until_used(server: WorkerInThread, used: Callable[[int], bool]) -> None:
    """Wait until so much memory is taken."""
    for _ in range(10_000):
        if used(server.server.store.used):
            return
        server.until_next_round()
    raise AssertionError(f"{server.server.store.used} bytes are taken")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- no room ---------------------------------------------------------------------------------------


def test_a_head_for_which_there_is_no_room_is_refused_and_others_are_served() -> None:
    with worker(answering, limited(1000)) as server:
        half = server.connect()
        half.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 900)
        until_used(server, lambda used: used > 900)
        with server.connect() as another:
            another.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 900)
            answer = another.response()
            assert (answer.status, answer.fields["retry-after"]) == (503, "1")
        assert server.connect().ask(GET).status == 200  # it came whole, and needs no room
        half.send(b"\r\n\r\n")
        assert half.response().status == 200
        assert server.slot.incidents == {"NO_ROOM": 1}
        assert server.server.store.used == 0


def test_bodies_for_which_there_is_no_room_wait_in_files() -> None:
    with worker(answering, limited(10_000)) as server:
        clients = [server.connect() for _ in range(5)]
        content = [bytes([number]) * 8000 for number in range(5)]
        for client, part in zip(clients, content, strict=True):
            client.send(post("/", part)[:-1])
        server.slot.until(lambda: server.slot.incidents.get("SPOOLED", 0) >= 4)
        assert server.server.store.used <= 10_000
        for client, part in zip(clients, content, strict=True):
            client.send(part[-1:])
            assert client.response().content == part
        assert server.server.store.used == 0


def test_responses_for_which_there_is_no_room_wait_in_files() -> None:
    before = open_files()
    with worker(answering, limited(MEGABYTE)) as server:
        clients = [server.connect(receive_buffer_bytes=4096) for _ in range(4)]
        for client in clients:
            client.send(get("/8000000"))
            client.head()
        server.slot.until(lambda: server.slot.incidents.get("SPOOLED", 0) == 4)
        assert server.server.store.used == 0
        for client in clients:
            assert client.read(8_000_000) == b"x" * 8_000_000
        for client in clients:
            assert client.ask(get("/3")).content == b"xxx"
    assert open_files() <= before


def test_a_response_for_which_there_is_neither_memory_nor_disk_is_cut(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full_disk())
    with worker(answering, limited(1000)) as server:
        slow = server.connect(receive_buffer_bytes=4096)
        slow.send(get("/8000000"))
        # Only then read, or the socket may take all of it.
        server.slot.until(lambda: "NO_ROOM" in server.slot.incidents)
        slow.head()
        with pytest.raises((AssertionError, ConnectionResetError)):
            slow.read(8_000_000)
        assert server.connect().ask(get("/3")).content == b"xxx"
        server.until_at_rest()
        assert server.slot.incidents["NO_ROOM"] == 1
    assert ["a response" in record.getMessage() for record in caplog.records] == [True]


# -- every way out -------------------------------------------------------------------------------


def leave_politely(client: Client) -> None:
    client.half_close()


WAYS_OUT: list[Callable[[Client], None]] = [Client.close, Client.reset, leave_politely]


@pytest.mark.parametrize("way_out", WAYS_OUT)
@pytest.mark.parametrize(
    "unfinished",
    [
        GET[:20],
        post("/", b"x" * 1000)[:-1],
        post("/", b"x" * 150_000)[:-1],
        CHUNKED + b"5\r\nhello\r\n00",
        GET * 3 + GET[:20],
    ],
    ids=["head", "body", "body in a file", "chunk line", "pipelined"],
)
def test_what_a_client_leaves_unfinished_is_given_back(
    unfinished: bytes, way_out: Callable[[Client], None]
) -> None:
    with worker(answering, limited(MEGABYTE)) as server, server.connect() as client:
        client.send(unfinished)
        server.until_connections(1)
        way_out(client)
        server.until_connections(0)
        assert server.server.store.used == 0


@pytest.mark.parametrize("way_out", [Client.close, Client.reset])
@pytest.mark.parametrize("budget", [1000, 100 * MEGABYTE], ids=["in a file", "in memory"])
def test_what_a_client_does_not_take_is_given_back(
    way_out: Callable[[Client], None], budget: int
) -> None:
    before = open_files()
    with worker(answering, limited(budget)) as server:
        client = server.connect(receive_buffer_bytes=4096)
        client.send(get("/8000000"))
        client.head()
        if budget > MEGABYTE:
            until_used(server, lambda used: used > 0)
        else:
            server.slot.until(lambda: "SPOOLED" in server.slot.incidents)
        server.until_connections(1)  # or the next line could find that of before
        way_out(client)
        server.until_connections(0)
        assert server.server.store.used == 0
    assert open_files() <= before


@pytest.mark.parametrize("order", [Order.NOW, Order.STOP])
def test_a_worker_that_ends_has_given_everything_back(order: Order) -> None:
    with worker(answering, limited(100 * MEGABYTE)) as server:
        half, slow = server.connect(), server.connect(receive_buffer_bytes=4096)
        slow.send(get("/8000000"))
        slow.head()
        half.send(post("/", b"x" * 1000)[:-1])
        until_used(server, lambda used: used > MEGABYTE)
        if order is Order.STOP:
            half.send(b"x")
            assert len(slow.read(8_000_000)) == 8_000_000
        server.slot.linger = 0.0
        server.order(order)
        server.until_left()
        assert server.server.store.used == 0


@pytest.mark.parametrize("seed", range(3))
def test_whatever_clients_do_all_memory_comes_back(seed: int) -> None:
    rng = random.Random(seed)
    before = open_files()
    requests = [
        GET,
        get("/3000000"),
        post("/", b"x" * 5000),
        post("/", b"y" * 150_000),
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
        b"nonsense\r\n\r\n",
        post("/", b"z" * 400_000, "Expect: 100-continue"),
    ]

    def live(client: Client) -> None:
        data = b"".join(rng.choices(requests, k=rng.randint(1, 4)))
        data = data[: rng.randint(1, len(data))]
        for _ in range(rng.randint(1, 3)):
            client.sock.settimeout(0.03)
            cut = rng.randint(0, len(data))
            with contextlib.suppress(OSError):
                client.sock.sendall(data[:cut])
            data = data[cut:]
            if rng.random() < 0.4:
                with contextlib.suppress(OSError):
                    client.sock.recv(rng.choice([10, 1 << 20]))
        rng.choice(WAYS_OUT)(client)

    with worker(answering, limited(300_000)) as server:
        for _ in range(50):
            with contextlib.suppress(OSError):
                live(server.connect(rng.choice([0, 4096])))
        for client in server._clients:
            client.close()
        server.until_connections(0)
        assert server.server.store.used == 0
        assert server.connect().ask(GET).status == 200
    assert open_files() <= before


# -- the pace ------------------------------------------------------------------------------------


def trickle(server: WorkerInThread, clock: FakeClock, client: Client, data: bytes) -> None:
    """Send some bytes, have them read, and let a second pass."""
    with contextlib.suppress(OSError):
        client.send(data)
    server.until_next_round()
    server.pass_time(clock, 1.0)
    server.until_next_round()


@pytest.mark.parametrize("head", [post("/", b"x" * 100_000)[:-100_000], CHUNKED])
def test_a_body_that_comes_too_slowly_is_refused(head: bytes) -> None:
    clock = FakeClock()
    settings = limited(MEGABYTE, body_s=5, min_rate=1000)
    with worker(answering, settings, clock_ns=clock) as server, server.connect() as client:
        client.send(head)
        server.until_connections(1)
        piece = b"32\r\n" + b"x" * 50 + b"\r\n" if head is CHUNKED else b"x" * 50
        seconds = 0
        while not server.slot.incidents:
            trickle(server, clock, client, piece)
            seconds += 1
            assert seconds < 20, "it may go on like that for ever"
        assert seconds >= 5
        assert client.response().status == 408
        assert server.slot.incidents == {"TOO_LATE": 1}


def test_a_body_that_keeps_the_pace_may_take_long() -> None:
    clock = FakeClock()
    settings = limited(MEGABYTE, body_s=5, min_rate=1000)
    with worker(answering, settings, clock_ns=clock) as server, server.connect() as client:
        client.send(post("/", b"x" * 60_000)[:-60_000])
        server.until_connections(1)
        for _ in range(30):
            trickle(server, clock, client, b"x" * 2000)
        assert len(client.response().content) == 60_000
        # The next one has the same time again.
        client.send(post("/", b"y" * 10)[:-10])
        for _ in range(4):
            trickle(server, clock, client, b"y")
        client.send(b"y" * 6)
        assert client.response().content == b"y" * 10
        assert server.slot.incidents == {}


def test_without_a_rate_any_progress_will_do() -> None:
    clock = FakeClock()
    settings = limited(MEGABYTE, body_s=5, min_rate=0)
    with worker(answering, settings, clock_ns=clock) as server, server.connect() as client:
        client.send(post("/", b"x" * 30)[:-30])
        server.until_connections(1)
        for _ in range(30):
            trickle(server, clock, client, b"x")
        assert client.response().content == b"x" * 30


@pytest.mark.parametrize(("min_rate", "stalls"), [(0, False), (1000, False), (1 << 20, True)])
def test_a_response_must_be_taken_at_the_pace_too(min_rate: int, stalls: bool) -> None:
    clock = FakeClock()
    settings = limited(100 * MEGABYTE, write_s=5, min_rate=min_rate)
    with worker(answering, settings, clock_ns=clock) as server:
        client = server.connect(receive_buffer_bytes=4096)
        client.send(get("/12000000"))
        client.head()
        client.read(1)
        taken = 1
        try:
            for _ in range(30):
                taken += len(client.read(100_000))
                server.until_next_round()
                server.pass_time(clock, 1.0)
                server.until_next_round()
            client.read(12_000_000 - taken)
        except (AssertionError, ConnectionResetError):
            assert stalls
        server.until_next_round()
        assert server.slot.incidents == ({"STALLED": 1} if stalls else {})
