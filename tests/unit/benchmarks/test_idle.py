"""The kind `idle`: connections that stay, and servers that do not keep them."""

from __future__ import annotations

import socket
import threading

import pytest

from benchmarks.idle import CROWD, OPTIONS, idle_connections, patient, see_all_open
from benchmarks.processes import ServerError
from benchmarks.scenarios import SCENARIOS
from benchmarks.server import Server
from benchmarks.servers import SERVERS
from tests.unit.benchmarks.local_server import OK, answering, read_head, served

PATIENCE_S = 10.0
COUNT = 70  # more than one batch
CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def test_each_connection_asks_once_and_stays() -> None:
    heads: list[bytes] = []
    ends: list[bytes] = []

    def handler(sock: socket.socket) -> None:
        heads.append(read_head(sock))
        sock.sendall(OK)
        ends.append(read_head(sock))

    with served(handler) as address:
        with idle_connections(address, "/path", COUNT) as socks:
            see_all_open(socks)
            assert (len(socks), len(heads), ends) == (COUNT, COUNT, [])
        assert all(sock.fileno() == -1 for sock in socks)
    assert {head.split(b"\r\n")[0] for head in heads} == {b"GET /path HTTP/1.1"}
    assert ends == [b""] * COUNT


def test_they_come_from_several_addresses() -> None:
    with served(answering(OK)) as address, idle_connections(address, "/", COUNT) as socks:
        assert len({sock.getsockname()[0] for sock in socks}) > 4


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (b"", "closed without an answer"),
        (CLOSING, "closes the connection"),
        (OK.replace(b"200", b"503"), "answered 503"),
        (b"nonsense\r\n\r\n", "not a status line"),
    ],
)
def test_a_server_that_keeps_only_some_fails_and_says_how_many(last: bytes, says: str) -> None:
    lock = threading.Lock()
    asked = 0

    def handler(sock: socket.socket) -> None:
        nonlocal asked
        while read_head(sock):
            with lock:
                asked += 1
                answer = OK if asked <= 10 else last
            if not answer:
                return
            sock.sendall(answer)

    with (
        served(handler) as address,
        pytest.raises(ServerError, match=rf"\d+ of 20 idle connections, then: .*{says}"),
        idle_connections(address, "/", 20),
    ):
        pass


def test_connections_that_were_closed_meanwhile_are_found() -> None:
    closed = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(OK)
        if sock.getpeername()[0] == "127.0.0.2":
            sock.close()
            closed.set()
        else:
            read_head(sock)

    with served(handler) as address, idle_connections(address, "/", 4) as socks:
        assert closed.wait(PATIENCE_S)
        assert socks[0].recv(1, socket.MSG_PEEK) == b""  # the end has arrived
        with pytest.raises(ServerError, match="closed 1 of 4"):
            see_all_open(socks)


def test_options_go_with_those_that_the_server_has_for_a_crowd() -> None:
    def command(port: int, app: str, threads: int) -> tuple[str, ...]:
        return ("-m", "gunicorn", app)

    server = Server("gunicorn", "", "", command, options={CROWD: ("--many", "9"), "file": ("-f",)})
    changed = patient(server)
    assert changed.options == {CROWD: ("--many", "9", *OPTIONS["gunicorn"]), "file": ("-f",)}
    assert changed.command is command


def test_the_scenario_asks_for_the_options_and_they_are_of_servers_that_there_are() -> None:
    assert next(each for each in SCENARIOS if each.kind == "idle").needs == (CROWD,)
    assert set(OPTIONS) <= {server.name for server in SERVERS}
