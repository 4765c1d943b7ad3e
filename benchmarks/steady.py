"""A client with some kept connections, each with at most one request under way.

It asks in one of two ways. *At a rate*: requests are due by a timetable, and each goes to any
connection that is free; the one that has been free longest comes first, so that none is left
idle until the server closes it. If none is free, the request waits here and counts from when
it was due ("coordinated omission"). *In turn*: each connection asks again as soon as it has
its answer.

Every so many requests one is another, slow one; its latency is kept apart. As in `latency`,
the clock stops when the kernel received the answer, not when this process came to read it.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

from benchmarks.answer import AnswerReader, BadAnswer
from benchmarks.hostile import get
from benchmarks.latency import arrival_ns, begin_to_connect, quantile

PATIENCE_S: Final = 5.0  # for answers that are owed at the end, and for connections
_NS: Final = 1_000_000_000
_RECEIVE_BYTES: Final = 4096
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(16)
_NOTED_ERRORS: Final = 10


class Question:
    """A request, and the content that is the right answer to it."""

    __slots__ = ("body", "request", "usual_length")

    def __init__(self, path: str, body: bytes) -> None:
        self.request = get(path)
        self.body = body
        self.usual_length = 0  # of the whole answer; 0 until one has been read with care

    def is_usual(self, data: bytes) -> bool:
        """Return whether this is the whole answer once more, but for its Date."""
        return (
            len(data) == self.usual_length
            and data.startswith(b"HTTP/1.1 200 ")
            and data.endswith(self.body)
        )


@dataclass
class Window:
    """What was seen in one stretch of asking. Durations in nanoseconds.

    An unanswered request counts as an error, and with the time that it was waited for.
    """

    quick_ns: list[int] = field(default_factory=list)
    slow_ns: list[int] = field(default_factory=list)
    errors: int = 0
    noted: list[str] = field(default_factory=list)  # the first of them
    seconds: float = 0.0  # of asking
    client_share: float = 0.0  # of a core, taken by this process

    @property
    def rate(self) -> float:
        """Answers per second."""
        return (len(self.quick_ns) + len(self.slow_ns)) / self.seconds if self.seconds else 0.0

    def quick_us(self, fraction: float) -> float:
        """Return the duration that `fraction` of the quick requests do not exceed."""
        return quantile(sorted(self.quick_ns), fraction) / 1e3

    def fail(self, what: str) -> None:
        """Count an error."""
        self.errors += 1
        if len(self.noted) < _NOTED_ERRORS:
            self.noted.append(what)


class _Line:
    """One connection and the request under way on it."""

    __slots__ = ("asked_ns", "is_connected", "is_fresh", "question", "reader", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_connected = False
        self.question: Question | None = None  # None: nothing is under way
        self.asked_ns = 0
        self.reader = AnswerReader()
        self.is_fresh = True  # nothing of the answer has been read


class Client:
    """The connections, opened when it is made. Raises: OSError if they cannot be.

    spin: ask epoll without a pause while requests are due later, instead of sleeping, which
        is only exact to a millisecond. For a client that has a core of its own.
    """

    def __init__(
        self,
        address: tuple[str, int],
        connections: int,
        quick: Question,
        slow: Question,
        *,
        spin: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._address = address
        self._quick = quick
        self._slow = slow
        self._spin = spin
        self._patience_s = patience_s
        self._epoll = select.epoll()
        self._lines: dict[int, _Line] = {}
        self._free: deque[_Line] = deque()
        self._waiting: deque[int] = deque()  # since when: requests that found no free connection
        self._window = Window()
        self._slow_every = 0
        self._asked = 0
        self._owed = 0
        self._end_ns: int | None = None  # of asking in turn; None while asking at a rate
        try:
            for _ in range(connections):
                self._connect()
            self._wait_for_connections()
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for line in self._lines.values():
            line.sock.close()
        self._lines.clear()
        self._epoll.close()

    def at_rate(self, rate: float, seconds: float, slow_every: int = 0) -> Window:
        """Ask `rate` times a second; slow_every: each so manieth is slow, 0 for none."""
        with self._asking(slow_every, None) as window:
            begin_ns = time.time_ns()
            for number in range(round(rate * seconds)):
                due_ns = begin_ns + int(number * _NS / rate)
                self._listen(0.0)  # even if this process is behind
                while (now_ns := time.time_ns()) < due_ns:
                    self._listen(0.0 if self._spin else (due_ns - now_ns) / _NS)
                self._settle(due_ns)
        return window

    def in_turn(self, seconds: float, slow_every: int = 0) -> Window:
        """Ask on each connection as soon as it has its answer, for `seconds`."""
        end_ns = time.time_ns() + int(seconds * _NS)
        with self._asking(slow_every, end_ns) as window:
            while self._free:
                self._ask(self._free.popleft(), time.time_ns())
            while time.time_ns() < end_ns:
                self._listen(min(0.1, seconds))
        return window

    @contextmanager
    def _asking(self, slow_every: int, end_ns: int | None) -> Iterator[Window]:
        self._window = window = Window()
        self._slow_every, self._end_ns, self._asked = slow_every, end_ns, 0
        self._listen(0.0)  # connections that were closed since are replaced
        # A collection in the middle would be measured as the server's.
        gc.collect()
        gc.disable()
        began_s, used_s = time.monotonic(), time.process_time()
        try:
            yield window
            window.seconds = time.monotonic() - began_s
            window.client_share = (time.process_time() - used_s) / window.seconds
            self._wait_for_rest()
        finally:
            gc.enable()

    # -- asking -------------------------------------------------------------------------

    def _settle(self, due_ns: int) -> None:
        """A request is due: ask, or let it wait for a connection."""
        if self._free and not self._waiting:
            self._ask(self._free.popleft(), time.time_ns())
        else:
            self._waiting.append(due_ns)

    def _ask(self, line: _Line, asked_ns: int) -> None:
        """Send the next request; its clock starts at `asked_ns`."""
        self._asked += 1
        is_slow = self._slow_every > 0 and self._asked % self._slow_every == 0
        question = self._slow if is_slow else self._quick
        line.question, line.asked_ns = question, asked_ns
        self._owed += 1
        try:
            line.sock.send(question.request)  # so few bytes go at once
        except OSError:
            pass  # the connection is broken, which epoll reports: counted there

    def _go_on(self, line: _Line) -> None:
        """A connection has become free."""
        if self._end_ns is None:
            if self._waiting:
                self._ask(line, self._waiting.popleft())
            else:
                self._free.append(line)
        elif (now_ns := time.time_ns()) < self._end_ns:
            self._ask(line, now_ns)
        else:
            self._free.append(line)

    def _wait_for_rest(self) -> None:
        deadline_s = time.monotonic() + self._patience_s
        while self._owed and time.monotonic() < deadline_s:
            self._listen(0.05)
        now_ns = time.time_ns()
        for due_ns in self._waiting:
            self._window.fail("no connection was free until the end")
            self._window.quick_ns.append(now_ns - due_ns)
        self._waiting.clear()
        for line in [line for line in self._lines.values() if line.question is not None]:
            self._fail(line, f"no answer within {self._patience_s:g} s")

    # -- answers ------------------------------------------------------------------------

    def _listen(self, pause_s: float) -> None:
        for fd, _ in self._epoll.poll(pause_s):
            line = self._lines.get(fd)
            if line is None:
                continue
            if not line.is_connected:
                self._on_connected(line)
                continue
            try:
                closes = self._receive(line)
            except (OSError, BadAnswer) as error:
                self._fail(line, str(error))
            else:
                if closes:
                    self._replace(line)
                elif line.question is None:
                    self._go_on(line)

    def _receive(self, line: _Line) -> bool:
        """Read what has come; return whether the connection is of no further use.

        Raises: OSError or BadAnswer if the request under way has no right answer.
        """
        data, ancillary, _, _ = line.sock.recvmsg(_RECEIVE_BYTES, _ANCILLARY_BYTES)
        question = line.question
        if question is None:
            if data:
                self._window.fail(f"answered {data[:40]!r} without having been asked")
            return True
        closes = False
        if not (line.is_fresh and question.is_usual(data)):
            line.reader.feed(data)
            answer = line.reader.take() if data else line.reader.end()
            if answer is None:
                if not data:
                    raise BadAnswer("closed without an answer")
                line.is_fresh = False
                return False
            if (answer.status, answer.start) != (200, question.body):
                raise BadAnswer(f"answered {answer.status} with {answer.start[:40]!r}")
            closes = answer.closes or not data
            if line.is_fresh and not closes:
                question.usual_length = len(data)
            line.is_fresh = True
        self._note(line, question, arrival_ns(ancillary) - line.asked_ns)
        return closes

    def _note(self, line: _Line, question: Question, duration_ns: int) -> None:
        """The request under way is over."""
        line.question = None
        self._owed -= 1
        durations = self._window.quick_ns if question is self._quick else self._window.slow_ns
        durations.append(duration_ns)

    # -- connections --------------------------------------------------------------------

    def _connect(self) -> None:
        """Open one more connection, which is of use as soon as it is there. Raises: OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._lines[sock.fileno()] = _Line(sock)
        begin_to_connect(self._epoll, sock, self._address)
        self._epoll.modify(sock.fileno(), select.EPOLLOUT)

    def _on_connected(self, line: _Line) -> None:
        if error := line.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        self._epoll.modify(line.sock.fileno(), select.EPOLLIN)
        line.is_connected = True
        self._go_on(line)

    def _wait_for_connections(self) -> None:
        """Wait until all are there; for those of a slow server not for ever."""
        deadline_s = time.monotonic() + self._patience_s
        while len(self._free) < len(self._lines) and time.monotonic() < deadline_s:
            self._listen(0.05)
        if not self._free:
            raise TimeoutError(f"no connection within {self._patience_s:g} s")

    def _fail(self, line: _Line, what: str) -> None:
        """Count an error, as long as it took, and go on with another connection."""
        if line.question is not None:
            self._window.fail(what)
            self._note(line, line.question, time.time_ns() - line.asked_ns)
        self._replace(line)

    def _replace(self, line: _Line) -> None:
        """Open a connection in place of one that is of no use any more. Raises: OSError."""
        if line in self._free:
            self._free.remove(line)
        del self._lines[line.sock.fileno()]
        line.sock.close()
        self._connect()
