"""Farewell: reads and drops until the client closes, for a bounded time."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator

import pytest

from httpcore_srv.farewell import PATIENCE, Farewell
from tests.fakes.worker import BOUND_S

NOW = 1_000_000_000_000
LINGER = 2_000_000_000


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield server, client


def come(sock: socket.socket) -> None:
    """Wait until something has arrived."""
    assert select.select([sock], [], [], BOUND_S)[0]


def test_a_silent_client_is_waited_for(ends: tuple[socket.socket, socket.socket]) -> None:
    server, _ = ends
    farewell = Farewell(server.recv, NOW, LINGER)
    for _ in range(3):
        assert not farewell.is_over()


def test_what_comes_is_read_and_dropped(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    farewell = Farewell(server.recv, NOW, LINGER)
    client.send(b"more")
    come(server)
    assert not farewell.is_over()
    with pytest.raises(BlockingIOError):
        server.recv(1, socket.MSG_DONTWAIT)


def test_it_is_over_when_the_client_closes(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    farewell = Farewell(server.recv, NOW, LINGER)
    client.send(b"last")
    client.close()
    come(server)
    assert not farewell.is_over()
    come(server)
    assert farewell.is_over()


def test_it_is_over_when_the_client_resets(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    come(server)
    assert Farewell(server.recv, NOW, LINGER).is_over()


def test_a_client_that_goes_on_is_read_as_much_as_it_sends() -> None:
    # An upload that a proxy has in its buffers may be of any size.
    flags_seen: set[int] = set()

    def receive(size: int, flags: int) -> bytes:
        flags_seen.add(flags)
        return bytes(size)

    farewell = Farewell(receive, NOW, LINGER)
    assert not any(farewell.is_over() for _ in range(1000))
    assert flags_seen == {socket.MSG_DONTWAIT}


def test_who_sends_more_is_waited_for_again_but_not_for_ever() -> None:
    farewell = Farewell(lambda size, flags: b"x", NOW, LINGER)
    assert farewell.due_ns(NOW) == NOW + LINGER
    assert farewell.due_ns(NOW + 3 * LINGER) == NOW + 4 * LINGER
    last = NOW + PATIENCE * LINGER
    assert farewell.due_ns(last - LINGER) == last
    assert farewell.due_ns(last - 1) == last
    assert farewell.due_ns(last + LINGER) == last
