"""HTTPServer: responses that are held for a moment, and all that can happen in this moment.

The clock stands still, so what may be held is held until the batch of events is over. An
application's hooks are what happens meanwhile: they run on the leader's thread, between two
requests of one batch.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest

from httpcore_srv import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.environ import Environ
from httpcore_srv.mode import Mode
from httpcore_srv.outbox import HELD_BYTES
from httpcore_srv.ports import Order
from httpcore_srv.stream import PIPELINE_RUN, Stream
from httpcore_srv.wsgi import StartResponse
from tests.fakes.worker import BOUND_S, FakeClock
from tests.unit.httpcore_srv.pipelined_rig import Closing, make_calm
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Echo,
    WorkerInThread,
    get,
    post,
    running,
    siblings,
    worker,
)

KEEP_ALIVE_S = 50.0
REQUEST_S = 5.0
MANY = 60  # responses to /big are more than a narrow way takes
TIMEOUTS = HTTPTimeouts(header_s=1e6, body_s=1e6, write_s=1e6, keep_alive_s=KEEP_ALIVE_S)


class Hooked(Echo):
    """An Echo that calls what the test has put under a path, on the thread of the request."""

    def __init__(self, name: str = "app") -> None:
        super().__init__(name)
        self.hooks: dict[str, Callable[[], object]] = {}
        self.served: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.served.append(path)
        hook = self.hooks.get(path)
        if hook is not None:
            hook()
        if path.startswith("/big"):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [big(path)]
        if path.startswith("/close"):
            start_response("200 OK", [("Content-Length", "2")])
            return Closing([b"ok"], lambda: self.gate.pass_through(path))
        return super().__call__(environ, start_response)


def big(path: str) -> bytes:
    """Return content that is held just so."""
    return (path.encode() + b" ") * ((HELD_BYTES - 500) // (len(path) + 1))


@pytest.fixture
def app() -> Hooked:
    return Hooked()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=[0.0, REQUEST_S], ids=["simple", "revocable"])
def server(
    request: pytest.FixtureRequest, app: Hooked, clock: FakeClock
) -> Iterator[WorkerInThread]:
    settings = HTTPSettings(timeouts=replace(TIMEOUTS, request_s=request.param), max_threads=4)
    with worker(app, settings, clock_ns=clock, sentinel=False) as one:
        yield one


def connected(server: WorkerInThread, clock: FakeClock, count: int) -> list[Client]:
    """Return clients that have been served; the leader will hold what it may."""
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.ask()
    make_calm(server, clock)
    return clients


def stream_of(server: WorkerInThread, client: Client) -> Stream:
    """Return the server's side of a client."""
    port = client.sock.getsockname()[1]
    (stream,) = (s for s in server.server.streams.values() if s._sock.getpeername()[1] == port)
    return stream


def narrow(stream: Stream, client: Client) -> None:
    """Make the way to a client so narrow that a few responses fill it."""
    stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)


def sends_of(stream: Stream) -> list[bytes]:
    """Return what is given to the stream's socket from now on, call by call."""
    sends: list[bytes] = []
    send = stream.outbox._send

    def noting(data: bytes, flags: int = 0) -> int:
        sends.append(bytes(data))
        return send(data, flags)

    stream.outbox._send = noting  # type: ignore[assignment]
    return sends


# -- together ------------------------------------------------------------------------------------


def test_responses_of_pipelined_requests_go_out_with_one_send(
    server: WorkerInThread, clock: FakeClock
) -> None:
    (client,) = connected(server, clock, 1)
    sends = sends_of(stream_of(server, client))
    client.send(b"".join(get(f"/{n}") for n in range(5)))
    for n in range(5):
        assert client.response().text == f"app /{n} "
    assert len(sends) == 1


def test_a_batch_of_requests_is_answered_when_all_have_been_run(
    server: WorkerInThread, app: Hooked, clock: FakeClock
) -> None:
    clients = connected(server, clock, 4)
    sends = [sends_of(stream_of(server, client)) for client in clients]
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        slot = server.slot
        seen.append((sum(map(len, sends)), slot.begun_count - begun, slot.inline_count - ended))

    begun, ended = server.slot.begun_count, server.slot.inline_count
    app.hooks["/last"] = look
    with server.paused():
        for client in clients[:3]:
            client.send(get("/first"))
        clients[3].send(get("/last"))
    for client in clients:
        assert client.response().status == 200
    # A worker that is killed at this moment has lost four requests, and the row says so.
    assert seen == [(0, 4, 0)]
    server.until_at_rest()
    assert server.slot.begun_count == server.slot.inline_count == begun + 4


