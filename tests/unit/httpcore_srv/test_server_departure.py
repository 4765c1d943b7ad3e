"""How a worker leaves when the whole server stops, and when its manager is gone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator

import pytest

from httpcore_srv import HTTPSettings, departure
from httpcore_srv.connection import State
from httpcore_srv.ports import Order
from httpcore_srv.wsgi import Environ, StartResponse
from tests.fakes.worker import BOUND_S, FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Echo,
    Gate,
    WorkerInThread,
    WrappedListener,
    get,
    post,
    running,
    worker,
)


@pytest.fixture
def clock() -> FakeClock:
    """Time stands still unless the test moves it: nothing lingers shorter than it should."""
    return FakeClock()


@pytest.fixture
def hidden_listener() -> Iterator[WrappedListener]:
    """A listener whose connections epoll does not report: they stay in the accept queue."""
    listener = WrappedListener()
    listener.hidden = True
    yield listener
    listener.close()


def stopping(server: WorkerInThread, linger_s: float = 2.0) -> None:
    """Give the order to stop, and wait until the worker has understood it."""
    server.slot.linger = linger_s
    server.order(Order.STOP)
    server.slot.until(lambda: "draining" in server.slot.states)


# -- STOP -------------------------------------------------------------------------------------


def test_a_worker_without_connections_leaves_at_once(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        stopping(server, linger_s=60)
        server.until_left()
        assert server.slot.states == ["ready", "draining", "exiting"]


def test_idle_connections_linger_and_are_closed(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            client.ask()
        server.until_at_rest()
        stopping(server)
        server.pass_time(clock, 1.9)
        clients[0].assert_silent()
        server.pass_time(clock, 0.2)
        for client in clients:
            client.assert_closed()
        server.until_left()


def test_a_request_that_comes_during_the_linger_is_the_last(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.ask()
        stopping(server)
        for client in clients:
            response = client.ask(get("/late"))
            assert (response.text, response.fields["connection"]) == ("app /late ", "close")
            client.assert_closed()
        server.until_left()


def test_new_connections_are_answered_as_long_as_anything_lingers(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        idle = server.connect()
        idle.ask()
        stopping(server)
        for _ in range(3):
            late = server.connect()
            assert late.ask().fields["connection"] == "close"
            late.assert_closed()
        server.pass_time(clock, 2.1)
        idle.assert_closed()
        server.until_left()


def test_what_waits_in_the_accept_queue_is_answered_before_the_worker_leaves(
    hidden_listener: WrappedListener,
) -> None:
    with worker(listener=hidden_listener) as server:
        clients = [server.connect() for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(get(f"/{number}"))
        stopping(server)
        for number, client in enumerate(clients):
            assert client.response().text == f"app /{number} "
            client.assert_closed()
        server.until_left()
        assert server.slot.states[-1] == "exiting"


def test_requests_in_the_accept_queue_that_block_are_all_answered(
    hidden_listener: WrappedListener,
) -> None:
    app = Echo()
    with worker(app, HTTPSettings(max_threads=2), listener=hidden_listener) as server:
        clients = [server.connect() for _ in range(6)]
        for number, client in enumerate(clients):
            client.send(get(f"/wait/{number}"))
        stopping(server)
        app.gate.open(6)
        for number, client in enumerate(clients):
            assert client.response().text == f"app /wait/{number} "
        server.until_left()


@pytest.mark.parametrize("inline", [True, False])
def test_a_running_request_is_answered_before_the_worker_leaves(inline: bool) -> None:
    app = Echo()
    with worker(app) as server:
        server.server.dispatcher.inline = inline
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        stopping(server, linger_s=0)
        for _ in range(3):
            server.until_next_round()
        app.gate.open()
        assert client.response().text == "app /wait "
        client.assert_closed()
        server.until_left()


def test_requests_that_wait_for_a_thread_are_answered_before_the_worker_leaves() -> None:
    app = Echo()
    with worker(app, HTTPSettings(max_threads=1)) as server:
        clients = [server.connect() for _ in range(4)]
        for client in clients:
            client.ask()
        for number, client in enumerate(clients):
            client.send(get(f"/wait/{number}"))
        app.gate.entered()
        server.until_waiting(3)
        stopping(server, linger_s=0)
        app.gate.open(4)
        for number, client in enumerate(clients):
            assert client.response().text == f"app /wait/{number} "
        server.until_left()


@pytest.mark.parametrize("inline", [True, False])
def test_what_was_pipelined_is_answered_and_the_last_answer_says_close(inline: bool) -> None:
    app = Echo()
    with worker(app) as server:
        server.server.dispatcher.inline = inline
        client = server.connect()
        client.send(get("/wait") + get("/next") + get("/last"))
        app.gate.entered()
        stopping(server)
        app.gate.open()
        responses = [client.response() for _ in range(3)]
        assert [r.text.split()[1] for r in responses] == ["/wait", "/next", "/last"]
        assert [r.fields.get("connection") for r in responses] == [None, None, "close"]
        client.assert_closed()
        client.close()
        server.until_left()


def test_a_request_of_which_a_part_is_here_may_come_to_its_end(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        client = server.connect()
        request = post("/", b"content")
        client.send(request[:-3])
        server.slot.until(
            lambda: (
                [s.connection.state for s in list(server.server.streams.values())]
                == [State.RECEIVING_BODY]
            )
        )
        stopping(server)
        server.pass_time(clock, 5)
        server.until_next_round()
        client.send(request[-3:])
        response = client.response()
        assert (response.text, response.fields["connection"]) == ("app / content", "close")
        server.until_left()


def test_a_large_response_is_finished_before_the_worker_leaves(clock: FakeClock) -> None:
    class Large(Echo):
        def __call__(self, environ, start_response):  # type: ignore[no-untyped-def]
            return [*super().__call__(environ, start_response), b"x" * (5 << 20)]

    with worker(Large(), clock_ns=clock) as server:
        client = server.connect(receive_buffer_bytes=4096)
        client.send(GET)
        length = int(client.head().fields["content-length"])
        stopping(server)
        server.pass_time(clock, 5)
        server.until_next_round()
        assert len(client.read(length)) == length
        server.pass_time(clock, 5)
        client.assert_closed()
        server.until_left()


def test_a_stop_after_a_drain_closes_what_no_sibling_took(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        client = server.connect()
        client.ask()
        server.order(Order.DRAIN)
        server.slot.until(lambda: "draining" in server.slot.states)
        server.slot.linger = 1.0
        server.order(Order.STOP)
        server.until_next_round()
        assert client.ask().fields["connection"] == "close"
        server.until_left()


def test_a_word_that_is_no_order_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with worker() as server, server.connect() as client:
        server.order(77)  # type: ignore[arg-type]
        server.until_next_round()
        assert client.ask().status == 200
        assert server.slot.states == ["ready"]
        assert "no order but 77" in caplog.text


# -- at once, and too late --------------------------------------------------------------------


def test_now_means_now(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        client = server.connect()
        client.ask()
        server.order(Order.NOW)
        server.until_left()
        client.assert_closed()


def test_now_does_not_wait_for_a_stop_in_progress(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        client = server.connect()
        client.ask()
        stopping(server, linger_s=60)
        server.order(Order.NOW)
        server.until_left()
        client.assert_closed()


def test_now_does_not_wait_for_requests_on_the_threads_of_the_pool() -> None:
    app = Echo()
    with worker(app) as server:
        server.use_pool()
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.order(Order.NOW)
        server.until_left()
        client.assert_closed()


@pytest.mark.parametrize("order", [Order.DRAIN, Order.STOP])
def test_a_departure_ends_with_the_grace(
    order: Order, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = Echo()
    with worker(app, clock_ns=clock, graceful_timeout_s=30) as server:
        server.use_pool()
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.order(order)
        server.slot.until(lambda: "draining" in server.slot.states)
        clock.advance(29)
        server.until_next_round()
        server.pass_time(clock, 2)
        server.until_left()
        client.assert_closed()
    assert "1 connections cut" in caplog.text


# -- the manager is gone ----------------------------------------------------------------------


def test_without_its_manager_a_worker_finishes_and_leaves(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, clock_ns=clock) as server:
        server.use_pool()
        idle, busy = server.connect(), server.connect()
        idle.ask()
        busy.send(get("/wait"))
        app.gate.entered()
        server.lifeline.manager.close()
        server.slot.until(lambda: "draining" in server.slot.states)
        app.gate.open()
        assert busy.response().text == "app /wait "
        assert idle.ask().fields["connection"] == "close"
        server.slot.until(lambda: server.slot.connections <= 1)
        clock.advance(3)
        busy.assert_closed()
        server.until_left()


def test_an_orphan_without_connections_leaves_at_once(clock: FakeClock) -> None:
    with worker(clock_ns=clock) as server:
        server.lifeline.manager.close()
        server.until_left()


def test_an_orphan_that_draws_its_last_breath_does_not_spin(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, clock_ns=clock) as server:
        server.use_pool()
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.lifeline.manager.close()
        server.slot.until(lambda: "draining" in server.slot.states)
        rounds = server.slot.rounds
        client.assert_silent(0.3)
        assert server.slot.rounds - rounds < 30
        app.gate.open()
        client.response()
        client.close()
        server.until_left()


def test_an_orphan_whose_requests_do_not_end_ends_itself(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def end(status: int) -> None:
        assert status == 1
        ended.set()

    monkeypatch.setattr(departure.os, "_exit", end)
    app = Echo()
    with worker(app, clock_ns=clock, graceful_timeout_s=30) as server:
        server.use_pool()
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.lifeline.manager.close()
        server.slot.until(lambda: "draining" in server.slot.states)
        clock.advance(31)
        assert ended.wait(BOUND_S)
        server.until_left()


# -- what once went wrong ---------------------------------------------------------------------


def test_now_does_not_wait_for_a_request_on_the_main_thread() -> None:
    app = Echo()
    with worker(app, sentinel=False) as server:
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.take_baton()
        server.order(Order.NOW)
        client.assert_closed()


def test_a_request_that_ends_after_now_ends_quietly() -> None:
    gate = Gate()

    class Closing(list[bytes]):
        def close(self) -> None:
            gate.pass_through("")

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return Closing([b"ok"])

    with worker(answer) as server:
        server.use_pool()
        client = server.connect()
        assert client.ask().text == "ok"
        gate.entered()
        server.order(Order.NOW)
        server.until_left()
        gate.open()


def test_a_thread_that_ends_its_request_late_does_not_post_to_a_closed_loop() -> None:
    late, left, done = threading.Event(), threading.Event(), threading.Event()
    server = WorkerInThread(Echo())
    dispatcher = server.server.dispatcher
    dispatcher.inline = False
    freed = dispatcher._on_freed
    said: list[str] = []

    def freed_late() -> None:
        """The thread is preempted before it says that it is free."""
        late.set()
        assert left.wait(BOUND_S)
        try:
            freed()
            said.append("free")
        finally:
            done.set()

    dispatcher._on_freed = freed_late
    with running(server):
        client = server.connect()
        client.ask(get("/", "Connection: close"))
        assert late.wait(BOUND_S)
        server.order(Order.STOP)
        server.until_left()
        left.set()
        assert done.wait(BOUND_S)
    assert said == ["free"]


def test_a_stopping_worker_without_descriptors_does_not_spin(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Exhausted(WrappedListener):
        exhausted = False

        def accept(self):  # type: ignore[no-untyped-def]
            if self.exhausted:
                raise OSError(24, os.strerror(24))
            return super().accept()

    caplog.set_level(logging.CRITICAL)
    listener = Exhausted()
    try:
        with worker(listener=listener, clock_ns=clock) as server:
            busy = server.connect()
            busy.send(GET[:5])  # nothing that could be closed to make room
            server.until_connections(1)
            stopping(server, linger_s=60)
            listener.exhausted = True
            late = server.connect()
            late.send(GET)
            server.slot.until(lambda: server.slot.incidents.get("ACCEPT_PAUSED", 0) > 0)
            rounds = server.slot.rounds
            late.assert_silent(0.3)
            assert server.slot.rounds - rounds < 60
            busy.send(GET[5:])
            assert busy.response().status == 200
    finally:
        listener.close()
