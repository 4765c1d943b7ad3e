"""A worker whose application writes rubbish into the memory that all processes share."""

from __future__ import annotations

import contextlib
import json
import signal
import time

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, ServerProcess, ask

LIMITS = ("--min-workers", "3", "--max-workers", "3", "--max-threads", "4")
SCRIBBLED_S = 2.0
# What a worker may claim at the most, see WorkerHandle: a million requests a second.
MOST_PER_S = 1_000_000


def scribble(server: ServerProcess, what: str) -> int:
    """Have one worker begin; return its process id."""
    connection = server.connection()
    try:
        return int(json.loads(ask(connection, f"/scribble?{what}").body)["pid"])
    finally:
        connection.close()


def all_workers(server: ServerProcess) -> set[int]:
    """Wait until all are ready; return their process ids."""
    status = server.eventually(lambda s: s["idle"] == 3)
    return {worker["pid"] for worker in status["workers"]}


def render(server: ServerProcess) -> str:
    """Return the readout as people see it."""
    shown = server.command("status", "--pid", str(server.pid_file))
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def assert_only_it_was_hurt(
    server: ServerProcess, clients: KeepAliveClients, before: set[int], hostile: int
) -> None:
    """All other workers are there, and have lost nobody."""
    assert before - {hostile} <= set(server.group()), server.report()
    for ending in (*clients.failures, *clients.closings):
        assert ending.worker in (hostile, None), ending


def assert_reloads_and_stops(server: ServerProcess, clients: KeepAliveClients) -> None:
    """As if nothing had been."""
    server.send(signal.SIGHUP)
    server.wait_for_log("reload complete")
    clients.wait_for(30)
    clients.finish()
    status = server.eventually(lambda s: s["reload"] == "idle" and s["total"] == s["idle"] == 3)
    assert {worker["generation"] for worker in status["workers"]} == {2}
    assert "Traceback" not in server.log()
    assert server.stop() == 0


def test_rubbish_in_its_own_row_harms_nobody_but_the_worker(serve: Serve) -> None:
    server = serve("scribbler:app", *LIMITS, chdir=APPS, environ={"SEED": "7"})
    workers = all_workers(server)
    hostile = scribble(server, "row")
    began_s = time.monotonic()
    with KeepAliveClients(server.address, 9, "/whoami", pause_s=0.01) as clients:
        while time.monotonic() - began_s < SCRIBBLED_S:
            clients.wait_for(30)
            status = server.status()
            assert status["requests"] <= MOST_PER_S * (2 + time.monotonic() - began_s)
            assert "Total" in render(server)
        assert_only_it_was_hurt(server, clients, workers, hostile)
        assert_reloads_and_stops(server, clients)


@pytest.mark.parametrize("what", ["rows", "header", "all"])
def test_who_writes_where_others_do_ends_itself_and_nobody_else(serve: Serve, what: str) -> None:
    server = serve("scribbler:app", *LIMITS, chdir=APPS)
    workers = all_workers(server)
    with KeepAliveClients(server.address, 9, "/whoami", pause_s=0.01) as clients:
        clients.wait_for(30)
        with contextlib.suppress(ConnectionError):
            scribble(server, what)
        server.wait_for_log("killed by SIGSEGV")
        server.eventually(lambda s: s["restarts"] == 1 and s["busy"] + s["idle"] == 3)
        (hostile,) = workers - set(server.workers())
        clients.wait_for(30)
        assert_only_it_was_hurt(server, clients, workers, hostile)
        assert server.status()["total"] == 3
        assert_reloads_and_stops(server, clients)
