"""Crowd: thousands of connections in one thread, each led by a script of steps.

A script is a generator: it yields what is to be done next (send, rest, take a little,
receive an answer) and is sent what came of it. The crowd does it with non-blocking
sockets, one epoll set and a timer wheel, so that two thousand slow clients cost their
machine a few per cent of a core.
"""

from __future__ import annotations

import random
import resource
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.answer import AnswerReader, BadAnswer

TICK_S: Final = 0.010  # of the timer wheel
ANSWER_TIMEOUT_S: Final = 30.0
_CONNECT_TIMEOUT_S: Final = 30.0
_NOTED_FAILURES: Final = 20
_SHOWN_CHARACTERS: Final = 100
_RECEIVE_BYTES: Final = 65536
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s


@dataclass(frozen=True, slots=True)
class Send:
    """Send all of it. requests: how many whole requests end with it, at the most."""

    data: bytes
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing for a while. unread: leave what comes meanwhile in the socket."""

    seconds: float
    unread: bool = False


@dataclass(frozen=True, slots=True)
class Take:
    """Receive up to `size` bytes of what has come; the script is sent how many there were."""

    size: int


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for a whole answer, which the script is sent."""

    timeout_s: float = ANSWER_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Drain:
    """Read and drop until the server closes, or for so long; then the script goes on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with a reset instead of an orderly close."""


Step = Send | Rest | Take | Receive | Drain | Reset
Script = Generator[Step, Any, None]
ScriptMaker = Callable[[int, random.Random], Script]


class Wrong(Exception):
    """An answer was not what the script expects. Raised by scripts."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of client.

    script: makes the script of one connection, from a number that tells clients apart and
        a source of chance.
    pause_s: between the end of one connection and the next.
    is_good: a connection that the server ends, and an answer that is not right, is a failure.
    receive_buffer: SO_RCVBUF; None for the system's.
    """

    name: str
    script: ScriptMaker
    pause_s: float = 0.5
    is_good: bool = False
    receive_buffer: int | None = None


@dataclass
class Tally:
    """What the clients of one kind have done and seen."""

    wanted: int = 0
    open: int = 0  # connections now
    settled: int = 0  # of these: answered, or at rest: where they are to stay
    opened: int = 0
    ended: int = 0  # scripts that came to their end
    cut: int = 0  # connections that the server ended before that
    refused: int = 0  # connections that never came about
    steps: int = 0
    requests: int = 0  # sent whole, at the most
    answers: int = 0
    statuses: dict[int, int] = field(default_factory=dict)  # of the answers
    failed: int = 0
    failures: list[str] = field(default_factory=list)  # the first of them

    def answered(self, status: int) -> None:
        """Note a whole answer."""
        self.answers += 1
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def fail(self, what: str) -> None:
        """Note a failure."""
        self.failed += 1
        if len(self.failures) < _NOTED_FAILURES:
            self.failures.append(what)


class Client:
    """One member of the crowd: a script, and a socket while it has one."""

    __slots__ = (
        "fd",
        "is_settled",
        "kind",
        "mask",
        "number",
        "reader",
        "script",
        "sock",
        "step",
        "tally",
        "turn",
        "unsent",
    )

    def __init__(self, kind: Kind, number: int, tally: Tally) -> None:
        self.kind = kind
        self.number = number
        self.tally = tally
        self.sock: socket.socket | None = None
        self.fd = -1
        self.script: Script | None = None
        self.step: Step | None = None  # None: connecting
        self.reader = AnswerReader()
        self.unsent = memoryview(b"")
        self.mask = 0
        self.turn = 0  # what the wheel holds of an earlier turn is void
        self.is_settled = False


