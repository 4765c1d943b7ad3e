"""Workers are replaced by fresh ones, and no client notices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, ServerProcess, eventually

CLIENTS = 12
FEW = ("--min-workers", "2", "--max-workers", "2", "--max-threads", "2")


def nothing_was_lost(server: ServerProcess, clients: KeepAliveClients) -> None:
    """Not a request, not a connection, not a number; the server has come to rest."""
    assert clients.failures == [], server.report()
    assert clients.closings == [], server.report()
    assert clients.announced == 0
    assert clients.opened == clients.count
    status = server.eventually(lambda s: s["requests"] >= clients.answers)
    assert status["requests"] == clients.answers
    assert (status["restarts"], status["lost"], status["errors"]) == (0, 0, 0)


def retirements(server: ServerProcess) -> list[str]:
    """Return why workers were retired, of those decisions that are remembered."""
    decisions = server.status()["decisions"]
    return [d["why"] for d in decisions if d["what"].startswith("retire")]


def test_after_so_many_requests_a_fresh_worker_serves_the_same_connections(serve: Serve) -> None:
    server = serve("app:app", *FEW, "--max-requests", "200")
    first = set(server.workers())
    with KeepAliveClients(server.address, CLIENTS, pause_s=0.01) as clients:
        eventually(lambda: len(clients.workers) >= 8, hint=clients.report)
    nothing_was_lost(server, clients)
    # Nobody serves long beyond his time: only while the replacement comes up, and while
    # it is another one's turn.
    assert all(count >= 200 for pid, count in clients.workers.items() if pid in first)
    assert all("requests in slot" in why for why in retirements(server))
    server.eventually(lambda s: s["total"] == s["idle"] == 2)


def test_the_replacement_is_there_before_the_old_one_leaves(serve: Serve) -> None:
    server = serve("app:app", *FEW, "--max-requests", "100", "--max-requests-jitter", "50")
    seen: list[dict[str, Any]] = []
    with KeepAliveClients(server.address, CLIENTS, pause_s=0.01) as clients:
        while len(clients.workers) < 6:
            seen.append(server.status())
            assert len(seen) < 20_000, clients.report()
    nothing_was_lost(server, clients)
    for status in seen:
        assert status["busy"] + status["idle"] >= 2
        assert status["total"] <= 3
        assert status["kill_pending"] <= 1


def test_workers_are_replaced_when_they_are_old(serve: Serve) -> None:
    server = serve("app:app", *FEW, "--max-age", "1")
    with KeepAliveClients(server.address, CLIENTS, pause_s=0.02) as clients:
        eventually(lambda: len(clients.workers) >= 6, hint=clients.report)
    nothing_was_lost(server, clients)
    assert all("s of age in slot" in why for why in retirements(server))


def test_a_server_that_nobody_asks_replaces_its_workers_all_the_same(serve: Serve) -> None:
    server = serve("app:app", "--max-age", "1")
    first = server.workers()
    server.eventually(
        lambda s: s["idle"] == s["total"] == 1 and s["workers"][0]["pid"] not in first
    )
    assert server.get("/whoami").status == 200


def test_workers_that_grow_are_replaced_before_they_are_too_large(serve: Serve) -> None:
    server = serve("worked:app", *FEW, "--max-worker-memory", "100M", chdir=APPS)
    load = KeepAliveClients(server.address, 4, "/whoami/leak", pause_s=0.02)
    with load as clients:
        eventually(lambda: len(clients.workers) >= 4, within_s=60, hint=clients.report)
    nothing_was_lost(server, clients)
    reasons = retirements(server)
    assert reasons
    assert all("MB of memory in slot" in why for why in reasons)


@pytest.mark.parametrize("options", [(), ("--max-requests", "0", "--max-age", "0")])
def test_unless_somebody_asks_for_it_nobody_is_replaced(
    serve: Serve, options: tuple[str, ...]
) -> None:
    server = serve("app:app", *FEW, *options)
    first = sorted(server.workers())
    with KeepAliveClients(server.address, CLIENTS, pause_s=0.0) as clients:
        clients.wait_for(1500)
    assert clients.failures == []
    assert sorted(server.workers()) == first
    assert retirements(server) == []


def test_the_readout_says_what_was_decided_and_why(serve: Serve) -> None:
    server = serve("app:app", *FEW, "--max-requests", "10")
    with KeepAliveClients(server.address, 2, pause_s=0.01) as clients:
        eventually(lambda: len(clients.workers) >= 4, hint=clients.report)
    answer = server.command("status", "--json", "--pid", str(server.pid_file))
    assert answer.returncode == 0, answer.stderr
    decisions = json.loads(answer.stdout)["decisions"]
    assert [d["at"] for d in decisions] == sorted(d["at"] for d in decisions)
    assert decisions[0]["what"] == "spawn 2"
    assert decisions[0]["why"] == "0 of at least 2 are there"
    for decision in decisions:
        assert set(decision) == {"at", "what", "why", "total", "wanted"}
        assert decision["why"]
    table = server.command("status", "--pid", str(server.pid_file))
    assert "last decisions" in table.stdout
    assert decisions[-1]["why"] in table.stdout
    log = server.log()
    assert all(f"{d['what']}: {d['why']}" in log for d in decisions)


def test_workers_that_would_take_more_memory_than_there_may_be_do_not_come(serve: Serve) -> None:
    # Less than any worker takes: beyond the minimum none may come, whatever waits.
    limits = ("--min-workers", "1", "--max-workers", "4", "--max-threads", "2")
    server = serve("app:app", *limits, "--memory-limit", "1m")
    with KeepAliveClients(server.address, CLIENTS, "/sleep?ms=50", pause_s=0.0) as clients:
        for _ in range(8):
            clients.wait_for(20)
            assert server.status()["total"] == 1
    assert clients.failures == []
    assert clients.closings == []


def test_workers_that_are_killed_meanwhile_are_replaced_and_the_others_have_their_turn(
    serve: Serve,
) -> None:
    server = serve("app:app", *FEW, "--max-requests", "50")
    with KeepAliveClients(server.address, CLIENTS, pause_s=0.01) as clients:
        for _ in range(5):
            clients.wait_for(150)
            victim = server.workers()[0]
            with contextlib.suppress(ProcessLookupError):  # it has left already
                os.kill(victim, signal.SIGKILL)
            eventually(lambda: victim not in server.workers(), hint=server.report)  # noqa: B023
        clients.wait_for(20 * CLIENTS)  # each has noticed by now what the last one took with it
        lost = len(clients.failures) + len(clients.closings)
        seen = len(clients.workers)
        eventually(lambda: len(clients.workers) >= seen + 4, hint=clients.report)
        assert len(clients.failures) + len(clients.closings) == lost, clients.report()
    status = server.eventually(lambda s: s["total"] == s["idle"] == 2)
    assert status["restarts"] <= 5
