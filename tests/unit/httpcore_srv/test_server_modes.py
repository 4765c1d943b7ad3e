"""HTTPServer: which thread runs what, who waits for a thread, and what is counted."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable

import pytest

from httpcore_srv import HTTPSettings, ThreadPool
from httpcore_srv import sentinel as sentinel_module
from httpcore_srv.dispatcher import Dispatcher
from httpcore_srv.event_loop import EventLoop
from httpcore_srv.experience import QUICK_RUN
from httpcore_srv.stream import PIPELINE_RUN
from httpcore_srv.wsgi import Environ, StartResponse
from tests.fakes.worker import BOUND_S, FakeClock, FakeSlot
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Echo,
    WorkerInThread,
    get,
    running,
    worker,
)

ONE_THREAD = HTTPSettings(max_threads=1)


class Ticking(Echo):
    """An Echo whose requests to /wait take more than a millisecond of a clock that stands."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/wait"):
            self._clock.advance(0.002)
        return super().__call__(environ, start_response)


def blocked(server: WorkerInThread, app: Echo, path: str = "/wait") -> Client:
    """Return a client whose request is held at the gate, on a thread that does not lead."""
    client = server.connect()
    client.send(get(path))
    assert app.gate.entered() == path
    server.slot.until(lambda: server.server.pool.busy >= 1)
    return client


def taken_over(server: WorkerInThread, app: Echo, path: str = "/wait") -> Client:
    """The same where the test is the sentinel."""
    client = server.connect()
    client.send(get(path))
    assert app.gate.entered() == path
    server.take_baton()
    return client


# -- inline, takeover, pool, and back ---------------------------------------------------------


def test_a_quick_application_runs_on_the_loops_own_thread() -> None:
    app = Echo()
    with worker(app, sentinel=False) as server, server.connect() as client:
        for number in range(20):
            client.ask(get(f"/{number}"))
        server.until_at_rest()
        assert set(app.threads.values()) == {server.name}
        assert (server.slot.begun_count, server.slot.inline_count) == (20, 20)
        assert server.slot.threads == 1


def test_another_thread_leads_while_a_request_blocks() -> None:
    app = Echo()
    with worker(app) as server:
        first = server.connect()
        first.send(get("/wait"))
        app.gate.entered()
        with server.connect() as other:
            for number in range(20):
                assert other.ask(get(f"/{number}")).status == 200
        assert app.threads.pop("/wait") == server.name
        assert server.name not in app.threads.values()
        app.gate.open()
        assert first.response().text == "app /wait "


def test_the_connection_of_a_request_that_lost_the_baton_is_kept() -> None:
    app = Echo()
    with worker(app) as server:
        client = blocked(server, app)
        app.gate.open()
        assert client.response().status == 200
        for _ in range(3):
            assert client.ask().status == 200


def test_after_a_takeover_requests_go_through_the_pool() -> None:
    app = Echo()
    with worker(app, sentinel=False) as server:
        client = taken_over(server, app)
        app.gate.open()
        client.response()
        client.ask(get("/pooled"))
        server.until_at_rest()
        assert (server.slot.inline_count, server.slot.pooled_count) == (0, 2)


def test_a_run_of_quick_requests_brings_inline_running_back() -> None:
    clock = FakeClock()
    app = Ticking(clock)
    with worker(app, sentinel=False, clock_ns=clock) as server:
        client = taken_over(server, app)
        app.gate.open()
        client.response()
        for _ in range(QUICK_RUN):
            server.until_at_rest()
            assert not server.server.dispatcher.inline
            client.ask()
        server.until_at_rest()
        client.ask(get("/inline"))
        server.until_at_rest()
        assert (server.slot.inline_count, server.slot.pooled_count) == (1, QUICK_RUN + 1)


def test_a_slow_request_begins_the_run_of_quick_ones_anew() -> None:
    clock = FakeClock()
    app = Ticking(clock)
    with worker(app, sentinel=False, clock_ns=clock) as server:
        client = taken_over(server, app)
        app.gate.open(2)
        client.response()
        for path in ["/"] * (QUICK_RUN - 1) + ["/wait/2"] + ["/"] * (QUICK_RUN - 1):
            client.ask(get(path))
            server.until_at_rest()
        assert not server.server.dispatcher.inline


