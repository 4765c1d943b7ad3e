"""A worker whose application writes rubbish into the memory that all processes share."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, ServerProcess, ask

LIMITS = ("--min-workers", "3", "--max-workers", "4", "--max-threads", "4")
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


def render(server: ServerProcess) -> str:
    """Return the readout as people see it."""
    shown = server.command("status", "--pid", str(server.pid_file))
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.parametrize("what", ["row", "rows", "header", "all"])
def test_rubbish_in_shared_memory_harms_nobody_but_who_writes_it(serve: Serve, what: str) -> None:
    server = serve("scribbler:app", *LIMITS, chdir=APPS, environ={"SEED": "7"})
    server.eventually(lambda s: s["idle"] == 3)
    began_s = time.monotonic()
    workers = set(server.workers())
    hostile = scribble(server, what)
    with KeepAliveClients(server.address, 9, "/whoami", pause_s=0.01) as clients:
        while time.monotonic() - began_s < SCRIBBLED_S:
            clients.wait_for(30)
            status = server.status()
            assert status["requests"] <= MOST_PER_S * (2 + time.monotonic() - began_s)
            assert "Total" in render(server)
        assert server.running
        # All of the others are there, and have lost nobody.
        alive = set(server.group())
        assert workers - {hostile} <= alive, server.report()
        for ending in (*clients.failures, *clients.closings):
            assert ending.worker in (hostile, None), ending
        server.send(signal.SIGHUP)
        server.wait_for_log("reload complete")
        clients.wait_for(30)
    status = server.eventually(lambda s: s["reload"] == "idle" and s["total"] == s["idle"] == 3)
    assert {worker["generation"] for worker in status["workers"]} == {2}
    assert "Traceback" not in server.log()
    assert server.stop() == 0
