"""Connections that go from one worker to another: their clients notice nothing."""

from __future__ import annotations

import queue
import socket
import threading

import pytest

from httpcore_srv import HTTPSettings, HTTPTimeouts
from httpcore_srv.connection import State
from httpcore_srv.parcel import MAX_HOPS, Parcel
from httpcore_srv.ports import Order
from httpcore_srv.stream import Mode
from tests.fakes.worker import BOUND_S, FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Echo,
    Gate,
    WorkerInThread,
    WrappedListener,
    get,
    post,
    running,
    siblings,
    worker,
)

ONE_THREAD = HTTPSettings(max_threads=1)


def gated() -> tuple[Gate, type[Echo]]:
    """Return a gate and the kind of application that stops at it, for two workers."""
    gate = Gate()

    class Gated(Echo):
        def __init__(self, name: str) -> None:
            super().__init__(name, gate)

    return gate, Gated


def filled(server: WorkerInThread, gate: Gate) -> Client:
    """Return the client whose request keeps the only thread of a worker busy."""
    client = server.connect()
    client.ask()
    client.send(get("/wait/filler"))
    assert gate.entered() == "/wait/filler"
    server.slot.until(lambda: server.server.pool.busy == 1)
    return client


# -- a full worker ----------------------------------------------------------------------------


def test_a_full_worker_hands_a_ready_connection_to_a_sibling() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, b):
        ready = a.connect()
        assert ready.ask(get("/1")).text == "a /1 "
        filler = filled(a, gate)
        assert ready.ask(get("/2")).text == "b /2 "
        assert ready.ask(get("/3")).text == "b /3 "
        gate.open()
        assert filler.response().text == "a /wait/filler "
        a.slot.until(lambda: a.slot.moves[1:] == (1, 0))
        b.slot.until(lambda: b.slot.moves[1:] == (0, 1))


def test_what_is_handed_over_unread_is_read_whole_by_the_sibling() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, _b):
        ready = a.connect()
        ready.ask()
        filled(a, gate)
        content = b"0123456789" * 20_000
        assert ready.ask(post("/", content)).content == b"b / " + content


def test_without_a_free_sibling_a_ready_connection_waits_and_is_served_here() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, b):
        b.siblings.free = False
        ready = a.connect()
        ready.ask()
        filled(a, gate)
        ready.send(get("/2"))
        a.until_waiting(1)
        gate.open()
        assert ready.response().text == "a /2 "


def test_what_waits_is_handed_over_as_soon_as_a_sibling_is_free() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, b):
        b.siblings.free = False
        ready = a.connect()
        ready.ask()
        filled(a, gate)
        ready.send(get("/2"))
        a.until_waiting(1)
        b.siblings.free = True
        assert ready.response().text == "b /2 "
        a.until_waiting(0)


def test_pipelined_requests_behind_a_running_one_stay_with_it_and_keep_their_order() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, _b):
        client = a.connect()
        client.send(get("/wait/1") + get("/2") + get("/3"))
        gate.entered()
        gate.open()
        paths = [client.response().text.split()[1] for _ in range(3)]
        assert paths == ["/wait/1", "/2", "/3"]


def test_a_connection_is_handed_on_no_more_than_three_times_without_an_answer() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, b):
        ready = a.connect()
        ready.ask()
        b.siblings.target = a.siblings  # both say that they are free, and neither is
        filled(a, gate)
        filled(b, gate)
        ready.send(get("/2"))
        b.until_waiting(1)
        for _ in range(5):
            b.until_next_round()
        assert a.slot.moves[1] + b.slot.moves[1] == MAX_HOPS
        gate.open(2)
        assert ready.response().text == "b /2 "


def test_an_answer_begins_the_count_of_hops_anew() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, b):
        b.siblings.target = a.siblings
        ready = a.connect()
        for number in range(4 * MAX_HOPS):
            here, there = (a, b) if number % 2 == 0 else (b, a)
            ready.ask()
            filler = filled(here, gate)
            assert ready.ask().text.split()[0] == there.name
            gate.open()
            filler.response()


