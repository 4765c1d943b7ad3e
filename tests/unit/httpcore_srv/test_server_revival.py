"""A worker that is told to leave, and is wanted again while it is at any step of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from httpcore_srv.door import Door
from httpcore_srv.ports import Order
from httpcore_srv.stream import Stream
from tests.unit.httpcore_srv.worker_in_thread import (
    Client,
    Echo,
    Gate,
    WorkerInThread,
    get,
    siblings,
)

KEPT = 6


def once(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, count: int, act: Callable[[], None]
) -> None:
    """Act once, just after the `count`th call of a method."""
    original = getattr(owner, name)
    calls = 0

    def watched(*args: Any, **more: Any) -> Any:
        nonlocal calls
        result = original(*args, **more)
        calls += 1
        if calls == count:
            act()
        return result

    monkeypatch.setattr(owner, name, watched)


def kept(server: WorkerInThread, count: int) -> list[Client]:
    """Return clients that the worker has served and whose connections it keeps."""
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        assert client.ask().text == "a / "
    return clients


def owner_of(step: str, server: WorkerInThread) -> object:
    """Return whose method a step is."""
    return {
        "draining": server.slot,
        "parcel": Stream,
        "unwatch": Stream,
        "send": server.siblings,
        "stop_listening": Door,
        "exiting": server.slot,
        "receive": server.siblings,
    }[step]


@pytest.mark.parametrize(
    ("step", "count"),
    [
        ("draining", 1),  # it moves them all before it looks again
        ("parcel", 1),
        ("unwatch", 3),
        ("send", 1),
        ("send", KEPT),
        ("stop_listening", 1),
        ("exiting", 1),
        ("receive", 1),  # in the last look: the inbox is empty
    ],
)
def test_a_worker_that_is_wanted_again_at_any_step_stays_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, step: str, count: int
) -> None:
    with siblings() as (a, b):
        clients = kept(a, KEPT)
        once(monkeypatch, owner_of(step, a), step, count, lambda: a.order(Order.RUN))
        a.order(Order.DRAIN)
        a.slot.until(lambda: len(a.slot.states) > 2 and a.slot.states[-1] == "ready")
        monkeypatch.undo()
        for client in clients:
            assert client.ask().text == "b / "
        b.until_connections(KEPT)
        fresh = a.connect()
        assert fresh.ask().text == "a / "
        # And it still knows how to leave.
        a.order(Order.DRAIN)
        a.until_left()
        assert fresh.ask().text == "b / "


def test_a_worker_that_is_wanted_again_while_a_request_runs_keeps_its_connection() -> None:
    gate = Gate()
    with siblings(lambda name: Echo(name, gate)) as (a, _):
        client = a.connect()
        client.send(get("/wait"))
        gate.entered()
        a.order(Order.DRAIN)
        a.slot.until(lambda: a.slot.states[-1] == "draining")
        a.order(Order.RUN)
        a.slot.until(lambda: a.slot.states[-1] == "ready")
        gate.open()
        assert client.response().text == "a /wait "
        assert client.ask().text == "a / "


def test_a_worker_that_is_wanted_again_when_it_has_ended_its_loop_leaves_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with siblings() as (a, _):
        clients = kept(a, KEPT)
        once(monkeypatch, a.server.loop, "stop", 1, lambda: a.order(Order.RUN))
        a.order(Order.DRAIN)
        a.until_left()
        # So the manager knows that it cannot be taken back.
        assert a.slot.states == ["ready", "draining", "exiting"]
        for client in clients:
            assert client.ask().text == "b / "
