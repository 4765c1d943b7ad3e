"""What a worker calls before its exit: once, after its last request, by whoever can."""

from __future__ import annotations

import threading

import pytest

from httpcore_srv.ports import Order
from tests.fakes.worker import BOUND_S
from tests.unit.httpcore_srv.worker_in_thread import Echo, get, worker


class Farewell:
    """What is called; it may be held."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self) -> None:
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        assert self.may_end.wait(BOUND_S), "nobody let it end"


@pytest.mark.parametrize("order", [Order.DRAIN, Order.STOP])
def test_it_is_called_once_by_the_main_thread_after_the_last_request(order: Order) -> None:
    farewell, app = Farewell(), Echo()
    with worker(app, before_exit=farewell) as server:
        server.slot.linger = 0.0
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.order(order)
        server.slot.until(lambda: "draining" in server.slot.states)
        assert not farewell.begun.is_set()
        app.gate.open()
        assert client.response().status == 200
        client.close()
        server.until_left()
    assert farewell.threads == ["worker"]


def test_another_thread_calls_it_if_the_main_thread_is_in_a_request() -> None:
    farewell, app = Farewell(), Echo()
    with worker(app, before_exit=farewell, sentinel=False) as server:
        server.connect().send(get("/wait"))
        app.gate.entered()
        assert app.threads["/wait"] == "worker"
        server.take_baton()
        server.order(Order.NOW)
        assert farewell.begun.wait(BOUND_S)
        app.gate.open()
        server.until_left()
    assert len(farewell.threads) == 1
    assert farewell.threads != ["worker"]


def test_the_main_thread_does_not_leave_while_another_one_calls_it() -> None:
    farewell, app = Farewell(), Echo()
    farewell.may_end.clear()
    with worker(app, before_exit=farewell, sentinel=False) as server:
        server.connect().send(get("/wait"))
        app.gate.entered()
        server.take_baton()
        server.order(Order.NOW)
        assert farewell.begun.wait(BOUND_S)
        app.gate.open()
        assert not server._left.wait(0.3)
        farewell.may_end.set()
        server.until_left()
    assert len(farewell.threads) == 1
