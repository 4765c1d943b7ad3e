"""Stream: each order in which the leader and a running thread can meet, and clients that go."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator

import pytest

from httpcore_srv import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.connection import Connection
from httpcore_srv.mode import Mode
from httpcore_srv.stream import EPOLLIN, Stream
from httpcore_srv.wire import Wire
from tests.fakes.store import full_disk
from tests.fakes.worker import BOUND_S, FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Echo,
    WorkerInThread,
    get,
    post,
    worker,
)


def only_stream(server: WorkerInThread) -> Stream:
    (stream,) = server.server.streams.values()
    return stream


def until_mode(stream: Stream, mode: Mode) -> None:
    """Wait for what another thread does, without a lock of our own."""
    for _ in range(int(BOUND_S * 1000)):
        if stream.mode is mode:
            return
        time.sleep(0.001)
    raise AssertionError(f"never {mode}, but {stream.mode}")


@pytest.fixture
def app() -> Echo:
    return Echo()


@pytest.fixture
def server(app: Echo) -> Iterator[WorkerInThread]:
    with worker(app, HTTPSettings(max_threads=2), sentinel=False) as one:
        one.use_pool()
        yield one


def running(server: WorkerInThread, app: Echo) -> tuple[Client, Stream]:
    """Return a client whose request is at the gate, and its stream."""
    client = server.connect()
    client.ask()  # its socket is watched from now on
    server.until_at_rest()
    client.send(get("/wait"))
    app.gate.entered()
    return client, only_stream(server)


# -- an event for a running stream, and the end of its request -----------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_thread_hands_back_while_the_leader_stops_watching(
    server: WorkerInThread, app: Echo, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    # before: the thread still saw that it was watched, and has told nobody.
    # after: the thread saw that it was not, and has told the leader, who finds out by itself.
    client, stream = running(server, app)
    unwatch = Wire.unwatch
    met: list[bool] = []

    def hand_back() -> None:
        met.append(True)
        app.gate.open()
        until_mode(stream, Mode.READING)

    def meeting(wire: Wire) -> None:
        race = wire is stream and not met
        if race and when == "before":
            hand_back()
        unwatch(wire)
        if race and when == "after":
            hand_back()

    monkeypatch.setattr(Wire, "unwatch", meeting)
    client.send(get("/next"))  # an event for a stream that runs
    assert client.response().text == "app /wait "
    assert client.response().text == "app /next "
    assert met == [True]
    assert client.ask().status == 200


def test_a_thread_hands_back_before_the_leader_has_looked_what_the_event_means(
    server: WorkerInThread, app: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stream = running(server, app)
    out_of_turn = Stream._on_event_out_of_turn
    met: list[bool] = []

    def meeting(self: Stream, mask: int) -> bool:
        if self is stream and not met:
            met.append(True)
            app.gate.open()
            until_mode(stream, Mode.READING)
        return out_of_turn(self, mask)

    monkeypatch.setattr(Stream, "_on_event_out_of_turn", meeting)
    client.send(get("/next"))
    assert client.response().text == "app /wait "
    assert client.response().text == "app /next "
    assert met == [True]


def test_what_was_posted_for_a_stream_that_has_gone_on_does_nothing(
    server: WorkerInThread, app: Echo
) -> None:
    client, stream = running(server, app)
    server.on_leader(stream.unwatch)
    assert server.on_leader(stream.idle) is False
    assert stream._mask == 0, "watched while a thread runs its request"
    app.gate.open()
    assert client.response().status == 200
    client.close()
    server.until_connections(0)
    assert server.on_leader(stream.idle) is False
    server.on_leader(stream.close)  # once more
    assert stream.mode is Mode.CLOSED


def test_a_stream_that_does_not_wait_any_more_is_not_resumed(
    server: WorkerInThread, app: Echo
) -> None:
    client = server.connect()
    client.ask()
    server.until_at_rest()
    stream = only_stream(server)
    assert server.on_leader(stream.resume) is False
    assert stream.at_rest
    assert client.ask().status == 200
    client.close()
    server.until_connections(0)
    assert server.on_leader(stream.resume) is False
    assert stream.mode is Mode.CLOSED


def test_a_stream_that_was_handed_back_since_the_timers_looked_does_not_expire(
    server: WorkerInThread, app: Echo
) -> None:
    client, stream = running(server, app)

    def expire() -> bool:
        # The timers have found its old deadline; now the thread ends, and then they tell it.
        server.server.loop.timers.forget(stream)
        app.gate.open()
        until_mode(stream, Mode.READING)
        stream.expire()
        return bool(stream.due_tick)

    assert server.on_leader(expire) is True, "nobody looks at its new deadline"
    assert client.response().status == 200
    assert client.ask().status == 200


# -- a spurious event, and clients that go at an awkward moment ----------------------------------


@pytest.fixture
def crowded(server: WorkerInThread, app: Echo) -> Iterator[tuple[WorkerInThread, Client, Stream]]:
    """A worker without a free thread, and a client at rest."""
    client = server.connect()
    client.ask()
    server.until_at_rest()
    stream = only_stream(server)
    for _ in range(2):
        server.connect().send(get("/wait"))
        app.gate.entered()
    server.slot.until(lambda: server.server.pool.busy == 2)
    yield server, client, stream
    app.gate.open(2)


Crowd = tuple[WorkerInThread, Client, Stream]


def test_without_a_free_thread_nothing_is_waited_for_that_has_not_come(crowded: Crowd) -> None:
    server, client, stream = crowded
    assert server.on_leader(lambda: stream.on_event(EPOLLIN)) is False
    assert stream.at_rest
    assert server.server.waiting == server.server.line.streams
    assert len(server.server.waiting) == 0
    client.send(GET)
    server.until_waiting(1)


def test_without_a_free_thread_a_reset_is_noticed_too(crowded: Crowd) -> None:
    server, client, _ = crowded
    client.reset()
    server.until_connections(2)


def test_a_client_that_goes_before_its_100_costs_nothing(
    server: WorkerInThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(data: bytes, flags: int = 0) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    client = server.connect()
    client.ask()
    server.until_at_rest()
    only_stream(server)._send = gone  # type: ignore[assignment]
    client.send(post("/", b"x", "Expect: 100-continue")[:-1])
    server.until_connections(0)
    assert server.connect().ask().status == 200


def test_a_client_that_goes_before_its_refusal_costs_nothing(server: WorkerInThread) -> None:
    def gone(data: bytes, flags: int = 0) -> int:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    client = server.connect()
    client.ask()
    server.until_at_rest()
    only_stream(server)._send = gone  # type: ignore[assignment]
    client.send(b"nonsense\r\n\r\n")
    server.until_connections(0)


# -- no memory ------------------------------------------------------------------------------------


def test_a_request_for_which_the_interpreter_has_no_memory_is_told_to_come_again(
    server: WorkerInThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = Connection.receive

    def no_memory(self: Connection, data: bytes) -> object:
        if data.startswith(b"GET /large"):
            raise MemoryError
        return receive(self, data)

    monkeypatch.setattr(Connection, "receive", no_memory)
    with server.connect() as client:
        answer = client.ask(get("/large"))
        assert (answer.status, answer.fields["retry-after"]) == (503, "1")
        client.assert_closed()
    assert server.connect().ask().status == 200
    assert server.slot.incidents == {"NO_ROOM": 1}


def test_a_socket_that_cannot_be_read_for_lack_of_memory_is_closed(server: WorkerInThread) -> None:
    def no_memory(size: int, flags: int = 0) -> bytes:
        raise MemoryError

    client = server.connect()
    client.ask()
    server.until_at_rest()
    only_stream(server)._receive = no_memory  # type: ignore[assignment]
    client.send(GET)
    server.until_connections(0)
    assert server.connect().ask().status == 200


@pytest.mark.parametrize(
    ("first", "rest", "status"),
    [
        (GET[:10], GET[10:] + GET[:21], 503),  # more of the next one than there is room for
        (post("/", b"x" * 50)[:10], post("/", b"x" * 50)[10:], 507),  # nor on the disk
    ],
    ids=["pipelined", "body"],
)
def test_a_whole_request_that_cannot_be_held_while_it_waits_is_refused(
    app: Echo, monkeypatch: pytest.MonkeyPatch, first: bytes, rest: bytes, status: int
) -> None:
    settings = HTTPSettings(
        limits=HTTPLimits(max_buffered_bytes=20),
        timeouts=HTTPTimeouts(header_s=1000),
        max_threads=1,
    )
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full_disk())
    with worker(app, settings, clock_ns=FakeClock(), sentinel=False) as server:
        server.use_pool()
        client = server.connect()
        client.send(first)
        server.until_connections(1)
        stream = only_stream(server)
        for _ in range(10_000):
            if not stream.at_rest:
                break
            server.until_next_round()
        busy = server.connect()
        busy.send(get("/wait"))
        app.gate.entered()
        server.slot.until(lambda: server.server.pool.busy == 1)
        client.send(rest)
        answer = client.response()
        assert answer.status == status
        assert "retry-after" in answer.fields
        client.assert_closed()
        assert server.server.store.used == 0
        assert len(server.server.waiting) == 0
        app.gate.open()
        assert busy.response().status == 200
