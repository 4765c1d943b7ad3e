"""Load whose rate changes while it runs: fresh connections, and kept ones that can be watched.

One thread, one epoll set. A script drives it: `run_for` a while, change a rate, send a signal
to the server, `run_for` again. A request's clock starts when it was due, however late it could
be sent (no "coordinated omission"), and stops when the kernel received the answer.
"""

from __future__ import annotations

import gc
import heapq
import random
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.answer import AnswerReader, BadAnswer
from benchmarks.elastic_app import BODY
from benchmarks.latency import arrival_ns, begin_to_connect, send_some

_NS: Final = 1_000_000_000
_RECEIVE_BYTES: Final = 65536
_LOOK_S: Final = 0.01  # how often run_for() asks whether it is over
_FOR_EVER_NS: Final = 1 << 63
_REOPEN_S: Final = 0.05  # after a failure


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered as it should be."""

    due_ns: int
    duration_ns: int  # from due_ns


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a right answer. holder: the worker that last answered there, or 0."""

    due_ns: int
    moment_ns: int
    what: str
    holder: int


@dataclass
class Seen:
    """What one kind of clients has seen. Times by the wall clock."""

    sent: int = 0
    answered: list[Answered] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)  # of this process, at sending
    closed_idle: list[int] = field(default_factory=list)  # moments; without notice
    closed_politely: int = 0  # after `Connection: close`

    def durations_ns(self, begin_ns: int, end_ns: int) -> list[int]:
        """Return, sorted, how long the answered requests took that were due then."""
        return sorted(a.duration_ns for a in self.answered if begin_ns <= a.due_ns < end_ns)


class Connection:
    """One connection with at most one request under way.

    period_s: from one request to the next; 0: the next as soon as the last is answered; None:
        one request only.
    """

    __slots__ = (
        "address",
        "due_ns",
        "free_ns",
        "holder",
        "is_asking",
        "is_over",
        "next_ns",
        "period_s",
        "reader",
        "request",
        "seen",
        "sock",
        "turn",
        "unsent",
    )

    def __init__(
        self, seen: Seen, address: tuple[str, int], request: bytes, period_s: float | None
    ) -> None:
        self.seen = seen
        self.address = address
        self.request = request
        self.period_s = period_s
        self.due_ns = 0  # of the request under way, or the last one
        self.free_ns = 0  # since when no request is under way
        self.next_ns = 0  # when the next one is due; 0: a period later
        self.is_asking = False
        self.is_over = False  # it is not to be opened again
        self.sock: socket.socket | None = None
        self.reader = AnswerReader()
        self.unsent = b""
        self.holder = 0
        self.turn = 0  # what the heap holds of an earlier turn is void


class Fresh:
    """A flow of requests, each on a new connection; `pace` changes its rate."""

    def __init__(
        self, load: Load, address: tuple[str, int], request: bytes, *, is_poisson: bool
    ) -> None:
        self.seen = Seen()
        self._load = load
        self._address = address
        self._request = request
        self._is_poisson = is_poisson
        self._rate = 0.0
        self._turn = 0

    def pace(self, per_second: float) -> None:
        """Let so many come from now on."""
        self._rate = per_second
        self._turn += 1
        if per_second:
            self._plan(time.time_ns(), self._turn)

    def _plan(self, last_ns: int, turn: int) -> None:
        chance = self._load.chance
        pause_s = chance.expovariate(self._rate) if self._is_poisson else 1 / self._rate
        due_ns = last_ns + int(pause_s * _NS)
        self._load.at(due_ns, lambda: self._come(due_ns, turn))

    def _come(self, due_ns: int, turn: int) -> None:
        if turn != self._turn:
            return
        self._plan(due_ns, turn)
        connection = Connection(self.seen, self._address, self._request, None)
        connection.due_ns = due_ns
        self._load.ask(connection)


