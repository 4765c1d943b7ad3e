"""HTTPServer seen by its clients: requests in, responses out, connections kept or closed."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pytest
from werkzeug.middleware.lint import LintMiddleware

from httpcore_srv import HTTPLimits, HTTPSettings
from httpcore_srv.wsgi import Environ, StartResponse
from tests.unit.httpcore_srv.worker_in_thread import GET, Echo, get, post, worker

MEGABYTE = 1 << 20
SMALL_MEMORY = HTTPSettings(limits=HTTPLimits(body_memory_bytes=1000))
ALWAYS_WHOLE = HTTPSettings(limits=HTTPLimits(body_memory_bytes=1000), max_streams=0)


def chunked(path: str, *chunks: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (*chunks, b""))


def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An application of many paths."""
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise ValueError("before the head")
    if path == "/close":
        start_response("200 OK", [("Connection", "close")])
        return [b"bye"]
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if path == "/large":
        return [b"x" * (10 * MEGABYTE)]
    if path == "/pieces":
        return (b"piece %d;" % number for number in range(3))
    if path == "/break":
        return broken()
    return [b"hello"]


def broken() -> Iterator[bytes]:
    yield b"begun"
    raise ValueError("after the head")


# -- keeping connections ----------------------------------------------------------------------


def test_an_http_1_1_connection_is_kept() -> None:
    with worker() as server, server.connect() as client:
        for number in range(3):
            response = client.ask(get(f"/{number}"))
            assert (response.status, response.text) == (200, f"app /{number} ")
            assert "connection" not in response.fields


def test_an_http_1_0_connection_is_closed() -> None:
    with worker() as server, server.connect() as client:
        response = client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert response.fields["connection"] == "close"
        client.assert_closed()


def test_an_http_1_0_connection_is_kept_when_asked_for() -> None:
    with worker() as server, server.connect() as client:
        for _ in range(3):
            response = client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert response.fields["connection"] == "keep-alive"


def test_a_connection_is_closed_when_the_client_asks_for_it() -> None:
    with worker() as server, server.connect() as client:
        assert client.ask(get("/", "Connection: close")).fields["connection"] == "close"
        client.assert_closed()
        server.until_connections(0)


def test_a_connection_is_closed_when_the_application_asks_for_it() -> None:
    with worker(answer) as server, server.connect() as client:
        assert client.ask(get("/close")).fields["connection"] == "close"
        client.assert_closed()


# -- pipelining -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 50, 300])
def test_pipelined_requests_are_answered_in_order(count: int) -> None:
    with worker() as server, server.connect() as client:
        client.send(b"".join(get(f"/{number}") for number in range(count)))
        for number in range(count):
            assert client.response().text == f"app /{number} "


def test_pipelined_requests_may_come_byte_by_byte() -> None:
    requests = get("/1") + post("/2", b"content") + chunked("/3", b"chu", b"nks") + get("/4")
    with worker() as server, server.connect() as client:
        for position in range(len(requests)):
            client.send(requests[position : position + 1])
        for expected in ("app /1 ", "app /2 content", "app /3 chunks", "app /4 "):
            assert client.response().text == expected


def test_pipelined_requests_wait_for_a_blocking_one_and_keep_their_order() -> None:
    app = Echo()
    with worker(app) as server, server.connect() as client:
        client.send(get("/wait/1") + get("/2") + get("/wait/3") + post("/4", b"end"))
        assert app.gate.entered() == "/wait/1"
        app.gate.open()
        assert app.gate.entered() == "/wait/3"
        app.gate.open()
        for expected in ("app /wait/1 ", "app /2 ", "app /wait/3 ", "app /4 end"):
            assert client.response().text == expected


def test_many_clients_that_pipeline_without_end_are_all_answered() -> None:
    with worker() as server:
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            client.send(get("/x") * 700)
        for client in clients:
            for _ in range(700):
                assert client.response().status == 200