def test_a_client_that_goes_while_its_connection_moves_costs_nothing() -> None:
    with worker() as server, socket.create_server(("127.0.0.1", 0)) as listener:
        for manner in (Client.reset, Client.close):
            gone = Client(listener.getsockname())
            accepted, _ = listener.accept()
            manner(gone)
            server.siblings.put(Parcel(1, 0, 1 << 62, b"").encode(), accepted.fileno())
            accepted.close()
        assert server.connect().ask().status == 200
        server.until_connections(1)


# -- draining ---------------------------------------------------------------------------------


def test_idle_connections_move_and_the_worker_leaves() -> None:
    with siblings() as (a, b):
        clients = [a.connect() for _ in range(50)]
        for client in clients:
            assert client.ask().text == "a / "
        a.order(Order.DRAIN)
        a.until_left()
        b.until_connections(50)
        for client in clients:
            assert client.ask().text == "b / "
        assert a.slot.states == ["ready", "draining", "exiting"]
        assert a.slot.moves == (50, 50, 0)


def test_a_worker_without_connections_leaves_at_once() -> None:
    with siblings() as (a, _b):
        a.order(Order.DRAIN)
        a.until_left()
        assert a.slot.states == ["ready", "draining", "exiting"]


def test_a_client_that_has_said_nothing_yet_moves() -> None:
    with siblings() as (a, _b):
        client = a.connect()
        a.until_connections(1)
        a.order(Order.DRAIN)
        a.until_left()
        assert client.ask().text == "b / "


def test_a_head_of_which_a_part_is_here_moves() -> None:
    with siblings() as (a, _b):
        client = a.connect()
        request = get("/half", "X-Field: value")
        client.send(request[:20])
        a.slot.until(lambda: _states(a) == [State.RECEIVING_HEAD])
        a.order(Order.DRAIN)
        a.until_left()
        client.send(request[20:])
        assert client.response().text == "b /half "
        assert client.ask(get("/next")).text == "b /next "


def test_a_body_of_which_a_part_is_here_is_finished_before_the_connection_moves() -> None:
    with siblings() as (a, _b):
        client = a.connect()
        request = post("/body", b"0123456789")
        client.send(request[:-5])
        a.slot.until(lambda: _states(a) == [State.RECEIVING_BODY])
        a.order(Order.DRAIN)
        a.slot.until(lambda: "draining" in a.slot.states)
        client.send(request[-5:])
        assert client.response().text == "a /body 0123456789"
        a.until_left()
        assert client.ask(get("/next")).text == "b /next "


@pytest.mark.parametrize("inline", [True, False])
def test_a_running_request_is_finished_before_its_connection_moves(inline: bool) -> None:
    gate, app = gated()
    with siblings(app) as (a, _b):
        a.server.dispatcher.inline = inline
        client = a.connect()
        client.send(get("/wait"))
        gate.entered()
        a.order(Order.DRAIN)
        a.slot.until(lambda: "draining" in a.slot.states)
        gate.open()
        assert client.response().text == "a /wait "
        a.until_left()
        assert client.ask().text == "b / "


@pytest.mark.parametrize("inline", [True, False])
def test_what_is_pipelined_behind_a_running_request_moves_with_its_connection(
    inline: bool,
) -> None:
    gate, app = gated()
    with siblings(app) as (a, _b):
        a.server.dispatcher.inline = inline
        client = a.connect()
        half = get("/half")
        client.send(get("/wait") + get("/1") + post("/2", b"body") + get("/3") + half[:10])
        gate.entered()
        a.order(Order.DRAIN)
        a.slot.until(lambda: "draining" in a.slot.states)
        gate.open()
        assert client.response().text == "a /wait "
        for expected in ("b /1 ", "b /2 body", "b /3 "):
            assert client.response().text == expected
        a.until_left()
        client.send(half[10:])
        assert client.response().text == "b /half "


