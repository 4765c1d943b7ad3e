"""HTTPServer: requests that take too long, and requests that wait too long for a thread."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pytest

from httpcore_srv import HTTPSettings, HTTPTimeouts
from httpcore_srv.ports import Order
from httpcore_srv.wsgi import Environ, StartResponse
from tests.fakes.worker import BOUND_S, FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Echo,
    Gate,
    WorkerInThread,
    get,
    post,
    worker,
)

REQUEST_S = 5.0
QUEUE_S = 3.0


def limited(*, request_s: float = 0.0, queue_s: float = 0.0, threads: int = 1) -> HTTPSettings:
    timeouts = HTTPTimeouts(
        request_s=request_s, queue_s=queue_s, header_s=1000, keep_alive_s=1000, linger_s=1000
    )
    return HTTPSettings(timeouts=timeouts, max_threads=threads)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[str]]:
    """The access log: its end to read."""
    with open(tmp_path / "access.log", "w+") as file:
        yield file


def lines(server: WorkerInThread, log: IO[str]) -> list[str]:
    """Return request and status of each line."""
    server.until_next_round()
    log.seek(0)
    return [" ".join(line.split('"')[1:3]).rsplit(" ", 2)[0] for line in log]


def stuck(server: WorkerInThread, app: Echo, request: bytes = get("/wait")) -> Client:
    """Return a client whose request is at the gate, on a thread of the pool."""
    server.use_pool()
    client = server.connect()
    client.send(request)
    app.gate.entered()
    server.slot.until(lambda: server.server.pool.busy > 0)
    return client


def written_off(server: WorkerInThread, clock: FakeClock, count: int = 1) -> None:
    """Let the time of a request pass."""
    server.pass_time(clock, REQUEST_S + 0.2)
    server.slot.until(lambda: server.slot.written_off == count)


def come_back(server: WorkerInThread, app: Echo, count: int = 1) -> None:
    """Let stuck threads go on, and wait until they are known to be back."""
    app.gate.open(count)
    for _ in range(10_000):
        if server.server.pool.written_off == 0:
            return
        server.until_next_round()
    raise AssertionError("a thread does not come back")


# -- requests that take too long -----------------------------------------------------------------


def test_who_waits_too_long_for_the_application_is_answered_and_another_thread_serves_on(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, log: IO[str]
) -> None:
    app = Echo()
    settings = limited(request_s=REQUEST_S)
    with worker(app, settings, clock_ns=clock, access_log_fd=log.fileno()) as server:
        client = stuck(server, app)
        written_off(server, clock)
        answer = client.response()
        assert (answer.status, answer.fields["connection"]) == (504, "close")
        assert "retry-after" not in answer.fields
        client.assert_closed()
        assert server.connect().ask(get("/next")).text == "app /next "
        slot = server.slot
        server.slot.until(lambda: slot.busy_count == 0)
        assert slot.incidents == {"REQUEST_TIMEOUT": 1}
        assert (slot.errors, slot.begun_count) == (1, 2)
        slot.until(lambda: slot.pooled_count + slot.inline_count == 2)
        assert lines(server, log) == ["GET /wait HTTP/1.1  504", "GET /next HTTP/1.1  200"]
        come_back(server, app)
        assert slot.errors == 1
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("GET /wait: no response after 5.2 s, answered 504")
    assert "in pass_through" in text, "it is not said where the thread is"
    assert "in handle" not in text, "our own frames help nobody"
    assert "in _serve" not in text


def test_a_request_that_is_answered_in_time_is_left_alone(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app)
        for _ in range(3):
            server.pass_time(clock, REQUEST_S / 4)
            server.until_next_round()
        app.gate.open()
        assert client.response().status == 200
        for number in range(3):  # over the same connection, each has its own time
            server.pass_time(clock, REQUEST_S * 2)
            client.send(get(f"/wait/{number}"))
            app.gate.entered()
            server.pass_time(clock, REQUEST_S / 2)
            server.until_next_round()
            app.gate.open()
            assert client.response().text == f"app /wait/{number} "
        assert server.slot.incidents == {}


def test_without_the_option_a_request_may_take_for_ever(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(), clock_ns=clock) as server:
        client = stuck(server, app)
        server.pass_time(clock, 100_000)
        server.until_next_round()
        app.gate.open()
        assert client.response().status == 200


def test_a_thread_that_comes_back_sends_nothing_and_serves_again(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app)
        thread = app.threads["/wait"]
        written_off(server, clock)
        assert client.response().status == 504
        come_back(server, app)
        client.assert_closed()
        other = server.connect()
        for number in range(50):
            other.ask(get(f"/{number}"))
            if app.threads[f"/{number}"] == thread:
                break
        else:
            assert server.slot.threads <= 3


def test_the_iterable_of_a_request_that_was_given_up_is_closed(clock: FakeClock) -> None:
    gate = Gate()
    closed: list[bool] = []

    class Slow:
        def __iter__(self) -> Iterator[bytes]:
            gate.pass_through("/slow")
            yield b"too late"

        def close(self) -> None:
            closed.append(True)

    class App(Echo):
        def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [])
            return Slow()

    app = App(gate=gate)
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app)
        written_off(server, clock)
        assert client.response().status == 504
        come_back(server, app)
        assert closed == [True]


def test_a_response_that_has_begun_is_not_taken_away(clock: FakeClock) -> None:
    gate = Gate()

    class App(Echo):
        def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [("Content-Length", "8")])
            yield b"half"
            gate.pass_through("")
            yield b"half"

    app = App(gate=gate)
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app)
        client.head()
        assert client.read(4) == b"half"
        server.pass_time(clock, REQUEST_S * 10)
        for _ in range(3):
            server.until_next_round()
        gate.open()
        assert client.read(4) == b"half"
        assert server.slot.incidents == {}


def test_hints_do_not_buy_time(clock: FakeClock) -> None:
    class App(Echo):
        def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            environ["wsgi.early_hints"]([("Link", "</a>")])
            return super().__call__(environ, start_response)

    app = App()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app)
        assert client.head().status == 103
        written_off(server, clock)
        assert client.response().status == 504
        client.assert_closed()
        come_back(server, app)


def test_the_answer_to_head_has_no_content(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app, get("/wait").replace(b"GET", b"HEAD"))
        written_off(server, clock)
        assert client.head().status == 504
        client.assert_closed()
        come_back(server, app)


def test_what_was_pipelined_behind_it_is_not_answered(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app, get("/wait") + get("/behind"))
        written_off(server, clock)
        assert client.response().status == 504
        client.assert_closed()
        come_back(server, app)
        assert "/behind" not in app.threads


def test_a_client_that_has_left_meanwhile_costs_nothing(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app)
        client.reset()
        written_off(server, clock)
        server.until_connections(0)
        come_back(server, app)
        assert server.connect().ask().status == 200


@pytest.mark.parametrize("size", [10, 100_000])
def test_its_body_is_given_back(clock: FakeClock, size: int) -> None:
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app, post("/wait", b"x" * size))
        written_off(server, clock)
        assert client.response().status == 504
        assert server.server.store.used == 0
        come_back(server, app)
        assert server.server.store.used == 0


def test_a_request_that_lost_the_baton_can_be_given_up_too(clock: FakeClock) -> None:
    app = Echo()
    settings = limited(request_s=REQUEST_S)
    with worker(app, settings, clock_ns=clock, sentinel=False) as server:
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.take_baton()
        written_off(server, clock)
        assert client.response().status == 504
        assert server.connect().ask().status == 200
        come_back(server, app)
        assert server.connect().ask().status == 200


def test_many_stuck_threads_are_replaced_and_counted(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S, threads=2), clock_ns=clock) as server:
        for round_ in range(3):
            clients = [stuck(server, app) for _ in range(2)]
            written_off(server, clock, 2 * round_ + 2)
            for client in clients:
                assert client.response().status == 504
        assert server.slot.busy_count == 0
        assert server.connect().ask().status == 200
        come_back(server, app, 6)
        assert server.slot.incidents == {"REQUEST_TIMEOUT": 6}


def test_a_worker_that_leaves_does_not_wait_for_stuck_threads(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(os, "_exit", ended.put)
    app = Echo()
    with worker(app, limited(request_s=REQUEST_S), clock_ns=clock) as server:
        client = stuck(server, app)
        written_off(server, clock)
        assert client.response().status == 504
        client.close()
        server.until_connections(0)
        server.slot.linger = 0.0
        server.order(Order.STOP)
        server.slot.until(lambda: "exiting" in server.slot.states)
        # With its threads, which nobody can end in another way.
        assert ended.get(timeout=BOUND_S) == 0
        app.gate.open()


# -- requests that wait too long for a thread ---------------------------------------------------


@pytest.fixture
def crowded(clock: FakeClock, log: IO[str]) -> Iterator[tuple[WorkerInThread, Echo, list[Client]]]:
    """A worker whose one thread is busy, and three clients that were there before."""
    app = Echo()
    settings = limited(queue_s=QUEUE_S)
    with worker(app, settings, clock_ns=clock, access_log_fd=log.fileno()) as server:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            assert client.ask(get("/before")).status == 200
        busy = stuck(server, app)
        yield server, app, [busy, *clients]


Crowd = tuple[WorkerInThread, Echo, list[Client]]


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_who_waits_too_long_for_a_thread_is_told_to_come_again(
    crowded: Crowd, clock: FakeClock, log: IO[str], read: bool
) -> None:
    server, app, (busy, client, *_) = crowded
    if read:
        # Its head has begun, so the rest is read although there is no thread.
        server.use_pool()
        begin_head(server, client)
        client.send(GET[10:])
    else:
        client.send(GET)
    server.until_waiting(1)
    server.pass_time(clock, QUEUE_S - 0.3)
    client.assert_silent(0.05)
    server.pass_time(clock, 0.6)
    answer = client.response()
    assert (answer.status, answer.fields["retry-after"]) == (503, "1")
    assert answer.fields["connection"] == "close"
    client.assert_closed()
    server.until_waiting(0)
    assert server.slot.incidents == {"QUEUE_TIMEOUT": 1}
    assert server.slot.begun_count == 4, "it was run all the same"
    app.gate.open()
    assert busy.response().status == 200
    assert lines(server, log)[3] == ("GET / HTTP/1.1  503" if read else "-  503")


def begin_head(server: WorkerInThread, client: Client) -> None:
    """Send a part of a head, while there is a thread, and have it read."""
    before = [stream for stream in server.server.streams.values() if stream.at_rest]
    server.server.max_threads = 2  # a thread is free for a moment
    client.send(GET[:10])
    for _ in range(10_000):
        if not all(stream.at_rest for stream in before):
            break
        server.until_next_round()
    server.server.max_threads = 1


def test_who_gets_a_thread_in_time_has_all_the_time_it_had_before(
    crowded: Crowd, clock: FakeClock
) -> None:
    server, app, (busy, first, second, _) = crowded
    first.send(get("/wait/first"))
    server.until_waiting(1)
    server.pass_time(clock, QUEUE_S / 2)
    second.send(get("/second"))
    server.until_waiting(2)
    app.gate.open()
    assert busy.response().status == 200
    assert app.gate.entered() == "/wait/first"
    server.pass_time(clock, QUEUE_S / 3)
    server.until_next_round()
    app.gate.open()
    assert first.response().text == "app /wait/first "
    assert second.response().text == "app /second "
    server.until_at_rest()
    for _ in range(5):  # it was only the waiting that was bounded
        server.pass_time(clock, QUEUE_S * 2)
        server.until_next_round()
    for client in (busy, first, second):
        assert client.ask().status == 200
    assert "QUEUE_TIMEOUT" not in server.slot.incidents


def test_those_who_came_later_wait_on_when_one_gives_up(crowded: Crowd, clock: FakeClock) -> None:
    server, app, (busy, first, second, third) = crowded
    for number, client in enumerate((first, second, third)):
        client.send(get(f"/{number}"))
        server.until_waiting(number + 1)
        server.pass_time(clock, QUEUE_S / 3)
    server.pass_time(clock, 0.3)
    assert first.response().status == 503
    server.until_waiting(2)
    app.gate.open()
    assert second.response().text == "app /1 "
    assert third.response().text == "app /2 "
    assert busy.response().status == 200


def test_a_client_that_leaves_while_it_waits_is_no_timeout(
    crowded: Crowd, clock: FakeClock
) -> None:
    server, app, (busy, client, *_) = crowded
    client.send(GET)
    server.until_waiting(1)
    client.reset()
    server.pass_time(clock, QUEUE_S + 0.3)
    server.until_waiting(0)
    server.until_connections(3)
    app.gate.open()
    assert busy.response().status == 200


def test_a_request_that_runs_is_not_one_that_waits(crowded: Crowd, clock: FakeClock) -> None:
    server, app, (busy, *_) = crowded
    server.pass_time(clock, QUEUE_S * 10)
    server.until_next_round()
    app.gate.open()
    assert busy.response().status == 200


def test_without_the_option_a_request_waits_for_as_long_as_it_takes(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(), clock_ns=clock) as server:
        client = server.connect()
        client.ask()
        busy = stuck(server, app)
        client.send(GET)
        server.until_waiting(1)
        for _ in range(5):
            server.pass_time(clock, 10_000)
            server.until_next_round()
        app.gate.open()
        assert busy.response().status == 200
        assert client.response().status == 200


def test_what_has_waited_too_long_gives_its_memory_back(crowded: Crowd, clock: FakeClock) -> None:
    server, app, (busy, client, *_) = crowded
    server.server.max_threads = 2
    client.send(post("/", b"x" * 1000)[:-1])
    for _ in range(10_000):
        if server.server.store.used >= 999:
            break
        server.until_next_round()
    server.server.max_threads = 1
    client.send(b"x")
    server.until_waiting(1)
    assert server.server.store.used == 1000
    server.pass_time(clock, QUEUE_S + 0.3)
    assert client.response().status == 503
    assert server.server.store.used == 0
    app.gate.open()
    assert busy.response().status == 200