class Load:
    """All clients of one scenario. seed: of everything that is left to chance."""

    def __init__(self, address: tuple[str, int], *, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.reopens = True  # a kept connection that was closed is opened again
        self._address = address
        self._end_ns = _FOR_EVER_NS  # what is due later is not asked
        self._epoll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._due: list[tuple[int, int, Callable[[], None]]] = []  # a heap
        self._serial = 0

    def __enter__(self) -> Load:
        # A collection in the middle would be measured as the server's.
        gc.collect()
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        for connection in self._open.values():
            if connection.sock is not None:
                connection.sock.close()
        self._epoll.close()

    def fresh(
        self, request: bytes, *, is_poisson: bool = False, address: tuple[str, int] | None = None
    ) -> Fresh:
        """Return a new flow of fresh connections; at rest until its pace is set."""
        return Fresh(self, address or self._address, request, is_poisson=is_poisson)

    def keep(self, count: int, request: bytes, period_s: float) -> list[Connection]:
        """Open kept connections, whose first requests are spread over one period."""
        seen = Seen()
        connections = [Connection(seen, self._address, request, period_s) for _ in range(count)]
        self.change(connections, request, period_s)
        return connections

    def change(self, connections: Sequence[Connection], request: bytes, period_s: float) -> None:
        """Let kept connections ask something else, or more or less often, from now on."""
        now_ns = time.time_ns()
        for number, connection in enumerate(connections):
            connection.request, connection.period_s = request, period_s
            due_ns = now_ns + int(period_s * _NS) * number // len(connections)
            if connection.is_asking:
                connection.next_ns = due_ns
            else:
                self._plan(connection, due_ns)

    def separate(self, connections: Sequence[Connection]) -> Seen:
        """Note what these see from now on apart from the others, and return where."""
        seen = Seen()
        for connection in connections:
            connection.seen = seen
        return seen

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Go on for a while, or until something is so; return whether it is."""
        end_ns = time.time_ns() + int(seconds * _NS)
        while until is None or not until():
            now_ns = time.time_ns()
            while self._due and self._due[0][0] <= now_ns:
                heapq.heappop(self._due)[2]()
            if now_ns >= end_ns:
                return until is not None and until()
            wake_ns = min(self._due[0][0], end_ns) if self._due else end_ns
            pause_s = max(0.0, (wake_ns - time.time_ns()) / _NS)
            self._listen(pause_s if until is None else min(_LOOK_S, pause_s))
        return True

    def finish(self, patience_s: float) -> None:
        """Ask what was due until now, wait for the answers; what is owed then is a failure."""
        self._end_ns = time.time_ns()
        self._due = [entry for entry in self._due if entry[0] < self._end_ns]
        heapq.heapify(self._due)
        self.reopens = False
        self.run_for(patience_s, self._is_quiet)
        for connection in [c for c in self._open.values() if c.is_asking]:
            self._fail(connection, f"no answer in {patience_s:g} s")

    def _is_quiet(self) -> bool:
        return not self._due and not any(c.is_asking for c in self._open.values())

    # -- for flows ----------------------------------------------------------------------

    def at(self, due_ns: int, act: Callable[[], None]) -> None:
        """Do something when it is due, unless it is all over by then."""
        if due_ns < self._end_ns:
            self._serial += 1
            heapq.heappush(self._due, (due_ns, self._serial, act))

    def ask(self, connection: Connection) -> None:
        """Send the request that is due; on a new connection if there is none."""
        connection.seen.sent += 1
        # That it had to wait for the answer before is the server's doing.
        possible_ns = max(connection.due_ns, connection.free_ns)
        connection.seen.late_ns.append(time.time_ns() - possible_ns)
        self._send(connection)

    # -- one connection -----------------------------------------------------------------

    def _plan(self, connection: Connection, due_ns: int) -> None:
        connection.turn += 1
        turn = connection.turn

        def come() -> None:
            if connection.turn == turn and not connection.is_over:
                connection.due_ns = due_ns
                self.ask(connection)

        self.at(due_ns, come)

    def _send(self, connection: Connection) -> None:
        connection.is_asking = True
        connection.unsent = connection.request
        try:
            if connection.sock is None:
                self._connect(connection)
            self._go_on_sending(connection)
        except OSError as error:
            self._fail(connection, f"{error.strerror or error} at sending")

    def _connect(self, connection: Connection) -> None:
        connection.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.reader = AnswerReader()
        connection.holder = 0
        self._open[sock.fileno()] = connection
        begin_to_connect(self._epoll, sock, connection.address)

    def _go_on_sending(self, connection: Connection) -> None:
        """Send the request; if the connection is not there yet, when it is."""
        assert connection.sock is not None
        connection.unsent = send_some(self._epoll, connection.sock, connection.unsent)

    def _listen(self, pause_s: float) -> None:
        # select() waits by the microsecond, epoll_wait() by the millisecond only.
        readable, _, _ = select.select([self._epoll], [], [], pause_s)
        for fd, mask in self._epoll.poll(0) if readable else ():
            connection = self._open.get(fd)
            if connection is None:
                continue
            try:
                if mask & select.EPOLLOUT and connection.unsent:
                    self._go_on_sending(connection)
                if mask & ~select.EPOLLOUT:
                    self._receive(connection)
            except (OSError, BadAnswer) as error:
                self._fail(connection, str(error))

    def _receive(self, connection: Connection) -> None:
        assert connection.sock is not None
        data, ancillary, _, _ = connection.sock.recvmsg(_RECEIVE_BYTES, socket.CMSG_SPACE(16))
        if not data:
            self._end(connection)
            return
        connection.reader.feed(data)
        answer = connection.reader.take()
        if answer is None:
            return
        if not connection.is_asking or (answer.status, answer.start) != (200, BODY):
            self._fail(connection, f"answered {answer.status} with {answer.start[:40]!r}")
            return
        seen = connection.seen
        seen.answered.append(Answered(connection.due_ns, arrival_ns(ancillary) - connection.due_ns))
        connection.holder = int(answer.fields.get(b"x-worker", b"0"))
        connection.is_asking = False
        connection.free_ns = time.time_ns()
        if answer.closes or connection.period_s is None:
            seen.closed_politely += connection.period_s is not None
            self._hang_up(connection)
        if connection.period_s is not None:
            self._go_on(connection, connection.period_s)

    def _end(self, connection: Connection) -> None:
        """The server has closed."""
        if connection.is_asking:
            self._fail(connection, "closed without an answer")
            return
        connection.seen.closed_idle.append(time.time_ns())
        self._hang_up(connection)

    def _go_on(self, connection: Connection, period_s: float) -> None:
        """The next request: when it is due, which may be past; without a timetable now."""
        due_ns = connection.next_ns or connection.due_ns + int(period_s * _NS)
        connection.next_ns = 0
        self._plan(connection, due_ns if period_s else time.time_ns())

    def _fail(self, connection: Connection, what: str) -> None:
        """Count a failure and go on with another connection."""
        now_ns = time.time_ns()
        failure = Failure(connection.due_ns, now_ns, what, connection.holder)
        connection.seen.failures.append(failure)
        connection.is_asking = False
        self._hang_up(connection)
        if connection.period_s is not None:
            # Not at once: a server that refuses would be asked without an end.
            pause_s = max(_REOPEN_S, connection.period_s)
            self._plan(connection, now_ns + int(pause_s * _NS))

    def _hang_up(self, connection: Connection) -> None:
        if connection.sock is not None:
            del self._open[connection.sock.fileno()]
            connection.sock.close()
            connection.sock = None
        connection.is_over = not self.reopens