def test_a_large_response_is_finished_before_its_connection_moves() -> None:
    def make_app(name: str) -> Echo:
        return Large(name)

    class Large(Echo):
        def __call__(self, environ, start_response):  # type: ignore[no-untyped-def]
            first, content = super().__call__(environ, start_response)
            return [first, content, b"x" * (5 << 20)]

    with siblings(make_app) as (a, _b):
        client = a.connect(receive_buffer_bytes=4096)
        client.send(get("/1"))
        head = client.head()
        a.order(Order.DRAIN)
        a.slot.until(lambda: "draining" in a.slot.states)
        assert client.read(int(head.fields["content-length"])).startswith(b"a /1 x")
        a.until_left()
        assert client.ask().text.startswith("b / x")


def test_nothing_is_lost_for_clients_that_ask_while_their_worker_drains() -> None:
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask_on(client: Client, number: int) -> None:
        for count in range(200):
            path = f"/{number}/{count}"
            name, answered, *_ = client.ask(get(path)).text.split(" ")
            answers.put(name if answered == path else f"wrong: {answered}")

    with siblings() as (a, b):
        clients = [a.connect() for _ in range(6)]
        a.until_connections(6)
        threads = [threading.Thread(target=ask_on, args=(c, n)) for n, c in enumerate(clients)]
        for thread in threads:
            thread.start()
        names = [answers.get(timeout=BOUND_S) for _ in range(100)]
        a.order(Order.DRAIN)
        names += [answers.get(timeout=BOUND_S) for _ in range(1100)]
        for thread in threads:
            thread.join(BOUND_S)
        a.until_left()
        assert set(names) == {"a", "b"}
        b.until_connections(6)
        assert b.slot.begun_count + a.slot.begun_count == 1200