class Crowd:
    """All clients of one process.

    address: whom they talk to.
    starts_per_s: how many connections are opened in a second, at the most.
    batched: look at the sockets only once a tick, for clients that have time.
    seed: of everything that is left to chance.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        starts_per_s: float = 2000.0,
        batched: bool = False,
        seed: int = 1,
    ) -> None:
        self.kinds: dict[str, Kind] = {}
        self.tallies: dict[str, Tally] = {}
        self.is_leaving = False  # whoever comes to its end does not come again
        self._address = address
        self._starts_per_tick = starts_per_s * TICK_S
        self._starts = 0.0  # that are free now
        self._batched = batched
        self._random = random.Random(seed)
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}  # by descriptor
        self._arrivals: deque[Client] = deque()
        self._wheel: dict[int, list[tuple[Client, int]]] = {}
        self._tick = _tick_of(time.monotonic())
        self._watched: dict[int, Callable[[], None]] = {}

    def add(self, kind: Kind, count: int) -> None:
        """Let `count` clients of a kind come, as soon as may be."""
        self.kinds[kind.name] = kind
        tally = self.tallies.setdefault(kind.name, Tally())
        for number in range(tally.wanted, tally.wanted + count):
            self._arrivals.append(Client(kind, number, tally))
        tally.wanted += count

    def shuffle(self) -> None:
        """Let those who are still to come do so in any order."""
        arrivals = list(self._arrivals)
        self._random.shuffle(arrivals)
        self._arrivals = deque(arrivals)

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call something whenever a descriptor can be read, until it is closed."""
        self._watched[fd] = on_readable
        self._epoll.register(fd, select.EPOLLIN)

    def run_for(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Go on for a while, or until something is so; return whether it is."""
        end_s = time.monotonic() + seconds
        while not until():
            now_s = time.monotonic()
            if now_s >= end_s:
                return until()
            self._turn(now_s, end_s)
        return True

    def of(self, *, good: bool) -> list[Tally]:
        """Return the tallies of the good, or of the bad kinds."""
        return [self.tallies[name] for name, kind in self.kinds.items() if kind.is_good is good]

    @property
    def is_settled(self) -> bool:
        """Whether every client has been where it is to stay."""
        return all(tally.settled >= tally.wanted for tally in self.tallies.values())

    def close(self) -> None:
        """Close everything."""
        for client in list(self._clients.values()):
            self._hang_up(client)
        self._arrivals.clear()
        self._wheel.clear()
        self._epoll.close()

    # -- the loop -----------------------------------------------------------------------

    def _turn(self, now_s: float, end_s: float) -> None:
        self._fire(_tick_of(now_s))
        next_s = min(end_s, (self._tick + 1) * TICK_S)
        pause_s = max(0.0, next_s - time.monotonic())
        if self._batched:
            time.sleep(pause_s)
            pause_s = 0.0
        for fd, mask in self._epoll.poll(pause_s):
            client = self._clients.get(fd)
            if client is not None:
                self._guard(client, self._on_event, mask)
            elif fd in self._watched:
                self._watched[fd]()

    def _fire(self, tick: int) -> None:
        """Do what is due up to this tick."""
        while self._tick < tick:
            self._tick += 1
            for client, turn in self._wheel.pop(self._tick, ()):
                if client.turn != turn:
                    continue
                if client.sock is None:
                    self._arrivals.append(client)
                else:
                    self._guard(client, self._on_time, 0)
            self._starts = min(self._starts + self._starts_per_tick, 1.0 + self._starts_per_tick)
            while self._starts >= 1.0 and self._arrivals:
                self._starts -= 1.0
                client = self._arrivals.popleft()
                if not self.is_leaving:
                    self._guard(client, self._connect, 0)

    def _after(self, client: Client, seconds: float) -> None:
        """Have the client looked at later, unless it gets on before."""
        client.turn += 1
        tick = max(self._tick + 1, _tick_of(time.monotonic() + seconds))
        self._wheel.setdefault(tick, []).append((client, client.turn))

    def _guard(self, client: Client, act: Callable[[Client, int], None], mask: int) -> None:
        """Do something for a client; an error is the end of its connection."""
        try:
            act(client, mask)
        except (BadAnswer, Wrong) as error:
            self._cut(client, f"{type(error).__name__}: {error}")
        except OSError as error:
            self._cut(client, error.strerror or str(error))

    def _cut(self, client: Client, how: str) -> None:
        """The connection ends before its script does."""
        tally = client.tally
        if client.step is None:
            tally.refused += 1
        else:
            tally.cut += 1
        if client.kind.is_good:
            tally.fail(f"{client.kind.name} {client.number}: {how}, at {_shown(client.step)}")
        self._leave(client)

    # -- one client ---------------------------------------------------------------------

    def _connect(self, client: Client, mask: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        client.sock, client.fd, client.step = sock, sock.fileno(), None
        client.reader = AnswerReader()
        client.is_settled = False
        if client.kind.receive_buffer is not None:
            # Before connect(): the window's scale is agreed on with the first packet.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, client.kind.receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients[client.fd] = client
        client.mask = select.EPOLLOUT
        self._epoll.register(client.fd, client.mask)
        client.tally.open += 1
        self._after(client, _CONNECT_TIMEOUT_S)
        try:
            sock.connect(self._address)
        except BlockingIOError:
            return

    def _on_event(self, client: Client, mask: int) -> None:
        assert client.sock is not None
        step = client.step
        if step is None:
            error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect")
            client.tally.opened += 1
            client.script = client.kind.script(client.number, self._random)
            self._advance(client, None)
        elif mask & select.EPOLLERR:
            self._cut(client, "reset")
        elif isinstance(step, Send):
            if self._send(client):
                self._advance(client, None)
            else:
                self._after(client, ANSWER_TIMEOUT_S)
        else:
            self._on_readable(client, step)

    def _on_readable(self, client: Client, step: Step) -> None:
        assert client.sock is not None
        try:
            data = client.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        if isinstance(step, Drain):
            if not data:
                self._advance(client, None)
            return
        reader = client.reader
        reader.feed(data)
        answer = reader.take() if data else reader.end()
        if answer is not None:
            client.tally.answered(answer.status)
        if isinstance(step, Receive) and answer is not None:
            self._settle(client)
            self._advance(client, answer)
        elif not data:
            self._cut(client, "closed")
        elif answer is not None:
            # Nothing was asked, or not yet to the end: the server has had enough.
            self._cut(client, f"answered {answer.status}")

    def _on_time(self, client: Client, mask: int) -> None:
        if client.step is None:
            raise TimeoutError("no connection in time")
        if isinstance(client.step, Receive):
            raise Wrong(f"no answer within {client.step.timeout_s:g} s")
        if isinstance(client.step, Send):
            raise Wrong(f"took nothing for {ANSWER_TIMEOUT_S:g} s")
        self._advance(client, None)

    def _advance(self, client: Client, result: object) -> None:
        """Let the script go on with the result of its last step, until it has to wait."""
        assert client.script is not None
        while True:
            try:
                step = client.script.send(result)
            except StopIteration:
                client.tally.ended += 1
                self._leave(client)
                return
            client.step = step
            client.tally.steps += 1
            match step:
                case Send():
                    client.tally.requests += step.requests
                    client.unsent = memoryview(step.data)
                    if not self._send(client):
                        self._wait(client, ANSWER_TIMEOUT_S, select.EPOLLOUT)
                        return
                    result = None
                case Take():
                    if (result := self._take(client, step.size)) is None:
                        return
                case Reset():
                    assert client.sock is not None
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
                    result = None
                case Receive():
                    if (answer := client.reader.take()) is None:
                        self._wait(client, step.timeout_s, select.EPOLLIN)
                        return
                    client.tally.answered(answer.status)
                    result = answer
                case Rest():
                    if not step.unread:
                        self._settle(client)
                    self._wait(client, step.seconds, 0 if step.unread else select.EPOLLIN)
                    return
                case Drain():
                    self._wait(client, step.seconds, select.EPOLLIN)
                    return

    def _wait(self, client: Client, seconds: float, mask: int) -> None:
        self._set_mask(client, mask)
        self._after(client, seconds)

    def _set_mask(self, client: Client, mask: int) -> None:
        if client.mask != mask:
            client.mask = mask
            self._epoll.modify(client.fd, mask)

    def _settle(self, client: Client) -> None:
        if not client.is_settled:
            client.is_settled = True
            client.tally.settled += 1

    def _send(self, client: Client) -> bool:
        """Send what the socket takes; return whether that was all."""
        assert client.sock is not None
        try:
            while client.unsent:
                client.unsent = client.unsent[client.sock.send(client.unsent) :]
        except BlockingIOError:
            return False
        return True

    def _take(self, client: Client, size: int) -> int | None:
        """Receive a little; None if the server has closed."""
        assert client.sock is not None
        try:
            data = client.sock.recv(size)
        except BlockingIOError:
            return 0
        if not data:
            self._cut(client, "closed")
            return None
        self._settle(client)
        return len(data)

    def _leave(self, client: Client) -> None:
        """Close the connection; come again later."""
        self._hang_up(client)
        if not self.is_leaving:
            pause_s = client.kind.pause_s * self._random.uniform(0.5, 1.5)
            self._after(client, pause_s)

    def _hang_up(self, client: Client) -> None:
        if client.script is not None:
            client.script.close()
            client.script = None
        if client.sock is not None:
            client.turn += 1
            client.tally.open -= 1
            client.tally.settled -= client.is_settled
            del self._clients[client.fd]
            client.sock.close()  # which takes it out of the epoll set
            client.sock = None


def raise_descriptor_limit() -> int:
    """Allow this process, and what it starts, as many descriptors as may be; return the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _tick_of(seconds: float) -> int:
    return int(seconds / TICK_S)


def _shown(step: Step | None) -> str:
    return "connect" if step is None else repr(step)[:_SHOWN_CHARACTERS]
