"""A worker without a manager: fakes of the ports that behave like the real things."""

from __future__ import annotations

import array
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence

from httpcore_srv.ports import Incident, Order

BOUND_S = 20.0  # the longest that a test waits for anything
WORD_LIMIT = 1 << 64  # a cell of the real scoreboard is an unsigned word of 8 bytes


class FakeClock:
    """A monotonic clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class FakeSlot:
    """A row that remembers; `word` is what the manager would have written.

    Like the real row it refuses what does not fit a cell. `until` waits for what the
    worker writes; it looks whenever the worker has written gauges or a state.
    """

    def __init__(self) -> None:
        self._written = threading.Condition()
        self.on_exiting: Callable[[], None] = lambda: None  # just after the state was stored
        self.rounds = 0  # how often the loop was about to wait
        self.word = Order.RUN
        self.linger = 0.2
        self.shift_order: tuple[int, float] | None = None
        self.states: list[str] = []
        self.begun_count = self.inline_count = self.pooled_count = self.errors = 0
        self.busy_count = self.waiting = self.connections = self.threads = 0
        self.streams = self.written_off = 0
        self.incidents: dict[str, int] = {}
        self.durations_ns: list[int] = []
        self.moves = (0, 0, 0)

    def until(self, seen: Callable[[], bool], bound_s: float = BOUND_S) -> None:
        """Wait until `seen()` is true, looking after each thing that the worker writes."""
        with self._written:
            assert self._written.wait_for(seen, bound_s), f"never seen; the row: {vars(self)}"

    def look(self) -> None:
        """Have those who wait in `until` look again."""
        with self._written:
            self._written.notify_all()

    def order(self) -> int:
        return self.word

    def shift(self) -> tuple[int, float] | None:
        order, self.shift_order = self.shift_order, None
        return order

    def linger_s(self) -> float:
        return self.linger

    def ready(self) -> None:
        self._enter("ready")

    def draining(self) -> None:
        self._enter("draining")

    def exiting(self) -> None:
        self._enter("exiting")
        self.on_exiting()

    def begun(self, count: int) -> None:
        self.begun_count = _word(count)

    def ended_inline(self, count: int) -> None:
        self.inline_count = _word(count)

    def ended_pooled(self, count: int) -> None:
        self.pooled_count = _word(count)

    def busy(self, count: int) -> None:
        with self._written:
            self.busy_count = _word(count)
            self._written.notify_all()

    def aside(self, count: int) -> None:
        with self._written:
            self.streams = _word(count)
            self._written.notify_all()

    def publish(
        self,
        beat_ns: int,
        busy: int,
        waiting: int,
        connections: int,
        threads: int,
        streams: int,
        written_off: int,
    ) -> None:
        _word(beat_ns)
        with self._written:
            self.busy_count = _word(busy)
            self.waiting = _word(waiting)
            self.connections = _word(connections)
            self.threads = _word(threads)
            self.streams = _word(streams)
            self.written_off = _word(written_off)
            self.rounds += 1
            self._written.notify_all()

    def incident(self, incident: int, count: int) -> None:
        with self._written:
            self.incidents[Incident(incident).name] = _word(count)
            self._written.notify_all()

    def timed(self, durations_ns: Sequence[int]) -> None:
        self.durations_ns.extend(map(_word, durations_ns))

    def moved(self, accepted: int, handed_out: int, handed_in: int) -> None:
        with self._written:
            self.moves = (_word(accepted), _word(handed_out), _word(handed_in))
            self._written.notify_all()

    def failed(self, errors: int) -> None:
        self.errors = _word(errors)

    def _enter(self, state: str) -> None:
        with self._written:
            self.states.append(state)
            self._written.notify_all()


def _word(value: int) -> int:
    """Refuse what the real cell refuses."""
    if not 0 <= value < WORD_LIMIT:
        raise ValueError(f"no cell of the scoreboard holds {value}")
    return value


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
        self.inbox_end, self.reading_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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

    def send(self, message: bytes, fd: int, *, only_free: bool, target: int = -1) -> bool:
        if self.target is None or (only_free and not self.target.free):
            return False
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.target.inbox_end.sendmsg([message], ancillary)
        return True

    def put(self, message: bytes, fd: int = -1) -> None:
        """Put into this worker's inbox what a sibling, or the manager, would send."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.inbox_end.sendmsg([message], ancillary if fd >= 0 else [])

    def close(self) -> None:
        self.inbox_end.close()
        self.reading_end.close()