def test_connections_go_to_and_fro_between_workers_that_drain_by_turns() -> None:
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    over = threading.Event()

    def ask_on(client: Client, number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            path = f"/{number}/{count}"
            answers.put(client.ask(get(path)).text.split(" ")[1] == path)

    with siblings() as (a, b):
        b.siblings.target = a.siblings
        keep_a, keep_b = a.connect(), b.connect()
        for keep in (keep_a, keep_b):  # half a body cannot move: no worker ever leaves
            keep.send(post("/", b"xx")[:-1])
        clients = [a.connect() for _ in range(4)]
        a.until_connections(5)
        threads = [threading.Thread(target=ask_on, args=(c, n)) for n, c in enumerate(clients)]
        for thread in threads:
            thread.start()
        for number in range(20):
            leaving = a if number % 2 == 0 else b
            leaving.order(Order.DRAIN)
            leaving.until_connections(1)
            for _ in range(20):
                assert answers.get(timeout=BOUND_S)
            leaving.order(Order.RUN)
            leaving.slot.until(lambda slot=leaving.slot: slot.states[-1] == "ready")
        over.set()
        for thread in threads:
            thread.join(BOUND_S)
        for keep in (keep_a, keep_b):
            keep.send(b"x")
            assert keep.response().status == 200


def test_a_connection_that_no_sibling_takes_is_served_here() -> None:
    with worker(Echo("a")) as a:
        client = a.connect()
        client.ask()
        a.order(Order.DRAIN)
        a.slot.until(lambda: "draining" in a.slot.states)
        for _ in range(5):
            response = client.ask()
            assert response.text == "a / "
            assert "connection" not in response.fields
        client.close()
        a.until_left()


def test_a_connection_moves_as_soon_as_there_is_a_sibling() -> None:
    with siblings() as (a, b):
        a.siblings.target = None
        client = a.connect()
        client.ask()
        a.order(Order.DRAIN)
        a.slot.until(lambda: "draining" in a.slot.states)
        assert client.ask().text == "a / "
        a.siblings.target = b.siblings
        a.until_left()
        assert client.ask().text == "b / "


# -- coming back ------------------------------------------------------------------------------


def test_a_draining_worker_that_is_wanted_again_serves_and_accepts() -> None:
    with worker() as server:
        client = server.connect()
        client.ask()
        server.order(Order.DRAIN)
        server.slot.until(lambda: server.slot.states[-1] == "draining")
        late = server.connect()
        late.send(GET)
        for _ in range(3):
            server.until_next_round()
        assert server.slot.connections == 1
        server.order(Order.RUN)
        assert late.response().status == 200
        assert client.ask().status == 200
        assert server.slot.states == ["ready", "draining", "ready"]


def test_a_worker_that_is_wanted_again_at_its_last_look_stays() -> None:
    server = WorkerInThread(Echo())

    def want_it_again() -> None:
        server.slot.on_exiting = lambda: None
        server.slot.word = Order.RUN

    server.slot.on_exiting = want_it_again
    with running(server):
        server.order(Order.DRAIN)
        server.slot.until(lambda: server.slot.states == ["ready", "draining", "exiting", "ready"])
        assert server.connect().ask().status == 200


def test_a_connection_that_arrives_before_the_last_look_is_served() -> None:
    with siblings() as (a, b):
        client = b.connect()
        client.ask()

        def hand_over() -> None:
            a.slot.on_exiting = lambda: None
            b.order(Order.DRAIN)
            b.until_left()

        b.siblings.target = a.siblings
        a.siblings.target = None
        a.slot.on_exiting = hand_over
        a.order(Order.DRAIN)
        b.until_left()
        assert client.ask().text == "a / "
        client.close()
        a.until_left()
        assert a.slot.states == ["ready", "draining", "exiting", "draining", "exiting"]


# -- the nudge --------------------------------------------------------------------------------


def test_a_nudged_worker_accepts_what_it_was_not_woken_for() -> None:
    listener = WrappedListener()
    listener.hidden = True
    with worker(listener=listener) as server:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.send(GET)
        clients[0].assert_silent()
        for client in clients:
            server.siblings.put(b"")  # after one the listener itself would report the next
            assert client.response().status == 200
    listener.close()


def test_a_nudge_without_anything_waiting_does_no_harm() -> None:
    with worker() as server:
        for _ in range(100):
            server.siblings.put(b"")
        assert server.connect().ask().status == 200


def _states(server: WorkerInThread) -> list[State]:
    return [stream.connection.state for stream in server.server.streams.values()]


# -- what once went wrong ---------------------------------------------------------------------


def test_a_connection_that_may_not_move_again_does_not_hold_up_those_behind_it() -> None:
    gate, app = gated()
    with siblings(app, ONE_THREAD) as (a, b):
        b.siblings.free = False
        ready, tired = a.connect(), a.connect()
        ready.ask()
        tired.ask()
        filled(a, gate)
        tired.send(get("/tired"))
        a.until_waiting(1)
        next(s for s in a.server.streams.values() if s.mode is Mode.WAITING).hops = MAX_HOPS
        ready.send(get("/ready"))
        a.until_waiting(2)
        b.siblings.free = True
        assert ready.response().text == "b /ready "


def test_a_connection_may_be_handed_on_by_any_number_of_draining_workers() -> None:
    with siblings() as (a, b), socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(listener.getsockname())
        accepted, _ = listener.accept()
        a.siblings.target = None
        a.siblings.put(Parcel(255, 0, 1 << 62, b"").encode(), accepted.fileno())
        accepted.close()
        a.until_connections(1)
        a.siblings.target = b.siblings
        a.order(Order.DRAIN)
        with client:
            a.until_left()
            assert client.ask().text == "b / "


def test_a_half_read_head_keeps_its_deadline_when_it_moves() -> None:
    clock = FakeClock()
    settings = HTTPSettings(timeouts=HTTPTimeouts(header_s=10))
    with siblings(settings=settings, clock_ns=clock) as (a, b):
        client = a.connect()
        client.send(b"GET / HT")
        a.slot.until(lambda: _states(a) == [State.RECEIVING_HEAD])
        a.pass_time(clock, 9)
        a.order(Order.DRAIN)
        a.until_left()
        b.until_connections(1)
        b.pass_time(clock, 2)
        assert client.response().status == 408
