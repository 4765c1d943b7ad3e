"""How long ordinary requests take: two kinds of load in one thread, at rates that are fixed.

*kept*: some connections that are kept open, each with a timetable of its own; a request that
cannot be sent in time, because the answer before it is late, counts from when it was due.
*fresh*: requests at random moments (a Poisson process), each on a new connection, however
many are still unanswered. So a server that stands still for a second is charged with all that
was to be asked in that second, not with one request ("coordinated omission").

The clock starts when a request was due, or when this process sent it if only this process was
late, and stops when the kernel received the answer (SO_TIMESTAMPNS), not when this process
came to read it: what else the load's core has to do does not count. How late it was is
reported.
"""

from __future__ import annotations

import gc
import heapq
import random
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.answer import AnswerReader, BadAnswer
from benchmarks.hostile import get
from benchmarks.stress_app import HELLO_BODY

PATIENCE_S: Final = 3.0  # for late answers after the last request was due
_NS: Final = 1_000_000_000
_RECEIVE_BYTES: Final = 65536
_SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h; the module socket does not have it
_TIMESTAMP: Final = struct.Struct("qq")
_NOTED_ERRORS: Final = 10
KEPT_REQUEST: Final = get("/")
FRESH_REQUEST: Final = get("/", "Connection: close")


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked: of `connections` kept ones together, and of new ones, per second."""

    connections: int = 4
    kept_rate: float = 400.0
    fresh_rate: float = 200.0


@dataclass
class Latencies:
    """What was seen of one kind of load. Durations in nanoseconds.

    An unanswered request is there with the time that it was waited for.
    """

    durations_ns: list[int] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)  # of this process, at sending
    answered: int = 0
    unanswered: int = 0
    errors: int = 0
    noted: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """Note an error."""
        self.errors += 1
        if len(self.noted) < _NOTED_ERRORS:
            self.noted.append(what)

    def quantile_ms(self, fraction: float) -> float:
        """Return the duration that `fraction` of all requests do not exceed, milliseconds."""
        return quantile(sorted(self.durations_ns), fraction) / 1e6


def quantile(ordered: Sequence[int], fraction: float) -> int:
    """Return the smallest value that `fraction` of all do not exceed; 0 if there is none."""
    if not ordered:
        return 0
    rank = -int(-(len(ordered) * fraction) // 1)  # rounded up
    return ordered[min(len(ordered), max(1, rank)) - 1]


class _Connection:
    """One connection with at most one request under way."""

    __slots__ = ("asked_ns", "due_ns", "latencies", "period_ns", "reader", "sock", "unsent")

    def __init__(self, latencies: Latencies, due_ns: int, period_ns: int = 0) -> None:
        self.latencies = latencies
        self.due_ns = due_ns  # of the request under way, or the next one
        self.period_ns = period_ns  # of the timetable; 0: one request only
        self.asked_ns = 0  # when the clock of the request under way started; 0: there is none
        self.sock: socket.socket | None = None
        self.reader = AnswerReader()
        self.unsent = b""

    @property
    def is_kept(self) -> bool:
        return self.period_ns > 0


class Measurement:
    """One run of both loads against one server.

    seconds: how long there is something to ask. seed: of the random moments.
    patience_s: for late answers after that.
    """

    def __init__(
        self,
        address: tuple[str, int],
        load: Load,
        seconds: float,
        *,
        seed: int = 1,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.kept = Latencies()
        self.fresh = Latencies()
        self._address = address
        self._load = load
        self._seconds = seconds
        self._patience_s = patience_s
        self._random = random.Random(seed)
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._due: list[tuple[int, int, _Connection]] = []  # a heap: when, any number, who
        self._serial = 0

    def run(self) -> None:
        """Ask until the time is over and the last answers have come."""
        # A collection in the middle would be measured as the server's.
        gc.collect()
        gc.disable()
        try:
            self._run()
        finally:
            gc.enable()
            for connection in self._open.values():
                if connection.sock is not None:
                    connection.sock.close()
            self._epoll.close()

    def _run(self) -> None:
        begin_ns = time.time_ns()
        end_ns = begin_ns + int(self._seconds * _NS)
        self._plan(begin_ns)
        while (now_ns := time.time_ns()) < end_ns:
            while self._due and self._due[0][0] <= now_ns:
                self._ask(heapq.heappop(self._due)[2])
            next_ns = min(self._due[0][0], end_ns) if self._due else end_ns
            self._listen(next_ns, end_ns)
        patience_end_ns = end_ns + int(self._patience_s * _NS)
        while self._is_owed() and time.time_ns() < patience_end_ns:
            self._listen(patience_end_ns, end_ns)
        self._write_off(end_ns)

    # -- what is due --------------------------------------------------------------------

    def _plan(self, begin_ns: int) -> None:
        load = self._load
        if load.kept_rate:
            period_ns = int(load.connections * _NS / load.kept_rate)
            for number in range(load.connections):
                due_ns = begin_ns + number * period_ns // load.connections
                self._push(_Connection(self.kept, due_ns, period_ns))
        if load.fresh_rate:
            self._push_fresh(begin_ns)

    def _push_fresh(self, now_ns: int) -> None:
        pause_ns = int(self._random.expovariate(self._load.fresh_rate) * _NS)
        self._push(_Connection(self.fresh, now_ns + pause_ns))

    def _push(self, connection: _Connection) -> None:
        self._serial += 1
        heapq.heappush(self._due, (connection.due_ns, self._serial, connection))

    def _ask(self, connection: _Connection) -> None:
        """A request is due, and nothing but this process was in its way."""
        if not connection.is_kept:
            self._push_fresh(connection.due_ns)
        now_ns = time.time_ns()
        connection.latencies.late_ns.append(now_ns - connection.due_ns)
        self._send(connection, now_ns)

    def _is_owed(self) -> bool:
        return any(connection.asked_ns for connection in self._open.values())

    def _write_off(self, end_ns: int) -> None:
        """Count what was not answered, and what could therefore not be asked any more."""
        now_ns = time.time_ns()
        for connection in self._open.values():
            if not connection.asked_ns:
                continue
            missed = [connection.asked_ns]
            if connection.is_kept:
                first_ns = connection.due_ns + connection.period_ns
                missed.extend(range(first_ns, end_ns, connection.period_ns))
            connection.latencies.unanswered += len(missed)
            connection.latencies.durations_ns.extend(now_ns - moment_ns for moment_ns in missed)

    # -- one connection -----------------------------------------------------------------

    def _send(self, connection: _Connection, asked_ns: int) -> None:
        connection.asked_ns = asked_ns
        connection.unsent = KEPT_REQUEST if connection.is_kept else FRESH_REQUEST
        try:
            if connection.sock is None:
                self._connect(connection)
            self._go_on_sending(connection)
        except OSError as error:
            self._fail(connection, f"{error.strerror or error} at sending")

    def _connect(self, connection: _Connection) -> None:
        connection.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.reader = AnswerReader()
        self._open[sock.fileno()] = connection
        begin_to_connect(self._epoll, sock, self._address)

    def _go_on_sending(self, connection: _Connection) -> None:
        """Send the request; if the connection is not there yet, when it is."""
        assert connection.sock is not None
        connection.unsent = send_some(self._epoll, connection.sock, connection.unsent)

    def _listen(self, until_ns: int, end_ns: int) -> None:
        """Wait for answers until something else is to be done."""
        pause_s = max(0.0, (until_ns - time.time_ns()) / _NS)
        for fd, mask in self._epoll.poll(pause_s):
            connection = self._open.get(fd)
            if connection is None:
                continue
            try:
                if mask & select.EPOLLOUT and connection.unsent:
                    self._go_on_sending(connection)
                if mask & ~select.EPOLLOUT:
                    self._receive(connection, end_ns)
            except (OSError, BadAnswer) as error:
                self._fail(connection, str(error))

    def _receive(self, connection: _Connection, end_ns: int) -> None:
        assert connection.sock is not None
        data, ancillary, _, _ = connection.sock.recvmsg(_RECEIVE_BYTES, socket.CMSG_SPACE(16))
        connection.reader.feed(data)
        answer = connection.reader.take() if data else connection.reader.end()
        if answer is None:
            if not data:
                self._fail(connection, "closed without an answer")
            return
        if (answer.status, answer.start) != (200, HELLO_BODY):
            self._fail(connection, f"answered {answer.status} with {answer.start[:40]!r}")
            return
        latencies = connection.latencies
        latencies.answered += 1
        latencies.durations_ns.append(arrival_ns(ancillary) - connection.asked_ns)
        if answer.closes or not connection.is_kept:
            self._hang_up(connection)
        self._go_on(connection, end_ns)

    def _go_on(self, connection: _Connection, end_ns: int) -> None:
        """The timetable's next request: at once if it is overdue, else when it is due."""
        connection.asked_ns = 0
        if not connection.is_kept:
            return
        connection.due_ns += connection.period_ns
        if connection.due_ns >= end_ns:
            return
        if connection.due_ns <= time.time_ns():
            self._send(connection, connection.due_ns)
        else:
            self._push(connection)

    def _fail(self, connection: _Connection, what: str) -> None:
        """Count an error, as long as it took, and go on with another connection."""
        now_ns = time.time_ns()
        connection.latencies.fail(what)
        connection.latencies.durations_ns.append(now_ns - connection.asked_ns)
        self._hang_up(connection)
        connection.asked_ns = 0
        if connection.is_kept:
            # Not at once: a server that refuses would be asked without an end.
            behind = max(0, now_ns - connection.due_ns) // connection.period_ns
            connection.due_ns += (behind + 1) * connection.period_ns
            self._push(connection)

    def _hang_up(self, connection: _Connection) -> None:
        if connection.sock is not None:
            del self._open[connection.sock.fileno()]
            connection.sock.close()
            connection.sock = None


def begin_to_connect(epoll: select.epoll, sock: socket.socket, address: tuple[str, int]) -> None:
    """Watch a new socket whose packets get time stamps, and connect it. Raises: OSError."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    epoll.register(sock.fileno(), select.EPOLLIN)
    try:
        sock.connect(address)
    except BlockingIOError:
        return  # over the loopback it is most often connected already


def send_some(epoll: select.epoll, sock: socket.socket, unsent: bytes) -> bytes:
    """Send what goes now and return the rest; if nothing goes, watch for when it does."""
    try:
        rest = unsent[sock.send(unsent) :]
    except BlockingIOError:
        epoll.modify(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        return unsent
    epoll.modify(sock.fileno(), select.EPOLLIN)
    return rest


def arrival_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """Return when the kernel received the last packet, or now if it does not say."""
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESTAMP.unpack(content)
            return int(seconds) * _NS + int(nanoseconds)
    return time.time_ns()
