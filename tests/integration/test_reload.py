"""SIGHUP: a new version takes over and no client notices but by what it is answered."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, Answer, Background, Hold, ServerProcess, ask

SOURCE = """
{first}
def app(environ, start_response):
    body = b"version {version}"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
HELD = "with open({path!r}) as hold:\n    hold.read()\n"


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


def test_a_broken_version_leaves_the_old_one_serving(server: ServerProcess, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--no-preload"],
    ],
    ids=["preload", "no-preload"],
)
def test_a_stop_during_a_reload_stops(
    serve: Serve, hold: Hold, tmp_path: Path, how: list[str]
) -> None:
    write(tmp_path, 1)
    server = serve("versioned:app", *how, chdir=tmp_path)
    write(tmp_path, 2, first=HELD.format(path=str(hold.path)))
    server.send(signal.SIGHUP)
    hold.wait()
    # Far less than the graceful timeout: who is only importing has nothing to finish.
    assert server.stop(within_s=6) == 0


def test_requests_that_a_reload_finds_half_way_are_completed(serve: Serve, hold: Hold) -> None:
    server = serve(
        "trouble:app", "--min-workers", "2", chdir=APPS, environ={"HOLD": str(hold.path)}
    )
    running = Background(server, "/hold")
    hold.wait()
    half_head, half_body, silent = (server.connect() for _ in range(3))
    try:
        half_head.sendall(b"GET /half-head HTTP/1.1\r\nHo")
        half_body.sendall(b"PUT /half-body HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab")
        server.eventually(lambda s: s["connections"] == 4)
        server.send(signal.SIGHUP)
        # The old worker is kept by the request that runs, and perhaps by the half body.
        server.eventually(lambda s: s["reload"] == "leaving" and s["kill_pending"] >= 1)
        # The new ones serve meanwhile.
        pids = [worker["pid"] for worker in server.status()["workers"] if worker["generation"] == 2]
        answer = server.get("/new")
        assert json.loads(answer.body)["pid"] in pids
        for sock, rest, path in (
            (half_head, b"st: test\r\n\r\n", b"/half-head"),
            (half_body, b"cd", b"/half-body"),
            (silent, b"GET /silent HTTP/1.1\r\nHost: test\r\n\r\n", b"/silent"),
        ):
            sock.sendall(rest)
            received = sock.recv(65536)
            assert received.startswith(b"HTTP/1.1 200 "), (path, received)
            assert path in received
        hold.release()
        assert isinstance(running.result(), Answer)
        served_by(server, 2)
        # The half body was finished by the old worker, and its connection was kept and moved.
        for sock in (half_head, half_body, silent):
            sock.sendall(b"GET /again HTTP/1.1\r\nHost: test\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    finally:
        for sock in (half_head, half_body, silent):
            sock.close()
    assert server.status()["lost"] == 0


def test_a_request_that_runs_too_long_is_cut_by_the_reload_after_its_grace(
    serve: Serve, hold: Hold
) -> None:
    environ = {"HOLD": str(hold.path)}
    server = serve("trouble:app", "--graceful-timeout", "0.5", chdir=APPS, environ=environ)
    running = Background(server, "/hold")
    hold.wait()
    server.send(signal.SIGHUP)
    server.eventually(lambda s: s["generation"] == 2 and s["reload"] == "idle")
    assert isinstance(running.result(), Exception)
    status = server.eventually(lambda s: s["total"] == 1 and s["idle"] == 1)
    assert (status["restarts"], status["lost"]) == (0, 1)


def test_a_stream_that_a_reload_finds_half_way_is_sent_to_its_end(serve: Serve) -> None:
    server = serve("app:app", "--min-workers", "2")
    connection = server.connection()
    try:
        connection.request("GET", "/stream?n=20&ms=50")
        response = connection.getresponse()
        assert response.read1(100) == b"piece 1 of 20\n"
        server.send(signal.SIGHUP)
        assert response.read().endswith(b"piece 20 of 20\n")
        server.eventually(lambda s: s["generation"] == 2 and s["reload"] == "idle")
        assert ask(connection, "/json").status == 200
    finally:
        connection.close()
