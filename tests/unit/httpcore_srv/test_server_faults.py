"""HTTPServer: faults of our own end the worker and are seen; what it knows of stuck threads."""

from __future__ import annotations

import os
import queue
import threading

import pytest

from httpcore_srv import HTTPServer, HTTPSettings, overseer
from tests.fakes.worker import BOUND_S, FakeLifeline, FakeSiblings, FakeSlot
from tests.unit.httpcore_srv.worker_in_thread import (
    Echo,
    get,
    listener_on_loopback,
    worker,
)


class Fault(Exception):
    """Something that cannot happen."""


def happen() -> bool:
    raise Fault("in the loop")


def test_a_fault_of_the_loop_ends_the_run() -> None:
    slot, lifeline, siblings, listener = (
        FakeSlot(),
        FakeLifeline(),
        FakeSiblings(),
        listener_on_loopback(),
    )
    server = HTTPServer([listener], Echo(), HTTPSettings(), slot, lifeline, siblings)
    try:
        server.loop.post(happen)
        with pytest.raises(Fault):
            server.run()
    finally:
        server.dispatcher.sentinel.stop()
        server.loop.close()
        for end in (lifeline, siblings, listener):
            end.close()


def test_a_fault_of_the_loop_on_another_thread_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The thread that called `run` serves the pool by then, and would wait for ever.
    ended: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    monkeypatch.setattr(
        os, "_exit", lambda status: ended.put((status, threading.current_thread().name))
    )
    app = Echo()
    with worker(app, sentinel=False) as server:
        client = server.connect()
        client.send(get("/wait"))
        app.gate.entered()
        server.take_baton()
        server.server.loop.post(happen)
        status, thread = ended.get(timeout=BOUND_S)
        app.gate.open()
        assert status == 1
        assert thread.startswith("smart-http-")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Fault)


def test_of_a_thread_that_has_ended_there_is_no_stack() -> None:
    assert overseer._application_stack(-1) == "  (it has ended)"


def test_of_a_thread_that_is_not_in_the_application_the_whole_stack_is_shown() -> None:
    stack = overseer._application_stack(threading.get_ident())
    assert "in test_of_a_thread_that_is_not_in_the_application" in stack