# -- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SMALL_MEMORY, ALWAYS_WHOLE])
@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 70_000, 3 * MEGABYTE])
def test_a_body_with_a_length_reaches_the_application_whole(
    size: int, settings: HTTPSettings
) -> None:
    content = (b"0123456789" * (size // 10 + 1))[:size]
    with worker(settings=settings) as server, server.connect() as client:
        for _ in range(2):
            assert client.ask(post("/", content)).content == b"app / " + content


@pytest.mark.parametrize("size", [1, 999, 1001, 70_000, 3 * MEGABYTE])
def test_a_chunked_body_reaches_the_application_whole(size: int) -> None:
    content = (b"0123456789" * (size // 10 + 1))[:size]
    chunks = [content[start : start + 5000] for start in range(0, size, 5000)]
    with worker(settings=SMALL_MEMORY) as server, server.connect() as client:
        for _ in range(2):
            assert client.ask(chunked("/", *chunks)).content == b"app / " + content


def test_the_length_of_a_chunked_body_is_told() -> None:
    def length(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [environ["CONTENT_LENGTH"].encode()]

    with worker(length) as server, server.connect() as client:
        assert client.ask(chunked("/", b"abc", b"de")).text == "5"


def test_a_body_is_none_of_the_next_request() -> None:
    with worker() as server, server.connect() as client:
        client.send(post("/1", b"content") + get("/2") + post("/3", b"") + get("/4"))
        for expected in ("app /1 content", "app /2 ", "app /3 ", "app /4 "):
            assert client.response().text == expected


@pytest.mark.parametrize("read", [b"", b"GET /"])
def test_a_body_that_the_application_leaves_unread_does_not_disturb_what_follows(
    read: bytes,
) -> None:
    with worker(answer) as server, server.connect() as client:
        client.send(post("/", read * 1000) + get("/"))
        assert [client.response().text for _ in range(2)] == ["hello", "hello"]


def test_a_client_that_expects_100_is_told_to_go_on() -> None:
    with worker() as server, server.connect() as client:
        client.send(post("/", b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 4"))
        assert client.response().status == 100
        client.send(b"body")
        assert client.response().text == "app / body"


def test_a_client_that_does_not_wait_for_100_gets_none() -> None:
    with worker() as server, server.connect() as client:
        assert client.ask(post("/", b"body", "Expect: 100-continue")).text == "app / body"
        assert client.ask(GET).status == 200


# -- responses --------------------------------------------------------------------------------


def test_head_gets_the_fields_and_no_content() -> None:
    with worker(answer) as server, server.connect() as client:
        assert client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").fields["content-length"] == "5"
        assert client.ask(get("/")).text == "hello"


def test_a_response_of_unknown_length_comes_in_chunks() -> None:
    with worker(answer) as server, server.connect() as client:
        assert client.ask(get("/pieces")).chunks == [b"piece 0;", b"piece 1;", b"piece 2;"]
        assert client.ask(get("/")).text == "hello"


def test_a_response_of_unknown_length_ends_with_the_connection_for_http_1_0() -> None:
    with worker(answer) as server, server.connect() as client:
        client.send(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.response().text == "piece 0;piece 1;piece 2;"


def test_a_large_response_arrives_whole_and_the_connection_is_kept() -> None:
    with worker(answer) as server, server.connect() as client:
        for _ in range(2):
            assert client.ask(get("/large")).content == b"x" * (10 * MEGABYTE)


def test_a_large_response_is_followed_by_the_pipelined_next() -> None:
    with worker(answer) as server, server.connect() as client:
        client.send(get("/large") + get("/") + get("/large", "Connection: close"))
        assert len(client.response().content) == 10 * MEGABYTE
        assert client.response().text == "hello"
        assert len(client.response().content) == 10 * MEGABYTE
        client.assert_closed()


def test_an_error_before_the_head_is_a_500_and_the_end() -> None:
    with worker(answer) as server, server.connect() as client:
        response = client.ask(get("/raise"))
        assert (response.status, response.fields["connection"]) == (500, "close")
        client.assert_closed()
        server.slot.until(lambda: server.slot.errors == 1)


def test_an_error_after_the_head_cuts_the_connection() -> None:
    with worker(answer) as server, server.connect() as client:
        client.send(get("/break"))
        assert client.head().status == 200
        assert client.chunk() == b"begun"
        client.assert_closed()  # no last chunk: the client sees that something is missing


def test_the_server_serves_on_after_errors() -> None:
    with worker(answer) as server:
        for path in ("/raise", "/break") * 3:
            with server.connect() as client:
                client.send(get(path))
                client.until_end()
        with server.connect() as client:
            assert client.ask(get("/")).text == "hello"


def test_what_reaches_applications_passes_werkzeugs_lint() -> None:
    def checked(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH", "0")))
        length = str(len(content))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", length)])
        return [content]

    with worker(LintMiddleware(checked)) as server, server.connect() as client:
        assert client.ask(post("/a%20b?c=d", b"content")).text == "content"
        assert client.ask(get("/")).status == 200


# -- files ------------------------------------------------------------------------------------


class Files:
    """Answers with a file, the way Flask's send_file does; notes which it has closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[io.BufferedReader] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        file = self.path.open("rb")
        self.opened.append(file)
        start_response("200 OK", [("Content-Length", str(self.path.stat().st_size))])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped


def test_a_file_reaches_a_slow_client_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * (5 * MEGABYTE // 256)
    path = tmp_path / "file"
    path.write_bytes(content)
    app = Files(path)
    with worker(app, HTTPSettings(max_threads=1)) as server:
        slow = server.connect(receive_buffer_bytes=4096)
        slow.send(GET + GET)
        assert slow.head().fields["content-length"] == str(len(content))
        # The slow one holds no thread: others are answered meanwhile.
        with server.connect() as other:
            assert other.ask(GET).content == content
        assert slow.read(len(content)) == content
        assert slow.response().content == content
        assert all(file.closed for file in app.opened)


def rest_of_file(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the rest of a file of which something was read before."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(b"0123456789"[: 4 if environ["PATH_INFO"] == "/empty" else 10])
    file.seek(4)
    status = "304 Not Modified" if environ["PATH_INFO"] == "/304" else "200 OK"
    start_response(status, [("Content-Length", "6")] if status[0] == "3" else [])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
    return wrapped


def test_a_part_of_a_file_that_was_read_before_is_not_sent() -> None:
    with worker(rest_of_file) as server, server.connect() as client:
        for _ in range(3):
            assert client.ask(GET).text == "456789"


def test_an_object_in_memory_can_be_wrapped_as_a_file() -> None:
    def in_memory(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 100_000))
        return wrapped

    with worker(in_memory) as server, server.connect() as client:
        assert client.ask(GET).content == b"x" * 100_000


# -- clients that half-close or go away -------------------------------------------------------


def test_a_half_closed_client_gets_its_answers() -> None:
    app = Echo()
    with worker(app) as server, server.connect() as client:
        client.send(get("/1") + get("/wait/2") + get("/3"))
        client.half_close()
        app.gate.entered()
        app.gate.open()
        for expected in ("app /1 ", "app /wait/2 ", "app /3 "):
            assert client.response().text == expected
        client.assert_closed()
        server.until_connections(0)


def test_a_half_closed_client_gets_the_whole_of_a_large_response() -> None:
    with worker(answer) as server, server.connect() as client:
        client.send(get("/large"))
        client.half_close()
        assert len(client.response().content) == 10 * MEGABYTE
        client.assert_closed()


@pytest.mark.parametrize("begun", [b"", b"GET / HT", post("/", b"body")[:-1]])
@pytest.mark.parametrize("manner", ["close", "reset"])
def test_a_client_that_leaves_before_its_request_costs_nothing(begun: bytes, manner: str) -> None:
    with worker() as server:
        client = server.connect()
        client.send(begun)
        server.until_connections(1)
        getattr(client, manner)()
        server.until_connections(0)
        assert server.slot.begun_count == 0


@pytest.mark.parametrize("manner", ["close", "reset"])
def test_a_client_that_leaves_during_its_request_costs_nothing(manner: str) -> None:
    app = Echo()
    with worker(app) as server:
        client = server.connect()
        client.send(get("/wait") + get("/next"))
        app.gate.entered()
        getattr(client, manner)()
        app.gate.open()
        server.until_connections(0)
        server.slot.until(lambda: server.slot.busy_count == 0)
        assert server.connect().ask().status == 200


@pytest.mark.parametrize("manner", ["close", "reset"])
@pytest.mark.parametrize("path", ["/large", "/pieces"])
def test_a_client_that_leaves_during_its_response_costs_nothing(manner: str, path: str) -> None:
    with worker(answer) as server:
        client = server.connect(receive_buffer_bytes=4096)
        client.send(get(path))
        client.head()
        getattr(client, manner)()
        server.until_connections(0)
        server.slot.until(lambda: server.slot.busy_count == 0)
        assert server.connect().ask().status == 200


@pytest.mark.parametrize("manner", ["close", "reset"])
def test_a_client_that_leaves_after_its_response_costs_nothing(manner: str) -> None:
    with worker() as server:
        client = server.connect()
        client.ask()
        getattr(client, manner)()
        server.until_connections(0)


# -- what once went wrong ---------------------------------------------------------------------


def test_a_last_response_reaches_a_client_that_has_pipelined_more() -> None:
    with worker(answer) as server, server.connect(receive_buffer_bytes=4096) as client:
        client.send(get("/large", "Connection: close"))
        response = client.head()  # by now the request is read, and the server only writes
        client.send(GET)
        assert len(client.read(int(response.fields["content-length"]))) == 10 * MEGABYTE


def test_the_file_of_a_large_body_is_closed_with_its_request() -> None:
    bodies = []

    def keeping(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        bodies.append(environ["wsgi.input"])
        start_response("200 OK", [])
        return [b"kept"]

    with worker(keeping, SMALL_MEMORY) as server, server.connect() as client:
        assert client.ask(post("/", b"x" * 2000)).text == "kept"
        assert client.ask(GET).text == "kept"
        closed = bodies[0].closed
        bodies[0].close()
        assert closed


@pytest.mark.parametrize("request_line", [b"HEAD / HTTP/1.1", b"GET /304 HTTP/1.1"])
def test_a_file_whose_content_is_not_wanted_keeps_the_connection(request_line: bytes) -> None:
    with worker(rest_of_file) as server, server.connect() as client:
        response = client.ask(request_line + b"\r\nHost: a\r\n\r\n")
        assert response.fields["content-length"] == "6"
        assert client.ask(GET).text == "456789"
        assert server.slot.errors == 0


def test_the_head_of_an_empty_file_is_not_held_back() -> None:
    with worker(rest_of_file) as server, server.connect() as client:
        began = time.monotonic()
        for _ in range(10):
            assert client.ask(get("/empty")).text == ""
        assert time.monotonic() - began < 1.5


def test_a_file_that_cannot_be_sent_for_want_of_descriptors_is_a_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_descriptors(fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    path = tmp_path / "file"
    path.write_bytes(b"content")
    with worker(Files(path)) as server, server.connect() as client:
        monkeypatch.setattr(os, "dup", no_more_descriptors)
        assert client.ask(GET).status == 500


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spool files are on a disk without room; the last bytes of one notice it at flush only."""
    files: list[io.BufferedRandom] = []

    def make(**_: object) -> IO[bytes]:
        files.append(open("/dev/full", "w+b"))  # noqa: SIM115
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    yield
    for file in files:
        file.raw.close()


def test_a_body_whose_last_bytes_find_the_disk_full_is_a_507(full_disk: None) -> None:
    with worker(settings=SMALL_MEMORY) as server:
        assert server.connect().ask(post("/", b"x" * 2000)).status == 507
        assert server.connect().ask(GET).status == 200


def test_a_client_that_leaves_half_a_body_on_a_full_disk_costs_nothing(full_disk: None) -> None:
    with worker(settings=SMALL_MEMORY) as server:
        client = server.connect()
        client.send(post("/", b"x" * 2000)[:-1])
        server.until_connections(1)
        client.close()
        server.until_connections(0)
        assert server.connect().ask(GET).status == 200


def test_a_body_that_finds_the_disk_full_is_a_507(full_disk: None) -> None:
    with worker(settings=ALWAYS_WHOLE) as server, server.connect() as client:
        assert client.ask(post("/", b"x" * 200_000)).status == 507
        assert server.connect().ask(GET).status == 200


def test_an_access_log_on_a_full_disk_does_not_end_the_worker() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with worker(access_log_fd=fd) as server, server.connect() as client:
            for _ in range(3):
                assert client.ask(GET).status == 200
    finally:
        os.close(fd)
