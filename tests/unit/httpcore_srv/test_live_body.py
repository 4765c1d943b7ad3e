"""LiveBody: a body that is read out of its socket, to its last byte and no further."""

from __future__ import annotations

import collections
import io
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv.errors import BodyLost
from httpcore_srv.live_body import BUFFER_BYTES, BodyTerms, LiveBody
from httpcore_srv.ports import Incident
from tests.fakes.worker import BOUND_S

MS = 1_000_000  # the clock is the test's, but poll(2) waits by another
PATIENCE_NS = 100 * MS


class Rig:
    """A live body and its client at the other end; `tick` is what each look at the clock costs."""

    def __init__(self) -> None:
        self.sock, self.client = socket.socketpair()
        self.now_ns = self.tick_ns = 0
        self.incidents: list[Incident] = []
        self.events: list[object] = []
        self.on_wait: Callable[[], None] = lambda: None

    def body(
        self,
        received: bytes,
        left: int,
        *,
        min_rate: int = 0,
        patience_ns: int = PATIENCE_NS,
        spent_ns: int = 0,
    ) -> LiveBody:
        terms = BodyTerms(patience_ns, min_rate, self._clock_ns, self.incidents.append)
        self.whole: list[str] = []
        self.raw = LiveBody(
            self.sock,
            io.BytesIO(received),
            left,
            terms,
            self,
            lambda: self.whole.append("whole"),
            spent_ns,
        )
        return self.raw

    def file(self, received: bytes, left: int) -> io.BufferedReader:
        return self.body(received, left).open()

    def wait_began(self) -> None:
        self.events.append("wait")
        self.on_wait()

    def wait_ended(self, waited_ns: int) -> None:
        self.events.append(waited_ns)

    def send_one(self) -> None:
        self.client.send(b"x")

    def body_came(self) -> None:
        self.events.append("came")

    def _clock_ns(self) -> int:
        self.now_ns += self.tick_ns
        return self.now_ns


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.sock.close()
    rig.client.close()


# -- what is read ------------------------------------------------------------------------------


def test_what_has_come_is_read_first_and_then_what_comes(rig: Rig) -> None:
    file = rig.file(b"first ", 6)
    rig.client.send(b"second")
    assert file.read() == b"first second"
    assert file.read() == file.read(10) == b""
    assert rig.events == ["came"]
    assert rig.whole == ["whole"]


@pytest.mark.parametrize("size", [1, 7, 4096, BUFFER_BYTES, 1 << 20])
def test_read_gives_what_was_asked_for(rig: Rig, size: int) -> None:
    content = bytes(range(256)) * 2000
    file = rig.file(content[:1000], len(content) - 1000)
    sender = threading.Thread(target=lambda: rig.client.sendall(content[1000:] + b"the next"))
    sender.start()
    count = min(size * 100, len(content))
    pieces = [file.read(size) for _ in range(0, count, size)]
    assert all(len(piece) == min(size, len(content)) for piece in pieces[:-1])
    assert b"".join(pieces) + file.read() == content
    sender.join(BOUND_S)
    assert rig.sock.recv(100) == b"the next"


def test_lines_and_iteration(rig: Rig) -> None:
    file = rig.file(b"one\ntw", 14)
    rig.client.send(b"o\nthree\nfour\nxxx")
    assert file.readline() == b"one\n"
    assert file.readline(2) == b"tw"
    assert next(file) == b"o\n"
    assert file.readlines(1) == [b"three\n"]
    assert list(file) == [b"four\n", b"x"]
    assert rig.sock.recv(100) == b"xx"


@pytest.mark.parametrize("read", ["read", "read1", "readinto"])
def test_never_a_byte_of_the_next_request(rig: Rig, read: str) -> None:
    file = rig.file(b"", 5)
    rig.client.send(b"12345GET / HTTP/1.1")
    if read == "readinto":
        buffer = bytearray(100)
        assert file.readinto(buffer) == 5
    else:
        assert getattr(file, read)(100) == b"12345"
    assert rig.sock.recv(100) == b"GET / HTTP/1.1"


def test_nothing_into_no_room(rig: Rig) -> None:
    raw = rig.body(b"", 5)
    assert raw.readinto(memoryview(bytearray())) == 0
    assert rig.events == []


def test_it_can_not_be_written_or_moved_and_has_no_descriptor(rig: Rig) -> None:
    file = rig.file(b"", 5)
    assert file.readable()
    assert not file.writable()
    assert not file.seekable()
    with pytest.raises(OSError, match="fileno"):
        file.fileno()


