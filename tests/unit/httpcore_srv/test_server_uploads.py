"""Uploads above the buffer in a whole worker: the application reads them while they come."""

from __future__ import annotations

import io
import logging
import queue
import threading
import zlib
from collections.abc import Iterable
from typing import Any

import pytest

from httpcore_srv import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.errors import BodyLost
from httpcore_srv.live_body import LiveBody
from httpcore_srv.ports import Order
from httpcore_srv.wsgi import Environ, StartResponse
from tests.fakes.worker import BOUND_S
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Response,
    WorkerInThread,
    get,
    post,
    worker,
)

BUFFER_BYTES = 1000
LARGE = bytes(range(256)) * 12_000  # 3 MB


def settings(**more: Any) -> HTTPSettings:
    times = {name: more.pop(name) for name in ("body_s", "request_s", "linger_s") if name in more}
    limits = HTTPLimits(body_memory_bytes=BUFFER_BYTES)
    return HTTPSettings(limits=limits, timeouts=HTTPTimeouts(**times), **more)


def head(path: str, length: int, method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()


class Uploads:
    """An application that does with a body what its path says."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.lost: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.kept: list[Any] = []
        self.go_on = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        file, path = environ["wsgi.input"], environ["PATH_INFO"]
        live = isinstance(getattr(file, "raw", None), LiveBody)
        if path != "/":
            self.begun.put(f"{path} {'live' if live else 'whole'}")
        content = b""
        if path == "/keep":
            self.kept.append(file)
        elif path == "/answer-then-read":
            start_response("200 OK", [])
            return self._after(file)
        elif path == "/stuck":
            assert self.go_on.wait(BOUND_S)
        elif path == "/catch":
            try:
                file.read()
            except BodyLost as error:
                self.lost.put(error)
                start_response("400 Bad Request", [("Content-Length", "4")])
                return [b"lost"]
        elif path != "/early":
            try:
                content = file.read()
            except BaseException as error:
                self.lost.put(error)
                raise
        start_response("200 OK", [])
        said = f"{path} {environ['CONTENT_LENGTH'] if content else 0} {zlib.crc32(content)}"
        return [said.encode()]

    def _after(self, file: Any) -> Iterable[bytes]:
        yield b"begun "
        yield str(zlib.crc32(file.read())).encode()


def expected(path: str, content: bytes) -> str:
    return f"{path} {len(content)} {zlib.crc32(content)}"


def begin(server: WorkerInThread, app: Uploads, path: str, length: int = len(LARGE)) -> Client:
    """Send the first half of an upload; return when the application has been called for it."""
    client = server.connect()
    client.send(head(path, length) + LARGE[: length // 2])
    assert app.begun.get(timeout=BOUND_S) == f"{path} live"
    return client


def finish(client: Client, path: str) -> Response:
    client.send(LARGE[len(LARGE) // 2 :])
    response = client.response()
    assert response.text == expected(path, LARGE)
    return response


# -- what arrives ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
def test_a_large_body_arrives_whole_and_the_connection_is_kept(method: str) -> None:
    app = Uploads()
    with worker(app, settings()) as server, server.connect() as client:
        for _ in range(3):
            response = client.ask(head("/up", len(LARGE), method) + LARGE)
            assert app.begun.get(timeout=BOUND_S) == "/up live"
            assert "connection" not in response.fields
            assert method == "HEAD" or response.text == expected("/up", LARGE)
            assert client.ask(GET).status == 200
        server.until_at_rest()
        assert server.server.pool.promised == server.server.pool.streams == 0


def test_the_application_is_called_before_the_body_is_here() -> None:
    app = Uploads()
    with worker(app, settings()) as server:
        client = begin(server, app, "/up")
        finish(client, "/up")


@pytest.mark.parametrize("size", [1, BUFFER_BYTES - 1, BUFFER_BYTES])
def test_what_fits_into_the_buffer_is_waited_for(size: int) -> None:
    app = Uploads()
    with worker(app, settings()) as server, server.connect() as client:
        assert client.ask(post("/up", LARGE[:size])).text == expected("/up", LARGE[:size])
        assert app.begun.get(timeout=BOUND_S) == "/up whole"


def test_a_body_in_chunks_is_waited_for() -> None:
    app = Uploads()
    request = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with worker(app, settings()) as server, server.connect() as client:
        client.send(request + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE))
        assert client.response().text == expected("/up", LARGE)
        assert app.begun.get(timeout=BOUND_S) == "/up whole"


def test_a_request_behind_a_large_body_is_the_next() -> None:
    app = Uploads()
    with worker(app, settings()) as server, server.connect() as client:
        client.send(head("/up", len(LARGE)) + LARGE + get("/a") + post("/b", b"content"))
        assert client.response().text == expected("/up", LARGE)
        assert client.response().text == "/a 0 0"
        assert client.response().text == expected("/b", b"content")


def test_the_client_is_told_to_continue_first() -> None:
    app = Uploads()
    request = head("/up", len(LARGE)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    with worker(app, settings()) as server, server.connect() as client:
        client.send(request)
        assert client.head().status == 100
        client.send(LARGE)
        assert client.response().text == expected("/up", LARGE)


# -- threads -----------------------------------------------------------------------------------


def test_a_slow_upload_holds_no_busy_thread() -> None:
    app = Uploads()
    with worker(app, settings(max_threads=2)) as server:
        slow = []
        for number in range(6):
            slow.append(begin(server, app, f"/{number}"))
            server.slot.until(lambda: server.slot.streams == len(slow))
        for _ in range(3):
            assert server.connect().ask(GET).status == 200
        assert server.server.pool.busy == 0
        for number, client in enumerate(slow):
            finish(client, f"/{number}")
        server.until_at_rest()
        pool = server.server.pool
        assert pool.busy == pool.streams == pool.promised == 0


def test_without_a_place_aside_the_body_is_waited_for() -> None:
    app = Uploads()
    with worker(app, settings(max_streams=1)) as server:
        slow = begin(server, app, "/slow")
        other = server.connect()
        other.send(head("/other", len(LARGE)) + LARGE[:100_000])
        server.slot.until(lambda: server.slot.incidents.get("SPOOLED") == 1)
        other.send(LARGE[100_000:])
        assert other.response().text == expected("/other", LARGE)
        assert app.begun.get(timeout=BOUND_S) == "/other whole"
        finish(slow, "/slow")


def test_without_streams_every_body_is_waited_for() -> None:
    app = Uploads()
    with worker(app, settings(max_streams=0)) as server, server.connect() as client:
        assert client.ask(post("/up", LARGE)).text == expected("/up", LARGE)
        assert app.begun.get(timeout=BOUND_S) == "/up whole"


def test_without_a_free_thread_the_body_is_waited_for() -> None:
    app = Uploads()
    with worker(app, settings(max_threads=1), sentinel=False) as server:
        other = server.connect()
        request = head("/other", len(LARGE)) + LARGE
        other.send(request[:100])
        server.until_connections(1)
        server.until_next_round()
        stuck = begin(server, app, "/stuck")  # it computes: its thread is busy
        other.send(request[100:])
        server.slot.until(lambda: server.slot.incidents.get("SPOOLED") == 1)
        app.go_on.set()
        assert stuck.response().fields["connection"] == "close"
        assert other.response().text == expected("/other", LARGE)


def test_without_another_thread_to_be_had_the_body_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Uploads()
    with worker(app, settings()) as server, server.connect() as client:
        monkeypatch.setattr(server.server.pool, "submit", lambda job: False)
        assert client.ask(post("/up", LARGE)).text == expected("/up", LARGE)
        assert app.begun.get(timeout=BOUND_S) == "/up whole"
        assert server.server.pool.promised == 0


# -- answers before the end --------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/early", "/keep"])
def test_an_answer_before_the_end_closes_and_can_be_read(path: str) -> None:
    app = Uploads()
    with worker(app, settings()) as server:
        client = begin(server, app, path)
        response = client.response()
        assert response.status == 200
        assert response.fields["connection"] == "close"
        client.send(LARGE[len(LARGE) // 2 :] + GET)  # it goes on sending, and is not reset
        client.assert_closed()
        assert server.slot.errors == 0


def test_what_has_been_kept_reads_nothing_after_the_answer() -> None:
    app = Uploads()
    with worker(app, settings()) as server:
        client = begin(server, app, "/keep")
        assert client.response().status == 200
        client.close()
        server.until_connections(0)
        with pytest.raises(ValueError, match=r"closed|over"):
            app.kept[0].read()


def test_an_answer_that_begins_before_the_body_is_read_closes() -> None:
    app = Uploads()
    with worker(app, settings()) as server:
        client = begin(server, app, "/answer-then-read")
        client.send(LARGE[len(LARGE) // 2 :])
        response = client.response()
        assert response.fields["connection"] == "close"
        assert response.text == f"begun {zlib.crc32(LARGE)}"
        client.assert_closed()


# -- clients that fail -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "half_close", "reset"])
def test_a_client_that_goes_is_no_failure_of_the_application(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Uploads()
    with caplog.at_level(logging.INFO), worker(app, settings()) as server:
        client = begin(server, app, "/up")
        getattr(client, how)()
        assert isinstance(app.lost.get(timeout=BOUND_S), BodyLost)
        if how == "half_close":
            client.assert_closed()
        server.until_connections(0)
        assert server.slot.errors == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_client_that_is_too_slow_is_told_so() -> None:
    app = Uploads()
    with worker(app, settings(body_s=0.1)) as server:
        client = begin(server, app, "/up")
        response = client.response()
        assert response.status == 408
        assert response.fields["connection"] == "close"
        client.assert_closed()
        assert server.slot.incidents == {"TOO_LATE": 1}
        assert server.slot.errors == 0


def test_an_application_may_answer_a_lost_body() -> None:
    app = Uploads()
    with worker(app, settings(body_s=0.1)) as server:
        client = begin(server, app, "/catch")
        response = client.response()
        assert (response.status, response.text) == (400, "lost")
        assert response.fields["connection"] == "close"
        assert isinstance(app.lost.get(timeout=BOUND_S), BodyLost)


def test_a_response_that_has_begun_is_cut_when_the_body_is_lost() -> None:
    app = Uploads()
    with worker(app, settings(body_s=0.1)) as server:
        client = begin(server, app, "/answer-then-read")
        assert client.head().status == 200
        assert client.chunk() == b"begun "
        client.assert_closed()
        assert server.slot.errors == 0


# -- the server's time -------------------------------------------------------------------------


def test_a_stuck_application_is_written_off_and_reads_no_more() -> None:
    app = Uploads()
    with worker(app, settings(request_s=0.2, linger_s=0.2)) as server:
        client = begin(server, app, "/stuck")
        assert client.response().status == 504
        app.go_on.set()
        client.assert_closed()
        server.until_connections(0)
        assert server.server.pool.promised == 0


def test_the_time_of_a_slow_client_is_not_the_applications() -> None:
    app = Uploads()
    with worker(app, settings(request_s=0.2)) as server:
        client = begin(server, app, "/up")
        client.assert_silent(0.6)
        finish(client, "/up")


def test_a_server_that_stops_waits_for_the_upload() -> None:
    app = Uploads()
    with worker(app, settings()) as server:
        client = begin(server, app, "/up")
        server.order(Order.STOP)
        server.until_next_round()
        assert finish(client, "/up").fields["connection"] == "close"
        server.until_left()


def test_a_server_that_ends_at_once_cuts_the_upload() -> None:
    app = Uploads()
    with worker(app, settings()) as server:
        client = begin(server, app, "/up")
        server.order(Order.NOW)
        assert isinstance(app.lost.get(timeout=BOUND_S), BodyLost)
        client.assert_closed()
        server.until_left()


def test_the_file_is_one_that_frameworks_know() -> None:
    files: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        files.append(type(environ["wsgi.input"]))
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return []

    with worker(app, settings()) as server, server.connect() as client:
        client.ask(post("/", LARGE))
    assert files == [io.BufferedReader]
