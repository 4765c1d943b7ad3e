"""SIGHUP: a new version takes over and no client notices but by what it is answered."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import Hold, ServerProcess

SOURCE = """
{first}
def app(environ, start_response):
    body = b"version {version}"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
HELD = 'with open({path!r}) as hold:\n    hold.read()\n'


def write(directory: Path, version: int, first: str = "") -> None:
    """Put a version of the application in place, whole or not at all."""
    new = directory / "versioned.py.new"
    new.write_text(SOURCE.format(version=version, first=first))
    os.replace(new, directory / "versioned.py")


@pytest.fixture(params=["preload", "no-preload"])
def server(serve: Serve, tmp_path: Path, request: pytest.FixtureRequest) -> ServerProcess:
    write(tmp_path, 1)
    how = [] if request.param == "preload" else ["--no-preload"]
    limits = ("--min-workers", "2", "--max-workers", "3")
    return serve("versioned:app", *limits, *how, chdir=tmp_path)


def served_by(server: ServerProcess, generation: int) -> None:
    """Wait until this generation, and no other, serves."""
    server.eventually(
        lambda s: (
            s["reload"] == "idle"
            and s["generation"] == generation
            and s["busy"] + s["idle"] >= 2
            and all(worker["generation"] == generation for worker in s["workers"])
        )
    )


def test_three_reloads_go_unnoticed_by_120_clients(server: ServerProcess, tmp_path: Path) -> None:
    workers = set(server.workers())
    with KeepAliveClients(server.address, 120, "/", pause_s=0.2) as clients:
        clients.wait_for(240)
        for version in (2, 3, 4):
            write(tmp_path, version)
            server.send(signal.SIGHUP)
            served_by(server, version)
            before = sum(clients.bodies.values()) - clients.bodies[f"version {version}"]
            clients.wait_for(240)
            after = sum(clients.bodies.values()) - clients.bodies[f"version {version}"]
            # An answer may still have been on its way when the last old worker left.
            assert after - before <= 120
        assert not workers & set(server.workers())
    assert clients.failures == []
    assert clients.closings == []
    assert (clients.announced, clients.opened) == (0, 120)
    assert set(clients.bodies) == {f"version {version}" for version in (1, 2, 3, 4)}
    status = server.eventually(lambda s: s["requests"] >= clients.answers)
    assert status["requests"] == clients.answers
    assert (status["restarts"], status["lost"], status["errors"]) == (0, 0, 0)
    assert server.get("/").text == "version 4"


def test_a_broken_version_leaves_the_old_one_serving(
    server: ServerProcess, tmp_path: Path
) -> None:
    with KeepAliveClients(server.address, 20, "/", pause_s=0.02) as clients:
        write(tmp_path, 2, first="raise LookupError('half a deployment')")
        server.send(signal.SIGHUP)
        server.wait_for_log("reload failed")
        served_by(server, 1)
        clients.wait_for(100)
        write(tmp_path, 3)
        server.send(signal.SIGHUP)
        server.eventually(lambda s: s["generation"] == 3 and s["reload"] == "idle")
        served_by(server, 3)
    assert clients.failures == clients.closings == []
    assert set(clients.bodies) <= {"version 1", "version 3"}
    log = server.log()
    assert "LookupError: half a deployment" in log
    assert "generation 1 goes on serving" in log
    assert server.get("/").text == "version 3"


def test_a_version_that_ends_its_process_leaves_the_old_one_serving(
    server: ServerProcess, tmp_path: Path
) -> None:
    write(tmp_path, 2, first="import os; os._exit(9)")
    server.send(signal.SIGHUP)
    server.wait_for_log("reload failed")
    served_by(server, 1)
    assert server.get("/").text == "version 1"
    write(tmp_path, 3)
    server.send(signal.SIGHUP)
    server.eventually(lambda s: s["generation"] == 3)
    served_by(server, 3)
    assert server.get("/").text == "version 3"


def test_a_reload_asked_for_during_a_reload_follows_it(
    server: ServerProcess, hold: Hold, tmp_path: Path
) -> None:
    write(tmp_path, 2, first=HELD.format(path=str(hold.path)))
    server.send(signal.SIGHUP)
    hold.wait()  # the import of version 2 stands still
    assert server.get("/").text == "version 1"
    write(tmp_path, 3)
    server.send(signal.SIGHUP)
    server.wait_for_log("another reload will follow")
    assert server.get("/").text == "version 1"
    hold.release()
    server.eventually(lambda s: s["generation"] == 3)
    served_by(server, 3)
    assert server.get("/").text == "version 3"


def test_a_stop_during_a_reload_stops(server: ServerProcess, hold: Hold, tmp_path: Path) -> None:
    write(tmp_path, 2, first=HELD.format(path=str(hold.path)))
    server.send(signal.SIGHUP)
    hold.wait()
    # Far less than the graceful timeout: who is only importing has nothing to finish.
    assert server.stop(within_s=10) == 0
