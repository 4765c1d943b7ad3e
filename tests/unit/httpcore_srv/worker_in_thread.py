"""Whole workers in threads of the test process, and the clients, gates and apps around them.

Real sockets on loopback, real threads, the real HTTPServer; only what the manager
would be is a fake. Every wait has a bound and fails loudly at it.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from httpcore_srv import HTTPServer, HTTPSettings
from httpcore_srv.ports import Order
from httpcore_srv.wsgi import Application, Environ, StartResponse
from tests.fakes.worker import BOUND_S, FakeClock, FakeLifeline, FakeSiblings, FakeSlot

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def get(path: str, *fields: str) -> bytes:
    """Return a GET request."""
    lines = [f"GET {path} HTTP/1.1", "Host: a", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def post(path: str, content: bytes, *fields: str) -> bytes:
    """Return a POST request with a Content-Length."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(content)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + content


# -- the client -------------------------------------------------------------------------------


@dataclass
class Response:
    """One response as a client sees it; `chunks` only if it came in chunks."""

    status: int
    fields: dict[str, str]
    content: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.content.decode("latin-1")


class Client:
    """A client on a raw socket. Reading past the bound raises TimeoutError."""

    def __init__(self, address: tuple[str, int], receive_buffer_bytes: int = 0) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(BOUND_S)
        if receive_buffer_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, request: bytes = GET) -> Response:
        """Send a request and return its response."""
        self.send(request)
        return self.response(method=request.split(b" ", 1)[0].decode())

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go away with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def cut(self) -> None:
        """End whatever another thread waits for on this socket."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def head(self) -> Response:
        """Read the head of a response."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        pairs = (line.split(": ", 1) for line in lines)
        return Response(int(first[9:12]), {name.lower(): value for name, value in pairs})

    def response(self, method: str = "GET") -> Response:
        """Read one response, by its own framing."""
        return self.rest_of(self.head(), method)

    def rest_of(self, response: Response, method: str = "GET") -> Response:
        """Read what follows the head of a response."""
        if method == "HEAD" or response.status in (100, 204, 304):
            return response
        if response.fields.get("transfer-encoding") == "chunked":
            response.chunks = list(self.chunks())
            response.content = b"".join(response.chunks)
        elif "content-length" in response.fields:
            response.content = self.read(int(response.fields["content-length"]))
        else:
            response.content = self.until_end()
        return response

    def chunks(self) -> Iterator[bytes]:
        """Read the chunks of a response to the last."""
        while chunk := self.chunk():
            yield chunk

    def chunk(self) -> bytes:
        """Read one chunk; the last one is empty."""
        while b"\r\n" not in self._rest:
            self._more()
        size, _, self._rest = self._rest.partition(b"\r\n")
        content = self.read(int(size, 16))
        assert self.read(2) == b"\r\n"
        return content

    def read(self, count: int) -> bytes:
        """Read so many bytes."""
        pieces = [self._rest]
        missing = count - len(self._rest)
        while missing > 0:
            piece = self.sock.recv(min(missing, 1 << 20))
            assert piece, f"the server closed with {missing} bytes missing"
            pieces.append(piece)
            missing -= len(piece)
        everything = b"".join(pieces)
        self._rest = everything[count:]
        return everything[:count]

    def until_end(self) -> bytes:
        """Read until the server closes."""
        pieces, self._rest = [self._rest], b""
        while piece := self.sock.recv(1 << 20):
            pieces.append(piece)
        return b"".join(pieces)

    def assert_closed(self) -> None:
        """The server closes without another byte."""
        assert self.until_end() == b""

    def assert_silent(self, seconds: float = 0.15) -> None:
        """Nothing comes, not even an end. Proves little, so it only goes beside better proof."""
        assert self._rest == b""
        assert select.select([self.sock], [], [], seconds)[0] == []

    def _more(self) -> None:
        piece = self.sock.recv(1 << 16)
        assert piece, f"the server closed after {self._rest!r}"
        self._rest += piece


# -- applications -----------------------------------------------------------------------------


class Gate:
    """Holds requests inside the application until the test lets them go."""

    def __init__(self) -> None:
        self._entered: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._permits = threading.Semaphore(0)

    def pass_through(self, path: str) -> None:
        """Wait for a permit. The application's side."""
        self._entered.put(path)
        assert self._permits.acquire(timeout=2 * BOUND_S), f"nobody opened the gate for {path}"

    def entered(self) -> str:
        """Wait for the next request to arrive at the gate; return its path."""
        return self._entered.get(timeout=BOUND_S)

    def nobody_else(self) -> bool:
        """Nobody has arrived that was not asked for by `entered`."""
        return self._entered.empty()

    def open(self, count: int = 1) -> None:
        """Let so many requests go."""
        self._permits.release(count)