def test_quick_requests_run_inline_beside_slow_ones_of_another_path() -> None:
    clock = FakeClock()
    app = Ticking(clock)
    with worker(app, sentinel=False, clock_ns=clock) as server:
        client = taken_over(server, app)
        app.gate.open(12)
        client.response()
        for number in range(QUICK_RUN):
            client.ask(get("/"))
            if number % 100 == 50:
                client.ask(get(f"/wait?{number}"))
            server.until_at_rest()
        assert server.server.dispatcher.inline
        pooled = server.slot.pooled_count
        for _ in range(5):
            client.ask(get("/"))
            client.ask(get("/wait"))
            server.until_at_rest()
        assert (server.slot.inline_count, server.slot.pooled_count) == (5, pooled + 5)


def test_the_baton_may_be_lost_again_and_again() -> None:
    app = Echo()
    with worker(app, sentinel=False) as server:
        for number in range(10):
            client = taken_over(server, app, f"/wait/{number}")
            server.server.dispatcher.inline = True
            assert server.connect().ask().status == 200
            app.gate.open()
            assert client.response().status == 200
            server.until_at_rest()
            server.server.dispatcher.inline = True
        assert server.slot.threads <= 3


def test_requests_that_lost_the_baton_may_end_in_any_order() -> None:
    app = Echo()
    with worker(app, sentinel=False) as server:
        clients = []
        for number in range(4):
            server.server.dispatcher.inline = True
            clients.append(taken_over(server, app, f"/wait/{number}"))
        app.gate.open(4)
        for client in clients:
            assert client.response().status == 200
            assert client.ask().status == 200
        server.until_at_rest()
        assert server.slot.begun_count == server.slot.pooled_count + server.slot.inline_count == 8


# -- the limit of threads, and those who wait -------------------------------------------------


def test_never_more_than_max_threads_are_in_the_application() -> None:
    app = Echo()
    with worker(app, HTTPSettings(max_threads=3)) as server:
        clients = [server.connect() for _ in range(10)]
        server.until_connections(10)
        for number, client in enumerate(clients):
            client.send(get(f"/wait/{number}"))
        for _ in range(3):
            app.gate.entered()
        server.until_waiting(7)
        assert app.gate.nobody_else()
        assert server.slot.busy_count == 3
        for _ in range(7):
            app.gate.open()
            app.gate.entered()
            assert app.gate.nobody_else()
        app.gate.open(3)
        for number, client in enumerate(clients):
            assert client.response().text == f"app /wait/{number} "
        server.until_waiting(0)


def test_those_who_wait_for_a_thread_are_served_in_their_order() -> None:
    app = Echo()
    with worker(app, ONE_THREAD) as server:
        clients = [server.connect() for _ in range(6)]
        for client in clients:
            client.ask()
        for number, client in enumerate(clients):
            client.send(get(f"/wait/{number}"))
            if number == 0:
                app.gate.entered()
            server.until_waiting(number)
        for number in range(1, 6):
            app.gate.open()
            assert app.gate.entered() == f"/wait/{number}"
        app.gate.open()
        for client in clients:
            assert client.response().status == 200


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_more_clients_than_threads_are_all_answered(threads: int) -> None:
    app = Echo()
    with worker(app, HTTPSettings(max_threads=threads)) as server:
        clients = [server.connect() for _ in range(40)]
        for number, client in enumerate(clients):
            client.send(get(f"/wait/{number}") + get("/next"))
        app.gate.open(40)
        for number, client in enumerate(clients):
            assert client.response().text == f"app /wait/{number} "
            assert client.response().text == "app /next "


def test_a_worker_without_a_free_thread_accepts_nothing_until_one_is_free() -> None:
    app = Echo()
    with worker(app, ONE_THREAD) as server:
        first = blocked(server, app)
        server.until_next_round()
        with server.connect() as late:
            late.send(GET)
            for _ in range(3):
                server.until_next_round()
            assert server.slot.connections == 1
            app.gate.open()
            assert late.response().status == 200
        assert first.response().status == 200


def test_the_manager_is_woken_when_no_thread_is_free() -> None:
    app = Echo()
    with worker(app, ONE_THREAD) as server:
        client = blocked(server, app)
        server.lifeline.manager.settimeout(20)
        assert server.lifeline.manager.recv(1)
        app.gate.open()
        assert client.response().status == 200