def test_a_lone_request_is_answered_before_the_loop_waits(
    server: WorkerInThread, clock: FakeClock
) -> None:
    (client,) = connected(server, clock, 1)
    for _ in range(3):
        assert client.ask().status == 200
    server.until_at_rest()
    assert server.slot.begun_count == server.slot.inline_count == 4


def test_a_100_comes_behind_the_responses_before_it(
    server: WorkerInThread, clock: FakeClock
) -> None:
    (client,) = connected(server, clock, 1)
    request = post("/post", b"content", "Expect: 100-continue")
    client.send(get("/a") + get("/b") + request[: -len(b"content")])
    assert client.response().text == "app /a "
    assert client.response().text == "app /b "
    assert client.response().status == 100
    client.send(b"content" + get("/c"))
    assert client.response().text == "app /post content"
    assert client.response().text == "app /c "


def test_clients_that_pipeline_without_end_are_held_up_after_their_turn(
    server: WorkerInThread, app: Hooked, clock: FakeClock
) -> None:
    greedy, other = connected(server, clock, 2)
    count = 3 * PIPELINE_RUN + 10
    app.served.clear()
    with server.paused():
        greedy.send(b"".join(get(f"/{n}") for n in range(count)))
        other.send(get("/other"))
    assert other.response().text == "app /other "
    for n in range(count):
        assert greedy.response().text == f"app /{n} "
    assert app.served.index("/other") <= 2 * PIPELINE_RUN


# -- a request that is stuck, behind some that were answered -------------------------------------


def test_what_was_answered_is_sent_while_the_next_request_is_stuck(
    server: WorkerInThread, app: Hooked, clock: FakeClock
) -> None:
    client, other = connected(server, clock, 2)
    with server.paused():
        other.send(get("/other"))
        client.send(get("/a") + get("/b") + get("/wait") + get("/c"))
    assert app.gate.entered() == "/wait"
    server.take_baton()
    assert other.response().text == "app /other "
    assert client.response().text == "app /a "
    assert client.response().text == "app /b "
    assert other.ask(get("/again")).text == "app /again "
    app.gate.open()
    assert client.response().text == "app /wait "
    assert client.response().text == "app /c "
    server.until_at_rest()
    slot = server.slot
    assert slot.begun_count == slot.inline_count + slot.pooled_count


@pytest.mark.parametrize("way", ["held", "sent at once", "pool"])
@pytest.mark.parametrize("before", [0, 2])
def test_the_client_has_its_response_while_the_application_closes(
    server: WorkerInThread, app: Hooked, clock: FakeClock, way: str, before: int
) -> None:
    (client,) = connected(server, clock, 1)
    if way == "pool":
        server.use_pool()
    elif way == "sent at once":

        def be_uncalm() -> None:
            server.server.dispatcher._uncalm_until_ns = 1 << 63

        server.on_leader(be_uncalm)
        server.until_next_round()
        assert not server.on_leader(lambda: server.server.dispatcher.gathers)
    client.send(get("/a") * before + get("/close") + get("/next"))
    assert app.gate.entered() == "/close"
    if way == "held":
        server.take_baton()
    for _ in range(before):
        assert client.response().text == "app /a "
    assert client.response().text == "ok"
    app.gate.open()
    assert client.response().text == "app /next "


def test_a_client_reads_what_it_is_owed_while_its_next_request_is_stuck(
    server: WorkerInThread, app: Hooked, clock: FakeClock
) -> None:
    (client,) = connected(server, clock, 1)
    stream = stream_of(server, client)
    narrow(stream, client)
    paths = [f"/big/{n}" for n in range(MANY)]
    client.send(b"".join(map(get, paths)) + get("/wait"))
    assert app.gate.entered() == "/wait"
    assert len(stream.outbox.held) == len(paths)
    server.take_baton()
    server.until_next_round()
    assert stream.outbox.held, "the socket took all: this test shows nothing"
    stop = threading.Event()

    def make_rounds() -> None:
        while not stop.wait(0.001):
            server.wake()

    rounds = threading.Thread(target=make_rounds, daemon=True)
    rounds.start()
    try:
        for path in paths:
            assert client.response().content == big(path)
    finally:
        stop.set()
        rounds.join(BOUND_S)
        app.gate.open()
    assert client.response().text == "app /wait "
    assert client.ask().status == 200


