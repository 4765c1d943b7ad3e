"""Wire: what the loop watches, and what a socket says of its peer."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv.event_loop import EventLoop
from httpcore_srv.wire import Wire, unread_by_peer
from tests.fakes.worker import BOUND_S, FakeClock


class Noting(Wire):
    """Notes what the loop tells it."""

    __slots__ = ("events", "expired")

    def __init__(self, loop: EventLoop, sock: socket.socket) -> None:
        super().__init__(loop, sock)
        self.events: list[int] = []
        self.expired = 0

    def on_event(self, mask: int) -> bool:
        self.events.append(mask)
        return False

    def expire(self) -> None:
        self.expired += 1


class Rig:
    """A loop that makes one round when told to, and a connection over TCP."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = EventLoop(self.clock)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.sock, _ = listener.accept()
        self.wire = Noting(self.loop, self.sock)

    def round(self) -> None:
        self.loop.running = True
        self.loop.post(self._stop)
        self.loop.run()

    def _stop(self) -> bool:
        self.loop.running = False
        return False

    def came(self) -> None:
        """Wait until the client's last deed has arrived."""
        assert select.select([self.sock], [], [], BOUND_S)[0]

    def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def close(self) -> None:
        self.client.close()
        self.wire.close_socket()
        self.loop.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


# -- watching ------------------------------------------------------------------------------


def test_a_wire_is_told_only_of_what_it_watches(rig: Rig) -> None:
    rig.client.send(b"x")
    rig.came()
    rig.round()
    assert rig.wire.events == []
    rig.wire.watch(select.EPOLLIN)
    rig.round()
    assert rig.wire.events == [select.EPOLLIN]
    rig.wire.watch(select.EPOLLOUT)
    rig.round()
    assert rig.wire.events == [select.EPOLLIN, select.EPOLLOUT]
    rig.wire.unwatch()
    rig.round()
    assert len(rig.wire.events) == 2


def test_watching_twice_for_the_same_asks_the_system_once(rig: Rig) -> None:
    for _ in range(2):
        rig.wire.watch(select.EPOLLOUT)  # a second registration would be an error
    for _ in range(2):
        rig.wire.unwatch()
    rig.wire.watch(select.EPOLLOUT)
    rig.round()
    assert rig.wire.events == [select.EPOLLOUT]


def test_a_deadline_counts_from_the_beginning_of_the_round(rig: Rig) -> None:
    rig.round()
    rig.clock.advance(5)
    rig.wire.set_deadline(10_000_000_000)
    assert rig.wire.deadline_ns == rig.loop.now_ns + 10_000_000_000
    rig.clock.advance(4.8)
    rig.round()
    assert rig.wire.expired == 0
    rig.clock.advance(0.4)
    rig.round()
    assert rig.wire.expired == 1


def test_a_closed_wire_is_told_nothing_and_never_expires(rig: Rig) -> None:
    rig.wire.watch(select.EPOLLOUT)
    rig.wire.set_deadline(1_000_000_000)
    rig.wire.close_socket()
    rig.clock.advance(10)
    rig.round()
    assert (rig.wire.events, rig.wire.expired) == ([], 0)
    assert rig.sock.fileno() == -1


def test_a_bare_wire_does_not_know_what_to_do(rig: Rig) -> None:
    bare = Wire(rig.loop, rig.sock)
    with pytest.raises(NotImplementedError):
        bare.on_event(0)
    with pytest.raises(NotImplementedError):
        bare.expire()


# -- what lies in the socket -----------------------------------------------------------------


def test_what_has_come_is_seen_and_not_taken(rig: Rig) -> None:
    with pytest.raises(BlockingIOError):
        rig.wire.has_unread()
    rig.client.send(b"x")
    rig.came()
    assert rig.wire.has_unread()
    assert rig.sock.recv(10) == b"x"


def test_an_end_of_file_is_nothing_unread(rig: Rig) -> None:
    rig.client.close()
    rig.came()
    assert not rig.wire.has_unread()


def test_a_reset_is_an_error(rig: Rig) -> None:
    rig.reset()
    rig.came()
    with pytest.raises(ConnectionResetError):
        rig.wire.has_unread()


# -- is anybody there -------------------------------------------------------------------------


def test_a_client_that_is_there_has_not_closed(rig: Rig) -> None:
    assert not rig.wire.peer_has_closed()
    rig.client.send(b"x" * 1000)
    rig.came()
    assert not rig.wire.peer_has_closed()


@pytest.mark.parametrize(
    "leave",
    [
        lambda rig: rig.client.close(),
        lambda rig: rig.reset(),
        lambda rig: rig.client.shutdown(socket.SHUT_WR),
    ],
    ids=["close", "reset", "half close"],
)
@pytest.mark.parametrize("unread", [b"", b"more"])
def test_a_client_that_has_left_is_known_with_or_without_unread_bytes(
    rig: Rig, leave: Callable[[Rig], None], unread: bytes
) -> None:
    rig.client.send(unread)
    leave(rig)
    poller = select.poll()
    poller.register(rig.sock, select.POLLRDHUP)
    assert poller.poll(BOUND_S * 1000)
    assert rig.wire.peer_has_closed()


def test_of_a_closed_socket_nobody_is_at_the_other_end(rig: Rig) -> None:
    rig.wire.close_socket()
    assert rig.wire.peer_has_closed()


def test_the_peer_sees_a_half_close_and_can_still_speak(rig: Rig) -> None:
    rig.wire.half_close()
    rig.client.settimeout(BOUND_S)
    assert rig.client.recv(1) == b""
    rig.client.send(b"x")
    rig.came()
    assert rig.wire.has_unread()


def test_shutting_down_ends_both_ways_and_keeps_the_descriptor(rig: Rig) -> None:
    rig.wire.shut_down()
    rig.client.settimeout(BOUND_S)
    assert rig.client.recv(1) == b""
    assert rig.sock.recv(1) == b""
    assert rig.sock.fileno() == rig.wire.fd


# -- what the peer has not taken ---------------------------------------------------------------


def test_what_the_peer_has_not_taken_is_known(rig: Rig) -> None:
    assert unread_by_peer(rig.sock) == 0
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += rig.sock.send(bytes(1 << 16), socket.MSG_DONTWAIT)
    unread = unread_by_peer(rig.sock)
    assert 0 < unread <= sent
    left = sent
    rig.client.settimeout(BOUND_S)
    while left:
        left -= len(rig.client.recv(1 << 20))
    # The acknowledgements of the last bytes are on their way.
    for _ in range(10_000):
        if not unread_by_peer(rig.sock):
            break
        select.select([], [], [], 0.001)
    assert unread_by_peer(rig.sock) == 0


def test_a_unix_socket_knows_it_too() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert unread_by_peer(left) == 0
        left.send(b"x" * 1000)
        assert unread_by_peer(left) >= 1000
        right.recv(2000)
        assert unread_by_peer(left) == 0
