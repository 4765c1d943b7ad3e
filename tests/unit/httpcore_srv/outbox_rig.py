"""An outbox over a real connection with small buffers, and the client at its other end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from httpcore_srv.outbox import Outbox, Terms
from httpcore_srv.ports import Incident
from httpcore_srv.wire import unread_by_peer
from tests.fakes.store import SpyStore
from tests.fakes.worker import BOUND_S, FakeClock

WRITE_NS = 60_000_000_000
LARGE = bytes(range(256)) * 4096  # a megabyte, far more than the buffers hold


class OutboxRig:
    """One connection.

    tcp: over TCP, else a pair of Unix sockets, in which every byte that the client reads
        shows at once. room: whether a thread that waits may step aside.
    """

    def __init__(
        self,
        kind: type[Outbox] = Outbox,
        *,
        tcp: bool = False,
        write_ns: int = WRITE_NS,
        min_rate: int = 0,
        crowded_ns: int = WRITE_NS,
        room: bool = True,
    ) -> None:
        self.clock = FakeClock()
        self.store = SpyStore()
        self._step_s = 0.0
        self.stepped_aside = 0
        self.taken = b""
        self.room = room
        self.on_aside: Callable[[], None] = lambda: None
        self.sock, self.client = _tcp_pair() if tcp else socket.socketpair()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self._count = self.store.incidents.append
        self.lock = threading.Lock()
        terms = Terms(
            write_ns, crowded_ns, min_rate, self.store, self._look, self._count, self.lock
        )
        self.outbox = kind(self.sock, terms, self._step_aside)

    def _step_aside(self) -> bool:
        self.stepped_aside += 1
        self.on_aside()
        return self.room

    def tick(self, seconds: float) -> None:
        """Have the clock go on by so much at every look from now on."""
        self._step_s = seconds

    def _look(self) -> int:
        self.clock.advance(self._step_s)
        return self.clock()

    @property
    def incidents(self) -> list[Incident]:
        return self.store.incidents

    def fill(self) -> int:
        """Fill the buffers; return with how much."""
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += self.sock.send(b"f" * 4096, socket.MSG_DONTWAIT)
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += self.sock.send(b"f", socket.MSG_DONTWAIT)
        return filled

    def read(self, count: int) -> bytes:
        """Be a client that reads so much."""
        self.client.settimeout(BOUND_S)
        pieces = []
        while count:
            piece = self.client.recv(count)
            assert piece, f"closed with {count} bytes missing"
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def read_all(self) -> bytes:
        """Read what there is, and end-of-file after it."""
        self.sock.shutdown(socket.SHUT_WR)
        self.client.settimeout(BOUND_S)
        pieces = []
        while piece := self.client.recv(1 << 20):
            pieces.append(piece)
        return b"".join(pieces)

    def reader(self) -> Reader:
        """Return a client that reads, on a thread of its own, to the end."""
        return Reader(self)

    def drain(self) -> None:
        """Be the leader until nothing is left."""
        poller = select.poll()
        poller.register(self.sock, select.POLLOUT)
        while not self.outbox.drain():
            assert poller.poll(BOUND_S * 1000), "the client takes nothing"

    def take(self, count: int) -> None:
        """Be a client that reads no more than so much, into `taken`."""
        self.taken += self.client.recv(count)

    def drain_through(self) -> None:
        """Be the leader and the client until nothing is left; what came is in `taken`."""
        self.client.setblocking(False)
        while True:
            emptied = self.outbox.drain()
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.take(1 << 16)
            if emptied:
                return

    def until_taken(self, below: int) -> None:
        """Wait until fewer bytes than that are on their way."""
        for _ in range(10_000):
            if unread_by_peer(self.sock) < below:
                return
            select.select([], [], [], 0.001)
        raise AssertionError("nothing is acknowledged")

    def close(self) -> None:
        self.outbox.close()
        self.store.close()
        self.sock.close()
        self.client.close()
        assert self.store.used == 0


class Reader(threading.Thread):
    """Reads until the server closes its side."""

    def __init__(self, rig: OutboxRig) -> None:
        super().__init__(daemon=True)
        self._rig = rig
        self._pieces: list[bytes] = []
        rig.client.settimeout(BOUND_S)
        self.start()

    def run(self) -> None:
        while piece := self._rig.client.recv(1 << 16):
            self._pieces.append(piece)

    def everything(self) -> bytes:
        """End the connection; return what has come."""
        self._rig.sock.shutdown(socket.SHUT_WR)
        self.join(BOUND_S)
        assert not self.is_alive()
        return b"".join(self._pieces)


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        sock, _ = listener.accept()
    return sock, client


def a_file(path: Path, content: bytes) -> int:
    """Return a descriptor of a file with that content; the outbox is to close it."""
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


def is_open(fd: int) -> bool:
    """Whether a descriptor is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class HeldSocket:
    """A socket whose next send waits, before it has sent anything, until it is let go."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def send(self, data: bytes, flags: int = 0) -> int:
        self.entered.set()
        assert self.go_on.wait(BOUND_S)
        return self._sock.send(data, flags)

    def sendmsg(self, *args: Any) -> int:
        self.entered.set()
        assert self.go_on.wait(BOUND_S)
        return self._sock.sendmsg(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