@pytest.mark.parametrize("reads", [True, False])
def test_a_request_that_takes_too_long_is_answered_504_behind_those_before_it(
    app: Hooked, clock: FakeClock, reads: bool
) -> None:
    settings = HTTPSettings(timeouts=replace(TIMEOUTS, request_s=REQUEST_S), max_threads=4)
    with worker(app, settings, clock_ns=clock, sentinel=False) as server:
        (client,) = connected(server, clock, 1)
        stream = stream_of(server, client)
        if not reads:
            narrow(stream, client)
        paths = [f"/big/{n}" for n in range(2 if reads else MANY)]
        client.send(b"".join(map(get, paths)) + get("/wait") + get("/never"))
        assert app.gate.entered() == "/wait"
        server.take_baton()
        server.until_next_round()
        assert bool(stream.outbox.held) != reads
        try:
            server.pass_time(clock, REQUEST_S + 1)
            server.slot.until(lambda: server.slot.incidents.get("REQUEST_TIMEOUT") == 1)
            for path in paths:
                assert client.response().content == big(path)
            assert client.response().status == 504
            client.assert_closed()
        finally:
            # A worker with a stuck thread ends its process at the end, which is this one.
            app.gate.open()
            for _ in range(10_000):
                if not server.server.pool.written_off:
                    break
                server.until_next_round()
        assert "/never" not in app.served


# -- clients that do not read, and clients that go -----------------------------------------------


def test_a_client_that_does_not_read_gets_all_in_the_end(
    server: WorkerInThread, app: Hooked, clock: FakeClock
) -> None:
    (client,) = connected(server, clock, 1)
    stream = stream_of(server, client)
    narrow(stream, client)
    paths = [f"/big/{n}" for n in range(2 * PIPELINE_RUN)]
    client.send(b"".join(map(get, paths[:-5])))
    for _ in range(10_000):
        if stream.mode is Mode.WRITING:
            break
        server.until_next_round()
    assert stream.mode is Mode.WRITING
    assert not stream.at_rest
    assert not stream.movable
    client.send(b"".join(map(get, paths[-5:])))
    assert server.connect().ask().status == 200
    for path in paths:
        assert client.response().content == big(path)
    assert client.ask().status == 200
    server.until_connections(2)
    assert server.server.store.used == 0


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_goes_while_its_response_is_held_costs_nothing(
    server: WorkerInThread, app: Hooked, clock: FakeClock, how: str
) -> None:
    goes, stays = connected(server, clock, 2)
    app.hooks["/stays"] = getattr(goes, how)
    with server.paused():
        goes.send(get("/goes") * 3)
        stays.send(get("/stays"))
    assert stays.response().text == "app /stays "
    server.until_connections(1)
    assert stays.ask().status == 200
    server.until_at_rest()
    assert server.slot.begun_count == server.slot.inline_count


def test_a_client_that_only_listens_any_more_gets_all_its_answers(
    server: WorkerInThread, clock: FakeClock
) -> None:
    (client,) = connected(server, clock, 1)
    with server.paused():
        client.send(get("/a") + get("/b") + get("/c"))
        client.half_close()
    for path in "abc":
        assert client.response().text == f"app /{path} "
    client.assert_closed()


def test_an_end_that_is_seen_while_a_response_is_held_does_not_cost_the_response(
    server: WorkerInThread, app: Hooked, clock: FakeClock
) -> None:
    # An event that was meant for another connection, which had the number before.
    listens, other = connected(server, clock, 2)
    stream = stream_of(server, listens)
    app.hooks["/other"] = lambda: stream.on_event(select.EPOLLIN)
    with server.paused():
        listens.send(get("/a") + get("/b"))
        listens.half_close()
        other.send(get("/other"))
    assert listens.response().text == "app /a "
    assert listens.response().text == "app /b "
    listens.assert_closed()
    assert other.response().status == 200
    server.until_connections(1)


# -- orders and timers in the same batch ---------------------------------------------------------


def shift_all(server: WorkerInThread) -> None:
    """Order all active connections to be moved to a sibling."""
    server.slot.shift_order = (1, 1.0)
    server.wake()


