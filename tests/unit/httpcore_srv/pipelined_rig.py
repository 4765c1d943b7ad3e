"""Pipelined requests of every kind, the application that answers them, and what must come back.

Each request says in its path of which kind it is and its number; each answer says so, too. The
application itself is the sentinel: it takes the baton from the thread that runs it, at the
moment that its kind is about.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from httpcore_srv import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.environ import Environ
from httpcore_srv.wsgi import StartResponse
from tests.fakes.worker import FakeClock
from tests.unit.httpcore_srv.worker_in_thread import Client, Response, WorkerInThread, get, post

ALERT_S = 1.5  # longer than the sentinel stays alert

Request = tuple[str, int]
"""Kind and number."""

_serial = itertools.count()


def some_requests(*kinds: str) -> list[Request]:
    """Return requests of these kinds, with paths of which no worker knows that they are slow."""
    return [(kind, next(_serial)) for kind in kinds]


class Mixture:
    """An application that answers each kind of request in its own way."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.worker: WorkerInThread | None = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        _, kind, number = environ["PATH_INFO"].split("/")
        text = content_of(kind, int(number))
        if kind in BODIES:
            assert environ["wsgi.input"].read() == text
        make = getattr(self, f"_{kind}", None)
        if make is not None:
            return make(text, environ, start_response)  # type: ignore[no-any-return]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text]

    # -- how the response is made ----------------------------------------------------------

    def _stream(self, text: bytes, _: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        return iter([text[:3], text[3:]])

    def _counted(self, text: bytes, _: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return iter([text[:3], text[3:]])

    def _written(self, text: bytes, _: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(text[:4])
        return [text[4:]]

    def _empty(self, _: bytes, __: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("204 No Content", [])
        return []

    def _file(
        self, text: bytes, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        file.write(text)
        file.seek(0)
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]

    def _hints(self, text: bytes, environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", f"</{text.decode()}>")])
        start_response("200 OK", [])
        return [text]

    def _boom(self, text: bytes, _: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise ValueError(text)

    # -- when the sentinel comes -----------------------------------------------------------

    def _take_baton(self) -> None:
        assert self.worker is not None
        if threading.get_ident() == self.worker.server.loop.leader_ident:
            self.worker.take_baton()

    def _stuck(self, text: bytes, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """The next leader has sent what was held before the application returns."""
        assert self.worker is not None
        self._take_baton()
        self.worker.until_next_round()
        start_response("200 OK", [])
        return [text]

    def _race(self, text: bytes, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """The next leader sends what was held while this thread responds."""
        self._take_baton()
        start_response("200 OK", [])
        return [text]

    def _midway(self, text: bytes, _: Environ, start_response: StartResponse) -> Iterator[bytes]:
        """It is stuck in the middle of a streamed response."""
        start_response("200 OK", [])
        yield text[:3]
        self._take_baton()
        yield text[3:]

    def _after(self, text: bytes, _: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """It is stuck in close()."""
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return Closing([text], self._take_baton)

    def _hinted(self, text: bytes, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """It is stuck between a 103 and its response."""
        environ["wsgi.early_hints"]([("Link", "</>")])
        return self._race(text, environ, start_response)

    def _calm(self, text: bytes, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """Those behind it are run by the leader again, and held."""
        assert self.worker is not None
        dispatcher = self.worker.server.dispatcher
        if not dispatcher.inline:
            self.clock.advance(ALERT_S)
            dispatcher.inline = True
        start_response("200 OK", [])
        return [text]


class Closing:
    """An iterable with a close() that does what the test says."""

    def __init__(self, pieces: Iterable[bytes], close: Callable[[], object]) -> None:
        self._pieces = iter(pieces)
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._close()


BODIES = {"post", "chunked", "continued", "upload"}
SIZES = {"middle": 20_000, "large": 100_000, "file": 30_000, "upload": 20_000}
BUFFER_BYTES = 4096  # an upload is more: the application reads while it comes
GOOD = ["quick", "stream", "counted", "written", "empty", "file", "middle", "large", "hints",
        "head", "post", "upload", "chunked", "continued", "stuck", "race", "midway", "after",
        "hinted", "calm"]  # fmt: skip
LAST = ["boom", "close", "old", "bad"]  # nothing is answered that follows one of these


def content_of(kind: str, number: int) -> bytes:
    """Return what a request sends, if it sends anything, and what its answer contains."""
    text = f"{kind} {number}"
    return (text * (1 + SIZES.get(kind, 0) // len(text))).encode()


def bytes_of(request: Request) -> bytes:
    """Return a request as it is sent."""
    kind, number = request
    path = f"/{kind}/{number}"
    content = content_of(kind, number)
    if kind in ("post", "upload"):
        return post(path, content)
    if kind == "continued":
        return post(path, content, "Expect: 100-continue")
    if kind == "chunked":
        head = get(path, "Transfer-Encoding: chunked").replace(b"GET", b"POST")
        return head + b"3\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
            content[:3],
            len(content) - 3,
            content[3:],
        )
    if kind == "head":
        return get(path).replace(b"GET", b"HEAD")
    if kind == "close":
        return get(path, "Connection: close")
    if kind == "old":
        return get(path).replace(b"HTTP/1.1", b"HTTP/1.0")
    return b"what is this?\r\n\r\n" if kind == "bad" else get(path)


def read_answer(client: Client, request: Request) -> None:
    """Read the answer to a request; it is the right one and whole."""
    kind, number = request
    head = client.head()
    interim = {"hints": 103, "hinted": 103, "continued": 100}.get(kind)
    if head.status == interim:
        head = client.head()
    answer = client.rest_of(head, "HEAD" if kind == "head" else "GET")
    _check(answer, kind, number)


def _check(answer: Response, kind: str, number: int) -> None:
    what = f"{kind} {number}: {answer.status} {answer.content[:50]!r}"
    assert answer.status == {"empty": 204, "boom": 500, "bad": 400}.get(kind, 200), what
    if kind not in ("empty", "boom", "bad", "head"):
        assert answer.content == content_of(kind, number), what
    if kind == "head":
        assert int(answer.fields["content-length"]) == len(content_of(kind, number)), what
    assert (answer.fields.get("connection") == "close") == (kind in LAST), what


def read_answers(client: Client, requests: Sequence[Request]) -> None:
    """Read all answers that a client must get, in order; after one of LAST comes the end."""
    for request in requests:
        read_answer(client, request)
        if request[0] in LAST:
            client.assert_closed()
            return


def mixed_worker(
    *, revocable: bool = False, max_threads: int = 4
) -> tuple[Mixture, WorkerInThread]:
    """Return an application and its worker, which holds what it may for as long as it may.

    Its clock stands still, and it has no sentinel but the application.
    """
    clock = FakeClock()
    app = Mixture(clock)
    timeouts = HTTPTimeouts(
        header_s=1e6, body_s=1e6, write_s=1e6, keep_alive_s=1e6, request_s=1e6 if revocable else 0
    )
    limits = HTTPLimits(body_memory_bytes=BUFFER_BYTES)
    settings = HTTPSettings(limits=limits, timeouts=timeouts, max_threads=max_threads)
    app.worker = WorkerInThread(app, settings, sentinel=False, clock_ns=clock)
    # Each leap of the clock would make it collect the garbage of the whole test process.
    app.worker.server._collector.begin = lambda: None  # type: ignore[method-assign]
    return app, app.worker


def make_calm(worker: WorkerInThread, clock: FakeClock) -> None:
    """Have the leader run requests itself, and hold their responses."""

    def calm() -> None:
        clock.advance(ALERT_S)
        worker.server.dispatcher.inline = True

    worker.until_at_rest()
    worker.on_leader(calm)
    # Nothing is held in a batch in which the manager has something to say.
    for _ in range(1000):
        if worker.on_leader(lambda: worker.server.dispatcher.gathers):
            return
    raise AssertionError("it holds nothing")