class Echo:
    """An application that says who answered what: `name path content`.

    Paths that begin with /wait stop at the gate first.
    """

    def __init__(self, name: str = "app", gate: Gate | None = None) -> None:
        self.name = name
        self.gate = gate or Gate()
        self.threads: dict[str, str] = {}  # path -> name of the thread that ran it

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.threads[path] = threading.current_thread().name
        if path.startswith("/wait"):
            self.gate.pass_through(path)
        content = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{self.name} {path} ".encode(), content]


# -- the worker -------------------------------------------------------------------------------


def listener_on_loopback() -> socket.socket:
    """Return a listening socket like those of `httpcore_srv.Listeners`."""
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    listener.setblocking(False)
    return listener


class WrappedListener:
    """A listener whose readiness and whose `accept` the test may replace."""

    def __init__(self) -> None:
        self.real = listener_on_loopback()
        self.failures: list[OSError] = []  # what the next calls of accept() raise
        self._never_ready, self._other_end = socket.socketpair()
        self.hidden = False  # epoll is to see nothing of it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def fileno(self) -> int:
        return (self._never_ready if self.hidden else self.real).fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            raise self.failures.pop(0)
        return self.real.accept()

    def close(self) -> None:
        for sock in (self.real, self._never_ready, self._other_end):
            sock.close()