ORDERS: dict[str, Callable[[WorkerInThread], None]] = {
    "stop": lambda server: server.order(Order.STOP),
    "now": lambda server: server.order(Order.NOW),
    "manager gone": lambda server: server.lifeline.manager.close(),
    "shift": shift_all,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_order_in_the_same_batch_costs_no_response(
    server: WorkerInThread, clock: FakeClock, order: str, place: int
) -> None:
    server.slot.linger = 0.0
    clients = connected(server, clock, 3)
    steps: list[Callable[[], object]] = [
        lambda client=client: client.send(get("/a") + get("/b"))  # type: ignore[misc]
        for client in clients
    ]
    steps.insert(place, lambda: ORDERS[order](server))
    with server.paused():
        for step in steps:
            step()
    for client in clients:
        assert client.response().text == "app /a "
        assert client.response().text == "app /b "


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("order", ["drain", "shift"])
def test_connections_are_handed_over_with_their_responses_sent(place: int, order: str) -> None:
    clock = FakeClock()
    settings = HTTPSettings(timeouts=TIMEOUTS, max_threads=4)
    with siblings(Hooked, settings, clock_ns=clock, sentinel=False) as (a, b):
        target, a.siblings.target = a.siblings.target, None
        clients = connected(a, clock, 3)
        a.siblings.target = target

        def move() -> None:
            if order == "drain":
                a.order(Order.DRAIN)
            else:
                shift_all(a)

        steps: list[Callable[[], object]] = [
            lambda client=client: client.send(get("/a") + get("/b") + GET[:10])  # type: ignore[misc]
            for client in clients
        ]
        steps.insert(place, move)
        with a.paused():
            for step in steps:
                step()
        for client in clients:
            # Who is moved between the two has the second answered by the other.
            assert client.response().text in ("a /a ", "b /a ")
            assert client.response().text in ("a /b ", "b /b ")
        # A shift moves those that have asked lately: whose requests came before the order.
        b.until_connections(3 if order == "drain" else place)
        for client in clients:
            client.send(GET[10:])
            assert client.response().text in ("a / ", "b / ")


def test_a_stream_whose_response_is_held_is_neither_at_rest_nor_to_be_moved(
    clock: FakeClock,
) -> None:
    settings = HTTPSettings(timeouts=TIMEOUTS, max_threads=4)
    with siblings(Hooked, settings, clock_ns=clock, sentinel=False) as (a, _):
        first, second = connected(a, clock, 2)
        stream = stream_of(a, first)
        seen: list[object] = []

        def look() -> None:
            seen.extend([stream.mode, stream.at_rest, stream.movable, stream.parcel()])
            seen.append(a.server.give_away(stream, only_free=False))

        app = a.server.handler._app
        assert isinstance(app, Hooked)
        app.hooks["/look"] = look
        with a.paused():
            first.send(get("/first"))
            second.send(get("/look"))
        assert first.response().text == "a /first "
        assert second.response().text == "a /look "
        assert seen == [Mode.READING, False, False, None, False]
        a.until_at_rest()
        assert a.on_leader(lambda: a.server.give_away(stream, only_free=False)) is True
        assert first.ask(get("/next")).text == "b /next "


def test_a_connection_that_was_just_answered_can_make_room(app: Hooked, clock: FakeClock) -> None:
    settings = HTTPSettings(limits=HTTPLimits(max_connections=1), timeouts=TIMEOUTS, max_threads=4)
    with worker(app, settings, clock_ns=clock, sentinel=False) as server:
        (first,) = connected(server, clock, 1)
        with server.paused():
            first.send(get("/first"))
            second = server.connect()
            second.send(get("/second"))
        assert first.response().text == "app /first "
        second.sock.settimeout(3)  # not before a pause of accepting is over, and no time passes
        assert second.response().text == "app /second "
        first.assert_closed()


def test_timers_that_are_due_in_the_same_batch_come_after_what_is_held(
    server: WorkerInThread, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, idle = connected(server, clock, 2)
    held: list[list[bytes]] = []
    expire = Stream.expire

    def looking(stream: Stream) -> None:
        held.extend(list(s.outbox.held) for s in server.server.streams.values())
        expire(stream)

    monkeypatch.setattr(Stream, "expire", looking)
    with server.paused():
        # The keep-alive time of both is over; but one of them has asked before anybody looked.
        clock.advance(KEEP_ALIVE_S + 1)
        asks.send(get("/a") + get("/b"))
    assert asks.response().text == "app /a "
    assert asks.response().text == "app /b "
    idle.assert_closed()
    assert held
    assert not any(held)
    assert asks.ask().status == 200


# -- no thread is free ---------------------------------------------------------------------------


def test_a_stream_that_waited_and_is_answered_waits_again_without_losing_anything(
    app: Hooked, clock: FakeClock
) -> None:
    settings = HTTPSettings(timeouts=TIMEOUTS, max_threads=1)
    with worker(app, settings, clock_ns=clock, sentinel=False) as server:
        (client,) = connected(server, clock, 1)
        pool, line = server.server.pool, server.server.line

        def be_busy() -> None:
            pool.busy += 1

        def be_free() -> None:
            pool.busy -= 1
            line.post_serving()

        client.send(get("/a")[:10])
        stream = stream_of(server, client)
        for _ in range(10_000):
            if not stream.connection.at_rest:
                break
            server.until_next_round()
        server.on_leader(be_busy)
        client.send(get("/a")[10:] + get("/b") + get("/c"))
        server.until_waiting(1)
        app.hooks["/a"] = be_busy  # another thread takes the place, as the leader runs this
        make_gather(server)
        server.on_leader(be_free)
        try:
            assert client.response().text == "app /a "
            server.until_waiting(1)
        finally:
            server.on_leader(be_free)
        assert client.response().text == "app /b "
        assert client.response().text == "app /c "
        assert client.ask().status == 200


def test_a_part_of_a_request_does_not_wait_for_a_thread(app: Hooked, clock: FakeClock) -> None:
    settings = HTTPSettings(timeouts=TIMEOUTS, max_threads=1)
    with worker(app, settings, clock_ns=clock, sentinel=False) as server:
        (client,) = connected(server, clock, 1)
        pool, line = server.server.pool, server.server.line

        def be_busy() -> None:
            pool.busy += 1

        def be_free() -> None:
            pool.busy -= 1
            line.post_serving()

        app.hooks["/a"] = be_busy
        client.send(get("/a") + get("/b")[:10])
        try:
            assert client.response().text == "app /a "
            server.until_next_round()
            assert server.slot.waiting == 0
        finally:
            server.on_leader(be_free)
        client.send(get("/b")[10:])
        assert client.response().text == "app /b "


def make_gather(server: WorkerInThread) -> None:
    """Wait for a batch in which responses are held."""
    for _ in range(1000):
        if server.on_leader(lambda: server.server.dispatcher.gathers):
            return
    raise AssertionError("nothing is held")


@pytest.mark.parametrize("threads", [1, 2])
def test_more_pipelined_requests_than_threads_are_all_answered(
    app: Hooked, clock: FakeClock, threads: int
) -> None:
    settings = HTTPSettings(timeouts=TIMEOUTS, max_threads=threads)
    with worker(app, settings, clock_ns=clock, sentinel=False) as server:
        clients = connected(server, clock, 6)

        def take_baton() -> None:
            if threading.get_ident() == server.server.loop.leader_ident:
                server.take_baton()

        for number in range(len(clients)):
            app.hooks[f"/stuck/{number}"] = take_baton
        with server.paused():
            for number, client in enumerate(clients):
                client.send(get("/a") + get(f"/stuck/{number}") + get("/b") + get("/c"))
        for number, client in enumerate(clients):
            for path in ("/a", f"/stuck/{number}", "/b", "/c"):
                assert client.response().text == f"app {path} "
        server.until_at_rest()
        slot = server.slot
        assert slot.begun_count == slot.inline_count + slot.pooled_count == 5 * len(clients)


# -- what is held when the worker ends -----------------------------------------------------------


def test_a_worker_that_is_told_to_end_in_the_middle_of_a_batch_sends_what_it_holds(
    app: Hooked, clock: FakeClock
) -> None:
    server = WorkerInThread(app, HTTPSettings(timeouts=TIMEOUTS), clock_ns=clock, sentinel=False)
    with running(server):
        clients = connected(server, clock, 3)
        app.hooks["/end"] = server.server.loop.stop
        with server.paused():
            for client in clients:
                client.send(get("/a") + get("/end"))
        for client in clients:
            assert client.response().text == "app /a "
            assert client.response().text == "app /end "
            with contextlib.suppress(ConnectionError):
                client.assert_closed()
        server.until_left()
        assert server.slot.begun_count == server.slot.inline_count
