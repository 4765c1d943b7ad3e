"""Kept-alive connections come to the worker that has a core to spare."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, ServerProcess, eventually

CLIENTS = 8

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one core: no worker has another to spare"
)


def shifts(server: ServerProcess) -> list[dict[str, Any]]:
    decisions: list[dict[str, Any]] = server.status()["decisions"]
    return [d for d in decisions if d["what"].startswith("shift")]


@contextmanager
def computing(server: ServerProcess) -> Iterator[KeepAliveClients]:
    """Clients on one worker, each of which has its next request computed without a pause."""
    with KeepAliveClients(server.address, CLIENTS, "/whoami/compute", pause_s=0.0) as clients:
        eventually(lambda: clients.opened == CLIENTS, hint=clients.report)
        yield clients


def test_two_workers_share_what_one_had_accepted(serve: Serve) -> None:
    limits = ("--min-workers", "1", "--max-workers", "2", "--max-threads", "8")
    server = serve("worked:app", *limits, chdir=APPS)
    (first,) = server.workers()
    with computing(server) as clients:
        server.eventually(lambda s: s["total"] == 2 and s["starting"] == 0, within_s=60)
        (second,) = (pid for pid in server.workers() if pid != first)
        eventually(lambda: clients.workers[second] > 50, within_s=60, hint=clients.report)
        status = server.eventually(
            lambda s: all(w["connections"] > 0 for w in s["workers"] if w["state"] != "Starting"),
            within_s=60,
        )
        assert status["connections"] == CLIENTS
        made = shifts(server)
    assert made, server.report()
    assert all("core is full" in shift["why"] for shift in made)
    assert clients.failures == []
    assert clients.closings == []
    assert clients.announced == 0
    assert clients.opened == CLIENTS
    final = server.eventually(lambda s: s["requests"] >= clients.answers)
    assert final["requests"] == clients.answers
    assert final["handed_over"] > 0
    assert (final["restarts"], final["lost"], final["errors"]) == (0, 0, 0)


def test_clients_that_only_wait_are_not_moved(serve: Serve) -> None:
    limits = ("--min-workers", "2", "--max-workers", "2", "--max-threads", "16")
    server = serve("app:app", *limits)
    with KeepAliveClients(server.address, CLIENTS, "/sleep?ms=200", pause_s=0.0) as clients:
        clients.wait_for(120)
    assert clients.failures == []
    assert shifts(server) == []
