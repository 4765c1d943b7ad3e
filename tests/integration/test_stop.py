"""SIGTERM and SIGINT: what has been begun is finished, what takes too long is not waited for."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import (
    APPS,
    Answer,
    Background,
    Hold,
    ServerProcess,
    ask,
    eventually,
)

# No graceful timeout of these tests is shorter, so an end within it is not the timeout's work.
SOON_S = 10


@pytest.fixture
def holding(serve: Serve, hold: Hold) -> ServerProcess:
    """A server with a request that stands still, in one of two workers."""
    limits = ("--min-workers", "2", "--max-workers", "2")
    return serve("trouble:app", *limits, chdir=APPS, environ={"HOLD": str(hold.path)})


@pytest.mark.parametrize("target", ["/json", "/sleep?ms=30"])
def test_no_request_on_the_wire_is_lost(serve: Serve, target: str) -> None:
    server = serve("app:app", "--min-workers", "2", "--max-workers", "4", "--max-threads", "8")
    with KeepAliveClients(server.address, 100, target, pause_s=0.05, reconnect=False) as clients:
        clients.wait_for(300)
        stopped_s = time.monotonic()
        assert server.stop(within_s=25) == 0
        clients.join()
    # Nobody got an error; each was told by `Connection: close`, or was closed while silent.
    lost = [ending for ending in clients.failures if ending.sent_s <= stopped_s]
    assert lost == [], clients.report()
    assert clients.failures == [], clients.report()
    assert clients.announced + len(clients.closings) == 100
    assert "have not finished in time" not in server.log()


def test_connections_in_the_accept_queue_are_answered(serve: Serve, hold: Hold) -> None:
    limits = ("--max-workers", "1", "--max-threads", "1")
    server = serve("trouble:app", *limits, chdir=APPS, environ={"HOLD": str(hold.path)})
    first = Background(server, "/hold")
    hold.wait()
    others = [Background(server, "/") for _ in range(5)]
    server.eventually(lambda s: s["waiting"] == 5)  # accepted or still in the queue
    server.send(signal.SIGTERM)
    server.wait_for_log("stopping gracefully")
    hold.release()
    for request in (first, *others):
        answer = request.result()
        assert isinstance(answer, Answer), answer
        assert answer.status == 200
    assert server.wait() == 0


def test_a_running_request_is_finished(holding: ServerProcess, hold: Hold) -> None:
    request = Background(holding, "/hold")
    hold.wait()
    holding.send(signal.SIGTERM)
    status = holding.eventually(lambda s: s["total"] == 1)  # the idle one has left
    assert status["kill_pending"] == 1
    hold.release()
    answer = request.result()
    assert isinstance(answer, Answer), answer
    assert answer.status == 200
    assert holding.wait() == 0


def test_the_answer_of_a_running_request_says_that_the_connection_ends(
    holding: ServerProcess, hold: Hold
) -> None:
    request = Background(holding, "/hold")
    hold.wait()
    holding.send(signal.SIGTERM)
    holding.eventually(lambda s: s["kill_pending"] == s["total"] == 1)
    hold.release()
    answer = request.result()
    assert isinstance(answer, Answer), answer
    assert answer.headers.get("connection") == "close"


def test_a_kept_connection_is_answered_until_it_has_been_told(holding: ServerProcess) -> None:
    connection = holding.connection()
    try:
        assert "connection" not in ask(connection, "/").headers
        holding.send(signal.SIGTERM)
        # The signal takes its way; whatever is sent before the client knows is answered.
        eventually(lambda: ask(connection, "/").headers.get("connection") == "close")
    finally:
        connection.close()
    assert holding.wait(SOON_S) == 0


def test_idle_connections_do_not_keep_it_from_ending(holding: ServerProcess) -> None:
    connections = [holding.connect() for _ in range(20)]
    try:
        holding.eventually(lambda s: s["connections"] == 20)
        assert holding.stop(within_s=SOON_S) == 0
        assert [connection.recv(100) for connection in connections] == [b""] * 20
    finally:
        for connection in connections:
            connection.close()


def test_a_half_sent_request_does_not_keep_it_from_ending(serve: Serve) -> None:
    server = serve("app:app", "--graceful-timeout", "2")
    with server.connect() as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nsm")
        server.eventually(lambda s: s["connections"] == 1)
        assert server.stop() == 0
        assert_ended(sock)


def test_a_half_sent_request_may_still_be_completed(serve: Serve) -> None:
    server = serve("app:app")
    with server.connect() as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nsm")
        server.eventually(lambda s: s["connections"] == 1)
        server.send(signal.SIGTERM)
        server.eventually(lambda s: s["kill_pending"] == 1)
        sock.sendall(b"all")
        received = b""
        while piece := sock.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in received
    assert server.wait(SOON_S) == 0


def test_a_second_signal_stops_at_once(holding: ServerProcess, hold: Hold) -> None:
    request = Background(holding, "/hold")
    hold.wait()
    holding.send(signal.SIGTERM)
    holding.eventually(lambda s: s["kill_pending"] == s["total"] == 1)
    assert holding.stop(within_s=SOON_S) == 0
    assert isinstance(request.result(), Exception)
    assert "stopping at once" in holding.log()


def test_a_request_is_not_waited_for_beyond_the_graceful_timeout(serve: Serve, hold: Hold) -> None:
    environ = {"HOLD": str(hold.path)}
    server = serve("trouble:app", "--graceful-timeout", "0.5", chdir=APPS, environ=environ)
    request = Background(server, "/hold")
    hold.wait()
    assert server.stop(within_s=SOON_S) == 0
    assert isinstance(request.result(), Exception)
    assert "in time" in server.log()


def test_a_stopped_worker_does_not_keep_it_from_ending(serve: Serve) -> None:
    limits = ("--min-workers", "2", "--graceful-timeout", "0.5")
    server = serve("app:app", *limits)
    os.kill(server.workers()[0], signal.SIGSTOP)
    assert server.stop(within_s=SOON_S) == 0
    assert not server.group()


@pytest.mark.parametrize("whole_group", [False, True], ids=["manager", "whole group"])
def test_ctrl_c_ends_an_idle_server_promptly(holding: ServerProcess, whole_group: bool) -> None:
    connection = holding.connection()
    try:
        assert ask(connection, "/").status == 200
        if whole_group:  # as a terminal does it
            os.killpg(holding.pid, signal.SIGINT)
            assert holding.wait(SOON_S) == 0
        else:
            assert holding.stop(signal.SIGINT, SOON_S) == 0
    finally:
        connection.close()
    assert "Traceback" not in holding.log()


def test_sigterm_to_the_whole_group_loses_nothing(holding: ServerProcess, hold: Hold) -> None:
    request = Background(holding, "/hold")
    hold.wait()
    os.killpg(holding.pid, signal.SIGTERM)
    holding.eventually(lambda s: s["kill_pending"] == s["total"] == 1)
    hold.release()
    answer = request.result()
    assert isinstance(answer, Answer), answer
    assert holding.wait() == 0


def test_reload_after_stop_is_no_reload(holding: ServerProcess, hold: Hold) -> None:
    request = Background(holding, "/hold")
    hold.wait()
    holding.send(signal.SIGTERM)
    holding.eventually(lambda s: s["kill_pending"] == 1)
    holding.send(signal.SIGHUP)
    hold.release()
    assert isinstance(request.result(), Answer)
    assert holding.wait(SOON_S) == 0
    assert "loading the application afresh" not in holding.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "preload",
    [
        True,
        False,
    ],
    ids=["preload", "no-preload"],
)
def test_a_stop_while_the_application_is_imported_ends_promptly(
    prepare: Serve, hold: Hold, tmp_path: Path, preload: bool, number: int
) -> None:
    (tmp_path / "slow.py").write_text(f"open({str(hold.path)!r}).read()\n")
    arguments = ["slow:app"] if preload else ["slow:app", "--no-preload"]
    server = prepare(*arguments, chdir=tmp_path).launch()
    hold.wait()
    # Far less than the graceful timeout: who is only importing has nothing to finish.
    assert server.stop(number, within_s=6) == 0
    assert "Traceback" not in server.log()


def test_the_port_is_free_when_it_has_ended(holding: ServerProcess, hold: Hold) -> None:
    # A program that the application started lives on; it must not hold the listener.
    assert holding.get("/spawn").status == 200
    hold.wait()
    address = holding.address
    assert holding.stop() == 0
    eventually(lambda: list(holding.group().values()) == ["cat"], hint=holding.report)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, SOON_S)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(address)
        other.listen()
    hold.release()


def assert_ended(sock: socket.socket) -> None:
    """Read until the end, which may be a reset: what was sent was never read."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return
