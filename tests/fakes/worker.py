"""A worker without a manager: fakes of the ports that behave like the real things."""

from __future__ import annotations

import array
import contextlib
import socket
from collections.abc import Sequence

from httpcore_srv.ports import Order


class FakeSlot:
    """A row that remembers; `word` is what the manager would have written."""

    def __init__(self) -> None:
        self.word = Order.RUN
        self.linger = 0.2
        self.states: list[str] = []
        self.begun_count = self.inline_count = self.pooled_count = self.errors = 0
        self.busy_count = self.waiting = self.connections = self.threads = 0
        self.durations_ns: list[int] = []
        self.moves = (0, 0, 0)

    def order(self) -> int:
        return self.word

    def linger_s(self) -> float:
        return self.linger

    def ready(self) -> None:
        self.states.append("ready")

    def draining(self) -> None:
        self.states.append("draining")

    def exiting(self) -> None:
        self.states.append("exiting")

    def begun(self, count: int) -> None:
        self.begun_count = count

    def ended_inline(self, count: int) -> None:
        self.inline_count = count

    def ended_pooled(self, count: int) -> None:
        self.pooled_count = count

    def busy(self, count: int) -> None:
        self.busy_count = count

    def publish(
        self, beat_ns: int, busy: int, waiting: int, connections: int, threads: int
    ) -> None:
        self.busy_count = busy
        self.waiting = waiting
        self.connections = connections
        self.threads = threads

    def timed(self, durations_ns: Sequence[int]) -> None:
        self.durations_ns.extend(durations_ns)

    def moved(self, accepted: int, handed_out: int, handed_in: int) -> None:
        self.moves = (accepted, handed_out, handed_in)

    def failed(self, errors: int) -> None:
        self.errors = errors


class FakeLifeline:
    """A real pair of sockets; the test holds the manager's end."""

    def __init__(self) -> None:
        self.manager, self._worker = socket.socketpair()
        self._worker.setblocking(False)

    def fileno(self) -> int:
        return self._worker.fileno()

    def read(self) -> bool:
        try:
            return bool(self._worker.recv(4096))
        except BlockingIOError:
            return True

    def poke(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            self._worker.send(b"!")

    def close(self) -> None:
        self.manager.close()
        self._worker.close()


class FakeSiblings:
    """A real inbox; `target` is the one sibling that takes what is sent, if any."""

    def __init__(self) -> None:
        self.inbox_end, self.reading_end = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        self.reading_end.setblocking(False)
        self.target: FakeSiblings | None = None
        self.free = True  # what `only_free` asks about

    def fileno(self) -> int:
        return self.reading_end.fileno()

    def receive(self) -> tuple[bytes, int] | None:
        try:
            message, fds, _, _ = socket.recv_fds(self.reading_end, 1 << 17, 1)
        except BlockingIOError:
            return None
        return message, fds[0] if fds else -1

    def send(self, message: bytes, fd: int, *, only_free: bool) -> bool:
        if self.target is None or (only_free and not self.target.free):
            return False
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.target.inbox_end.sendmsg([message], ancillary)
        return True

    def close(self) -> None:
        self.inbox_end.close()
        self.reading_end.close()