# -- waiting -----------------------------------------------------------------------------------


def test_a_wait_is_said_and_measured_and_wakes_with_the_first_bytes(rig: Rig) -> None:
    rig.tick_ns = 1000
    file = rig.file(b"", 4 << 20)
    rig.on_wait = rig.send_one
    assert file.read1(10) == b"x"
    began, waited_ns = rig.events
    assert began == "wait"
    assert isinstance(waited_ns, int)
    assert waited_ns > 0
    # The leader's epoll is to be told of the first byte of the next request.
    assert rig.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


def test_who_sends_nothing_is_late(rig: Rig) -> None:
    rig.tick_ns = PATIENCE_NS // 4
    file = rig.file(b"", 5)
    with pytest.raises(BodyLost, match="too slowly") as caught:
        file.read(1)
    assert caught.value.late
    assert rig.incidents == [Incident.TOO_LATE]
    with pytest.raises(BodyLost, match="too slowly"):  # and stays so
        file.read(1)
    assert rig.incidents == [Incident.TOO_LATE]
    assert rig.whole == []


def test_who_sends_a_byte_now_and_then_is_late_by_the_rate(rig: Rig) -> None:
    raw = rig.body(b"", 1000, min_rate=1000, patience_ns=5 * MS)
    rig.on_wait = rig.send_one
    rig.tick_ns = MS
    buffer = memoryview(bytearray(10))
    with pytest.raises(BodyLost, match="too slowly"):
        collections.deque(iter(lambda: raw.readinto(buffer), 0), maxlen=0)
    assert 1 < len(rig.events) < 30


def test_the_time_that_the_client_has_used_before_counts(rig: Rig) -> None:
    raw = rig.body(b"12345", 1000, min_rate=1000, patience_ns=5 * MS, spent_ns=6 * MS)
    buffer = memoryview(bytearray(10))
    assert raw.readinto(buffer) == 5
    with pytest.raises(BodyLost, match="too slowly"):
        raw.readinto(buffer)


def test_the_time_of_the_application_is_not_the_clients(rig: Rig) -> None:
    raw = rig.body(b"", 3, min_rate=1000, patience_ns=5 * MS)
    rig.on_wait = rig.send_one
    buffer = memoryview(bytearray(1))
    for _ in range(3):
        rig.now_ns += 1000 * MS  # it computes
        assert raw.readinto(buffer) == 1
    assert rig.whole == ["whole"]


# -- losing it ---------------------------------------------------------------------------------


def test_a_client_that_closes_is_gone(rig: Rig) -> None:
    file = rig.file(b"", 5)
    rig.client.send(b"123")
    rig.client.close()
    with pytest.raises(BodyLost, match="has closed") as caught:
        file.read()
    assert not caught.value.late
    assert isinstance(caught.value, OSError)
    assert rig.incidents == []


def test_a_client_that_closes_during_a_wait_is_gone(rig: Rig) -> None:
    file = rig.file(b"", 5)
    rig.on_wait = rig.client.close
    with pytest.raises(BodyLost, match="has closed"):
        file.read()
    with pytest.raises(BodyLost, match="has closed"):
        file.read()


def test_a_reset_is_an_error_of_the_client(rig: Rig) -> None:
    rig.sock.send(b"that nobody reads")
    file = rig.file(b"", 5)
    rig.client.close()
    with pytest.raises(BodyLost, match="gone"):
        file.read()


def test_after_the_request_nothing_is_read(rig: Rig) -> None:
    raw = rig.body(b"123", 5)
    file = raw.open()
    rig.client.send(b"45678 and more")
    raw.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()
    with pytest.raises(ValueError, match="over"):
        raw.readinto(memoryview(bytearray(10)))
    assert rig.sock.recv(100) == b"45678 and more"


def test_a_thread_that_waits_while_the_request_ends_reads_nothing(rig: Rig) -> None:
    raw = rig.body(b"", 5)

    def end() -> None:
        raw.close()
        rig.client.send(b"12345")

    rig.on_wait = end
    with pytest.raises(ValueError, match="over"):
        raw.readinto(memoryview(bytearray(10)))
    assert rig.sock.recv(100) == b"12345"


def test_a_socket_that_was_closed_under_a_written_off_thread_is_lost(rig: Rig) -> None:
    raw = rig.body(b"", 5)
    rig.on_wait = rig.sock.close
    with pytest.raises(BodyLost):
        raw.readinto(memoryview(bytearray(10)))