def test_idle_threads_leave() -> None:
    app = Echo()
    with worker(app, HTTPSettings(max_threads=8, thread_idle_s=0.05)) as server:
        clients = [server.connect() for _ in range(8)]
        for client in clients:
            client.send(get("/wait"))
        for _ in clients:
            app.gate.entered()
        server.slot.until(lambda: server.slot.threads >= 9)
        app.gate.open(8)
        for client in clients:
            assert client.response().status == 200
        server.slot.until(lambda: server.slot.threads <= 2)  # the leader and the minimum
        assert clients[0].ask().status == 200


# -- what is counted --------------------------------------------------------------------------


def test_the_counters_add_up() -> None:
    def mixed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        number = int(environ["PATH_INFO"][1:])
        if number % 10 == 3:
            time.sleep(0.003)  # slow, as far as the sentinel is concerned
        if number % 10 == 7:
            raise ValueError(number)
        start_response("200 OK", [])
        return [b"x"]

    def ask_all(thread: int) -> None:
        for number in range(60):
            with server.connect() as client:
                statuses.append(client.ask(get(f"/{number}")).status)

    statuses: list[int] = []
    with worker(mixed, HTTPSettings(max_threads=3)) as server:
        threads = [threading.Thread(target=ask_all, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        server.until_at_rest()
        server.until_connections(0)
        slot = server.slot
        server.slot.until(lambda: slot.busy_count == 0)
        assert Counter(statuses) == {200: 8 * 54, 500: 8 * 6}
        assert slot.begun_count == slot.inline_count + slot.pooled_count == 480
        assert slot.errors == 48
        assert len(slot.durations_ns) == 480
        slot.until(lambda: slot.moves == (480, 0, 0))


@pytest.mark.parametrize("clients", [1, 20])
def test_keep_alive_clients_lose_nothing_in_a_mix_of_quick_and_slow(clients: int) -> None:
    def mixed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].endswith("9"):
            time.sleep(0.003)
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    def ask_all(thread: int) -> None:
        with server.connect() as client:
            for number in range(600 // clients):
                path = f"/{thread}/{number}"
                answers.append(client.ask(get(path)).text == path)

    answers: list[bool] = []
    with worker(mixed, HTTPSettings(max_threads=4)) as server:
        threads = [threading.Thread(target=ask_all, args=(n,)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(answers) == 600
        assert all(answers)


# -- events while a request runs --------------------------------------------------------------


@pytest.mark.parametrize("what", ["data", "half close", "close", "reset"])
def test_what_happens_on_the_connection_of_a_running_request_does_not_make_the_loop_spin(
    what: str,
) -> None:
    app = Echo()
    with worker(app) as server:
        client = blocked(server, app)
        rounds = server.slot.rounds
        if what == "data":
            for byte in get("/next"):
                client.send(bytes([byte]))
        else:
            getattr(client, what.replace(" ", "_"))()
        bystander = server.connect()
        for _ in range(5):
            bystander.ask()
        bystander.assert_silent(0.3)
        assert server.slot.rounds - rounds < 60
        app.gate.open()
        if what in ("data", "half close"):
            assert client.response().text == "app /wait "
        if what == "data":
            assert client.response().text == "app /next "
            assert client.ask().status == 200
        else:
            server.until_connections(1)


def test_a_busy_worker_with_connections_waiting_does_not_spin() -> None:
    app = Echo()
    with worker(app, ONE_THREAD) as server:
        waiting = [server.connect() for _ in range(5)]
        for client in waiting:
            client.ask()
        first = blocked(server, app)
        for client in waiting:
            client.send(GET)
        server.until_waiting(5)
        rounds = server.slot.rounds
        first.assert_silent(0.3)
        # It looks for a free sibling every 10 ms, and that is all.
        assert server.slot.rounds - rounds < 60
        app.gate.open()
        for client in (first, *waiting):
            assert client.response().status == 200


# -- what once went wrong ---------------------------------------------------------------------


def test_a_client_that_pipelines_slow_requests_does_not_starve_those_who_wait() -> None:
    app = Echo()
    with worker(app, ONE_THREAD) as server:
        other = server.connect()
        other.ask()
        greedy = server.connect()
        greedy.send(b"".join(get(f"/wait/{number}") for number in range(5)))
        order = [app.gate.entered()]
        other.send(get("/wait/other"))
        server.until_waiting(1)
        for _ in range(5):
            app.gate.open()
            order.append(app.gate.entered())
        app.gate.open()
        assert other.response().status == 200
        assert "/wait/other" in order[:3]


def test_a_client_that_asks_again_at_once_does_not_come_before_those_who_wait() -> None:
    looking, go_on = threading.Event(), threading.Event()

    def nobody_free(*_: object, **__: object) -> bool:
        """The loop asks this before each wait while something waits for a thread."""
        looking.set()
        assert go_on.wait(BOUND_S)
        return False

    app = Echo()
    read_end, log_end = os.pipe()
    with worker(app, ONE_THREAD, access_log_fd=log_end) as server, open(read_end) as log:
        quick, waiting = server.connect(), server.connect()
        waiting.ask()
        quick.send(get("/wait/1"))
        app.gate.entered()
        server.slot.until(lambda: server.server.pool.busy == 1)
        waiting.send(get("/wait/waiting"))
        server.until_waiting(1)
        server.siblings.send = nobody_free  # type: ignore[method-assign]
        assert looking.wait(BOUND_S)
        app.gate.open()
        quick.response()
        while "/wait/1" not in log.readline():  # written when its thread is free again
            pass
        quick.send(get("/wait/2"))
        go_on.set()
        try:
            assert app.gate.entered() == "/wait/waiting"
        finally:
            app.gate.open(2)
            assert waiting.response().status == 200
            assert quick.response().status == 200
    os.close(log_end)


def test_a_request_that_ends_just_as_the_baton_is_taken_is_counted() -> None:
    class Job:
        kind = 1
        handed_back = False

        def respond(self) -> bool:
            loop.baton.pop()  # the sentinel has it, and has come no further yet
            return False

        def responded(self) -> bool:
            raise AssertionError("the baton was lost")

        def send_held(self) -> bool:
            raise AssertionError("nothing is held")

        def stop_gathering(self) -> None:
            raise AssertionError("it runs inline")

        def hand_back(self) -> None:
            self.handed_back = True

    loop, job = EventLoop(), Job()
    try:
        pool = ThreadPool(1, 2, 1.0)
        dispatcher = Dispatcher(loop, pool, FakeSlot(), lambda: None, lambda: None)
        assert dispatcher.run(job)
        assert job.handed_back
    finally:
        loop.close()


def test_a_connection_whose_first_request_blocks_is_counted() -> None:
    app = Echo()
    server = WorkerInThread(app, sentinel=False)
    client = server.connect()  # before the worker, so that it finds the request at once
    client.send(get("/wait"))
    with running(server):
        app.gate.entered()
        server.take_baton()
        try:
            server.slot.until(lambda: server.slot.moves[0] == 1)
        finally:
            app.gate.open()
        assert client.response().status == 200


def test_the_sentinel_survives_a_lack_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(sentinel_module, "open", no_more_descriptors, raising=False)
    app = Echo()
    with worker(app) as server:
        blocked_one = server.connect()
        blocked_one.send(get("/wait"))
        app.gate.entered()
        with server.connect() as other:
            try:
                assert other.ask().status == 200
            finally:
                app.gate.open()
        assert blocked_one.response().status == 200


def test_clients_that_pipeline_without_end_leave_the_others_their_turn() -> None:
    clients_that_pipeline, requests_of_each = 10, 1280
    served: list[str] = []

    class Noting(Echo):
        def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            served.append(environ["PATH_INFO"])
            return super().__call__(environ, start_response)

    app = Noting()
    # Without a sentinel the loop stands still while a request is at the gate.
    with worker(app, sentinel=False) as server:
        holder, other = server.connect(), server.connect()
        clients = [server.connect() for _ in range(clients_that_pipeline)]
        for client in (holder, other, *clients):
            client.ask()
        server.until_at_rest()
        holder.send(get("/wait/holder"))
        app.gate.entered()
        for number, client in enumerate(clients):
            paths = ["/p"] * requests_of_each
            if number == 0:
                paths[3 * PIPELINE_RUN + 10] = "/wait/in-between"
            client.send(b"".join(map(get, paths)))
        app.gate.open()
        assert app.gate.entered() == "/wait/in-between"
        other.send(get("/other"))
        before = len(served)
        app.gate.open()
        for client in clients:
            for _ in range(requests_of_each):
                client.response()
        assert other.response().status == 200
        assert served.index("/other") - before <= 2 * clients_that_pipeline * PIPELINE_RUN