class WorkerInThread:
    """One HTTPServer whose main thread is a thread of the test process.

    sentinel: False leaves the looking to the test, which calls `take_baton`. A sentinel
    of its own sees a call that merely waits for the GIL, beside the threads of the
    test, as stuck now and then.
    """

    def __init__(
        self,
        app: Application,
        settings: HTTPSettings | None = None,
        *,
        listener: Any = None,
        name: str = "worker",
        sentinel: bool = True,
        **options: Any,
    ) -> None:
        self.slot = FakeSlot()
        self.lifeline = FakeLifeline()
        self.siblings = FakeSiblings()
        self.listener = listener or listener_on_loopback()
        self.name = name
        self._owns_listener = listener is None
        self._gate: Gate | None = getattr(app, "gate", None)
        self._clients: list[Client] = []
        self._crashed = False
        self.server = HTTPServer(
            [self.listener],
            app,
            settings or HTTPSettings(),
            self.slot,
            self.lifeline,
            self.siblings,
            **options,
        )
        if not sentinel:
            self.server.dispatcher.sentinel.start = lambda: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._left = threading.Event()

    def start(self) -> None:
        """Begin to serve; return when the worker is ready."""
        self._thread.start()
        self._until(lambda: self.slot.rounds > 0)

    def connect(self, receive_buffer_bytes: int = 0) -> Client:
        """Return a new client; closed with the worker at the latest."""
        client = Client(self.listener.getsockname(), receive_buffer_bytes)
        self._clients.append(client)
        if self._crashed:
            client.cut()
        return client

    def order(self, order: Order) -> None:
        """Tell the worker what to do, as the manager does."""
        self.slot.word = order
        self.wake()

    def wake(self) -> None:
        """Have the loop make a round: it looks at its orders, and at its clock."""
        with contextlib.suppress(OSError):  # a test may have closed the manager's end
            self.lifeline.manager.send(b"!")

    def pass_time(self, clock: FakeClock, seconds: float) -> None:
        """Move the clock and let the loop see it."""
        clock.advance(seconds)
        self.wake()

    def on_leader(self, call: Callable[[], object]) -> Any:
        """Have the leader do something; return what came of it."""
        results: queue.SimpleQueue[object] = queue.SimpleQueue()

        def make() -> bool:
            results.put(call())
            return False

        self.server.loop.post(make)
        return results.get(timeout=BOUND_S)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the leader: what comes meanwhile is one batch for it."""
        entered, go_on = threading.Event(), threading.Event()

        def pause() -> bool:
            entered.set()
            assert go_on.wait(BOUND_S)
            return False

        self.server.loop.post(pause)
        assert entered.wait(BOUND_S)
        try:
            yield
        finally:
            go_on.set()

    def use_pool(self) -> None:
        """Have requests run on threads of the pool, as if the sentinel had come.

        By the leader, which may hold back responses only as long as it runs requests itself.
        """

        def use() -> None:
            self.server.dispatcher.inline = self.server.dispatcher.gathers = False

        self.on_leader(use)

    def take_baton(self) -> None:
        """Be the sentinel: take the baton from a request that blocks."""
        look = self.server.dispatcher.sentinel.look
        # The first look only notes the call; after ten it does not matter what it does.
        assert any(look() for _ in range(20)), "the baton does not lie there"

    def until_left(self) -> None:
        """Wait until the worker has left by itself."""
        assert self._left.wait(BOUND_S), f"{self.name} has not left: {vars(self.slot)}"
        assert not self._crashed, f"{self.name} has died"

    def until_connections(self, count: int) -> None:
        """Wait until the worker holds so many connections.

        The loop must go on: what it has said before this was called does not count.
        """
        rounds = self.slot.rounds
        self.wake()
        self._until(lambda: self.slot.rounds > rounds and self.slot.connections == count)

    def until_at_rest(self) -> None:
        """Wait until the worker has put every request behind it.

        A client may have its response before the worker has done so.
        """
        slot = self.slot
        for _ in range(10_000):
            at_rest = all(stream.at_rest for stream in list(self.server.streams.values()))
            if at_rest and slot.begun_count == slot.inline_count + slot.pooled_count:
                return
            self.until_next_round()
        raise AssertionError("a connection does not come to rest")

    def until_next_round(self) -> None:
        """Have the loop make a round and wait for it."""
        rounds = self.slot.rounds
        self.wake()
        self._until(lambda: self.slot.rounds > rounds)

    def until_waiting(self, count: int) -> None:
        """Wait until so many connections wait for a thread."""
        self._until(lambda: self.slot.waiting == count)

    def stop(self) -> None:
        """Have the worker leave if it has not left by itself, and clean up."""
        if self._gate is not None:
            self._gate.open(1000)  # nobody stays behind, even when a test has failed
        for client in self._clients:
            client.close()
        if not self._left.is_set():
            # Not NOW: that cuts what is in progress, and a test that has what it wanted
            # would be one with requests in progress as far as the worker can tell.
            self.slot.linger = 0.0
            self.order(Order.STOP)
        left = self._left.wait(BOUND_S)
        self.server.dispatcher.sentinel.stop()
        self.server.pool.close()  # again, for the threads of a worker that has died
        for stream in list(self.server.streams.values()):
            stream._sock.close()  # the same
        self.lifeline.close()
        self.siblings.close()
        if self._owns_listener:
            self.listener.close()
        assert left, f"{self.name} does not leave: {vars(self.slot)}"

    def _until(self, seen: Callable[[], bool]) -> None:
        self.slot.until(lambda: seen() or self._left.is_set())
        assert seen(), f"{self.name} has left"

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException:
            # Nobody will answer any more: no client need wait for it until its bound.
            self._crashed = True
            for client in self._clients:
                client.cut()
            raise
        finally:
            self._left.set()
            self.slot.look()


@contextlib.contextmanager
def running(*workers: WorkerInThread) -> Iterator[None]:
    """Run workers; at the end, all have left and no thread of theirs has failed."""
    before = set(threading.enumerate())
    failures: list[str] = []

    def note(args: threading.ExceptHookArgs) -> None:
        failures.append(f"{args.thread}: {args.exc_value!r}")

    hook, threading.excepthook = threading.excepthook, note
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        try:
            for worker in workers:
                worker.stop()
            for thread in set(threading.enumerate()) - before:
                if thread.name.startswith("smart-http-"):
                    thread.join(BOUND_S)
                    assert not thread.is_alive(), f"{thread} was left behind"
        finally:
            threading.excepthook = hook
    assert failures == [], failures


@contextlib.contextmanager
def worker(
    app: Application | None = None, settings: HTTPSettings | None = None, **options: Any
) -> Iterator[WorkerInThread]:
    """Run one worker."""
    one = WorkerInThread(app or Echo(), settings, **options)
    with running(one):
        yield one


@contextlib.contextmanager
def siblings(
    make_app: Callable[[str], Application] = Echo,
    settings: HTTPSettings | None = None,
    **options: Any,
) -> Iterator[tuple[WorkerInThread, WorkerInThread]]:
    """Run two workers, `a` and `b`; what `a` hands over goes to `b`."""
    a = WorkerInThread(make_app("a"), settings, name="a", **options)
    b = WorkerInThread(make_app("b"), settings, name="b", **options)
    a.siblings.target = b.siblings
    with running(a, b):
        yield a, b
