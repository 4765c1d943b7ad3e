"""HTTPServer: responses that go on for long take no place from those that do not."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import pytest

from httpcore_srv import HTTPSettings, HTTPTimeouts
from httpcore_srv import server as server_module
from httpcore_srv.overseer import LASTING_NS, LOOK_S
from httpcore_srv.wsgi import Environ, StartResponse
from tests.fakes.worker import FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Gate,
    WorkerInThread,
    get,
    worker,
)

LASTING_S = LASTING_NS / 1e9
ONE_THREAD = HTTPSettings(max_threads=1, max_streams=2)
EVENTS = [("Content-Type", "text/event-stream")]


class Streaming:
    """Streams under /stream and /events, blocks under /block, answers at once elsewhere."""

    def __init__(self) -> None:
        self.gates: defaultdict[str, Gate] = defaultdict(Gate)
        self.closed: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/block"):
            self.gates[path].pass_through(path)
        start_response("200 OK", EVENTS if path.startswith("/events") else [])
        if path.startswith(("/stream", "/events")):
            return self._pieces(path)
        return [b"done"]

    def _pieces(self, path: str) -> Iterator[bytes]:
        try:
            if path.startswith("/stream"):
                yield b"first"
            while True:
                self.gates[path].pass_through(path)
                yield b"more"
        finally:
            self.closed.append(path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app() -> Streaming:
    return Streaming()


def begin(server: WorkerInThread, app: Streaming, path: str) -> Client:
    """Return a client whose response goes on, on a thread of the pool."""
    server.use_pool()
    client = server.connect()
    client.send(get(path))
    assert app.gates[path].entered() == path
    if path.startswith("/stream"):
        client.head()
        assert client.chunk() == b"first"
    server.slot.until(lambda: server.server.pool.busy + server.server.pool.streams > 0)
    return client


def until(server: WorkerInThread, **counts: int) -> None:
    """Wait until the slot says so."""
    server.slot.until(lambda: all(getattr(server.slot, n) == c for n, c in counts.items()))


def leave(app: Streaming, client: Client, path: str) -> None:
    """Have a client go, and its stream find that out."""
    client.close()
    for _ in range(1000):
        if path in app.closed:
            return
        app.gates[path].open()
        time.sleep(0.01)
    raise AssertionError("a stream goes on without a client")


def test_a_response_that_goes_on_for_long_frees_its_place(app: Streaming, clock: FakeClock) -> None:
    with worker(app, ONE_THREAD, clock_ns=clock) as server:
        client = begin(server, app, "/stream")
        assert server.slot.streams == 0
        with server.connect() as waiting:
            waiting.send(GET)
            server.pass_time(clock, LASTING_S + 2 * LOOK_S)
            assert waiting.response().text == "done"
        until(server, streams=1, busy_count=0)
        app.gates["/stream"].open()
        assert client.chunk() == b"more"
        leave(app, client, "/stream")
        until(server, streams=0, busy_count=0)


def test_a_response_that_has_gone_on_for_a_moment_only_is_busy(
    app: Streaming, clock: FakeClock
) -> None:
    with worker(app, ONE_THREAD, clock_ns=clock) as server:
        client = begin(server, app, "/stream")
        server.pass_time(clock, LASTING_S - 0.1)
        for _ in range(3):
            server.until_next_round()
        assert (server.slot.busy_count, server.slot.streams) == (1, 0)
        leave(app, client, "/stream")


def test_a_stream_of_events_frees_its_place_before_the_first_event(
    app: Streaming, clock: FakeClock
) -> None:
    with worker(app, ONE_THREAD, clock_ns=clock) as server:
        client = begin(server, app, "/events")
        server.pass_time(clock, 2 * LOOK_S)
        until(server, streams=1, busy_count=0)
        assert server.connect().ask().text == "done"
        app.gates["/events"].open()
        assert client.head().fields["content-type"] == "text/event-stream"
        assert client.chunk() == b"more"
        leave(app, client, "/events")


def test_a_request_that_takes_long_to_answer_is_no_stream(app: Streaming, clock: FakeClock) -> None:
    with worker(app, ONE_THREAD, clock_ns=clock) as server:
        client = begin(server, app, "/block")
        server.pass_time(clock, 100)
        for _ in range(3):
            server.until_next_round()
        assert (server.slot.busy_count, server.slot.streams) == (1, 0)
        app.gates["/block"].open()
        assert client.response().text == "done"


def test_so_many_streams_and_no_more_have_a_place_of_their_own(
    app: Streaming, clock: FakeClock
) -> None:
    with worker(app, HTTPSettings(max_threads=3, max_streams=2), clock_ns=clock) as server:
        paths = [f"/stream/{number}" for number in range(3)]
        clients = [begin(server, app, path) for path in paths]
        server.pass_time(clock, LASTING_S + 2 * LOOK_S)
        until(server, streams=2, busy_count=1)
        for client, path in zip(clients, paths, strict=True):
            leave(app, client, path)
        until(server, streams=0, busy_count=0)


def test_a_stream_takes_a_place_when_one_is_free(app: Streaming, clock: FakeClock) -> None:
    settings = HTTPSettings(max_threads=2, max_streams=1)
    with worker(app, settings, clock_ns=clock) as server:
        first = begin(server, app, "/events/first")
        server.pass_time(clock, 2 * LOOK_S)
        until(server, streams=1, busy_count=0)
        second = begin(server, app, "/events/second")
        server.pass_time(clock, 2 * LOOK_S)
        until(server, streams=1, busy_count=1)
        leave(app, first, "/events/first")
        until(server, streams=0, busy_count=1)
        server.pass_time(clock, 2 * LOOK_S)
        until(server, streams=1, busy_count=0)
        leave(app, second, "/events/second")


def test_without_places_for_streams_they_are_busy(app: Streaming, clock: FakeClock) -> None:
    settings = HTTPSettings(max_threads=2, max_streams=0)
    with worker(app, settings, clock_ns=clock) as server:
        client = begin(server, app, "/events")
        server.pass_time(clock, 10)
        for _ in range(3):
            server.until_next_round()
        assert (server.slot.busy_count, server.slot.streams) == (1, 0)
        leave(app, client, "/events")


def test_a_thread_that_waits_for_a_slow_reader_frees_its_place(clock: FakeClock) -> None:
    def flood(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/flood":
            return (b"x" * 100_000 for _ in range(100))
        return [b"done"]

    with worker(flood, ONE_THREAD, clock_ns=clock) as server:
        slow = [server.connect(receive_buffer_bytes=4096) for _ in range(2)]
        for number, client in enumerate(slow):
            client.send(get("/flood"))
            client.head()
            until(server, streams=number + 1)
        assert server.connect().ask().text == "done"
        for client in slow:
            assert sum(map(len, client.chunks())) == 10_000_000
        until(server, streams=0, busy_count=0)
        assert server.slot.begun_count == 3
        server.slot.until(lambda: server.slot.inline_count + server.slot.pooled_count == 3)
        assert server.server.dispatcher.inline, "the application is quick; its reader was not"


def test_a_reader_that_rests_is_cut_sooner_where_it_holds_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "CROWDED_NS", 200_000_000)

    def flood(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/flood":
            return (b"x" * 100_000 for _ in range(100))
        return [b"done"]

    settings = HTTPSettings(max_threads=1, max_streams=1, timeouts=HTTPTimeouts(write_s=3600))
    with worker(flood, settings) as server:
        slow = [server.connect(receive_buffer_bytes=4096) for _ in range(2)]
        for client in slow:
            client.send(get("/flood"))
            client.head()
        server.slot.until(lambda: (server.slot.streams, server.slot.busy_count) == (1, 1))
        with server.connect() as waiting:
            waiting.send(GET)
            assert waiting.response().text == "done"
        assert server.slot.incidents == {"STALLED": 1}
        until(server, streams=1, busy_count=0)


@pytest.mark.parametrize("key", ["smart_http.client_gone", "waitress.client_disconnected"])
def test_a_long_request_can_see_that_its_client_has_gone(key: str) -> None:
    gate = Gate()
    seen: list[bool] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gone: Callable[[], bool] = environ[key]
        seen.append(gone())
        gate.pass_through("")
        for _ in range(1000):
            if gone():
                break
            time.sleep(0.01)
        seen.append(gone())
        start_response("200 OK", [])
        return [b""]

    with worker(app) as server:
        client = server.connect()
        client.send(GET)
        gate.entered()
        client.close()
        gate.open()
        server.until_connections(0)
        server.slot.until(lambda: len(seen) == 2)
    assert seen == [False, True]
