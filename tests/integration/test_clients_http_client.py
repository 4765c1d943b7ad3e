"""http.client, and by hand what it cannot do: pipelines, expectations, half-closed connections."""

from __future__ import annotations

import http.client
import io
import json
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.apps.client_wire import WHOLE, digest, pieces
from tests.integration.conftest import Serve
from tests.integration.server_process import APPS, Answer, Hold, ServerProcess, ask

MAX_BODY = 4 << 20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.fixture(scope="module")
def server(serve_all: Serve) -> ServerProcess:
    """A server for all of the module's tests."""
    limits = ("--max-workers", "2", "--max-body", str(MAX_BODY))
    return serve_all("client_wire:app", *limits, chdir=APPS)


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[http.client.HTTPConnection]:
    """A connection that is opened by its first request."""
    connection = server.connection()
    yield connection
    connection.close()


class Pipeline:
    """Several requests on one connection, sent before the first response is read."""

    def __init__(self, server: ServerProcess) -> None:
        self.socket = server.connect()
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *requests: tuple[str, str, bytes]) -> None:
        """Send method, target and body of some requests in one go."""
        self.socket.sendall(
            b"".join(
                f"{method} {target} HTTP/1.1\r\nHost: test\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
                for method, target, body in requests
            )
        )

    def makefile(self, _mode: str) -> _Shared:
        """Give a response the file that the next one will go on with."""
        return _Shared(self._file)

    def read(self, method: str = "GET") -> Answer:
        """Read the next response."""
        response = http.client.HTTPResponse(self, method=method)  # type: ignore[arg-type]
        response.begin()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())

    def at_end(self) -> bool:
        """Whether the server has closed, and nothing was left over."""
        return self._file.read(1) == b""


class _Shared:
    """A file that does not end with the response that is read from it."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        """Do nothing."""


def test_a_connection_is_used_again_after_every_kind_of_response(
    connection: http.client.HTTPConnection,
) -> None:
    ask(connection, "/whole")
    first = connection.sock
    for _ in range(3):
        for target, status in (
            ("/missing", 404),
            ("/empty", 204),
            ("/tagged", 200),
            ("/moved", 303),
            ("/sized?bytes=0", 200),
            ("/stream?bytes=0", 200),
            ("/file?bytes=0", 200),
        ):
            assert ask(connection, target).status == status
            # http.client lets go of its socket when a response is the last one.
            assert connection.sock is first
            head = ask(connection, target, "HEAD")
            assert (head.status, head.body) == (status, b"")
            assert connection.sock is first
        answer = ask(connection, "/tagged", headers={"If-None-Match": '"one"'})
        assert (answer.status, answer.body) == (304, b"")
        assert ask(connection, "/whole").body == WHOLE
        assert connection.sock is first


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
def test_head_says_what_get_says(connection: http.client.HTTPConnection, view: str) -> None:
    target = f"/{view}?bytes=100000"
    head, got = ask(connection, target, "HEAD"), ask(connection, target)
    assert head.body == b""
    assert got.body == b"".join(pieces(100_000))
    # RFC 9112 section 6.1: Transfer-Encoding may stand in the answer to HEAD, but need not.
    different = {"date", "transfer-encoding"}
    assert {name: head.headers[name] for name in head.headers.keys() - different} == {
        name: got.headers[name] for name in got.headers.keys() - different
    }


@pytest.mark.parametrize(
    "sizes",
    [[], [1], [1] * 300, [65536, 1, 65535, 3, 200_000], [0, 5, 0, 7], [1 << 20, 1 << 20]],
    ids=lambda sizes: f"{len(sizes)}-{sum(sizes)}",
)
def test_chunks_of_any_size_arrive(
    connection: http.client.HTTPConnection, sizes: list[int]
) -> None:
    content = b"".join(pieces(sum(sizes)))
    chunks, at = [], 0
    for size in sizes:
        chunks.append(content[at : at + size])
        at += size
    for _ in range(2):
        answer = ask(connection, "/upload", "PUT", iter(chunks), CHUNKED, chunked=True)
        seen = json.loads(answer.body)
        assert (seen["bytes"], seen["digest"]) == (len(content), digest([content]))


def test_a_client_that_asks_first_is_told_to_go_on(connection: http.client.HTTPConnection) -> None:
    content = b"".join(pieces(1_000_000))
    for _ in range(2):
        connection.putrequest("POST", "/upload")
        connection.putheader("Content-Length", str(len(content)))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.sock.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
        connection.send(content)
        response = connection.getresponse()
        assert json.loads(response.read())["digest"] == digest([content])


def test_a_client_that_asks_first_and_does_not_wait_is_served_too(
    connection: http.client.HTTPConnection,
) -> None:
    content = b"".join(pieces(1_000_000))
    for _ in range(2):
        answer = ask(connection, "/upload", "POST", content, {"Expect": "100-continue"})
        assert json.loads(answer.body)["digest"] == digest([content])


def test_a_client_that_asks_for_too_much_is_told_so(
    connection: http.client.HTTPConnection,
) -> None:
    connection.putrequest("POST", "/upload")
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.getheader("Connection")) == (413, "close")
    response.read()
    assert ask(connection, "/whole").body == WHOLE  # on another connection


def test_a_pipeline_is_answered_in_order(server: ServerProcess) -> None:
    requests: list[tuple[str, str, bytes]] = []
    for number in range(20):
        content = b"".join(pieces(1000 * number))
        requests += [
            ("GET", f"/any?{number}", b""),
            ("POST", "/upload", content),
            ("HEAD", f"/sized?bytes={number}", b""),
            ("GET", f"/stream?bytes={5000 * number}", b""),
            ("GET", "/empty", b""),
        ]
    with Pipeline(server) as pipeline:
        pipeline.send(*requests)
        for number in range(20):
            assert json.loads(pipeline.read().body)["QUERY_STRING"] == str(number)
            expected = digest(pieces(1000 * number))
            assert json.loads(pipeline.read().body)["digest"] == expected
            assert pipeline.read("HEAD").headers["content-length"] == str(number)
            assert pipeline.read().body == b"".join(pieces(5000 * number))
            assert pipeline.read().status == 204


def test_a_closing_response_ends_a_pipeline(server: ServerProcess) -> None:
    with Pipeline(server) as pipeline:
        pipeline.send(("GET", "/whole", b""), ("GET", "/last", b""), ("GET", "/whole", b""))
        assert pipeline.read().body == WHOLE
        assert pipeline.read().headers["connection"] == "close"
        assert pipeline.at_end()


def test_who_sends_no_more_still_gets_every_answer(server: ServerProcess) -> None:
    with Pipeline(server) as pipeline:
        pipeline.send(
            ("GET", "/any?1", b""),
            ("POST", "/upload", b"".join(pieces(100_000))),
            ("GET", "/sized?bytes=3000000", b""),
            ("GET", "/stream?bytes=3000000", b""),
        )
        pipeline.socket.shutdown(socket.SHUT_WR)
        assert json.loads(pipeline.read().body)["QUERY_STRING"] == "1"
        assert json.loads(pipeline.read().body)["digest"] == digest(pieces(100_000))
        assert pipeline.read().body == b"".join(pieces(3_000_000))
        assert pipeline.read().body == b"".join(pieces(3_000_000))
        assert pipeline.at_end()


@pytest.mark.parametrize(("view", "content"), [("waiting", WHOLE), ("held", b"before, after\n")])
def test_who_sends_no_more_while_a_request_runs_still_gets_the_answer(
    server: ServerProcess, hold: Hold, view: str, content: bytes
) -> None:
    with Pipeline(server) as pipeline:
        pipeline.send(("GET", f"/{view}?fifo={hold.path}", b""))
        hold.wait()  # it runs
        pipeline.socket.shutdown(socket.SHUT_WR)
        assert server.get("/whole").body == WHOLE  # the server has looked at it meanwhile
        hold.release()
        assert pipeline.read().body == content
        assert pipeline.at_end()


def test_who_goes_in_the_middle_of_an_upload_harms_nobody(server: ServerProcess) -> None:
    for framing in (
        b"Content-Length: 1000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nff\r\n",
    ):
        for how in (socket.SHUT_WR, socket.SHUT_RDWR):
            with Pipeline(server) as pipeline:
                head = b"POST /upload HTTP/1.1\r\nHost: test\r\n" + framing
                pipeline.socket.sendall(head + b"not all of it")
                pipeline.socket.shutdown(how)
    server.eventually(lambda s: s["connections"] == 0 and s["busy_threads"] == 0)
    assert server.get("/whole").body == WHOLE
    assert server.status()["errors"] == 0


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_refusal_ends_an_upload(connection: http.client.HTTPConnection, framing: str) -> None:
    connection.putrequest("PUT", "/upload")
    if framing == "sized":
        connection.putheader("Content-Length", str(10 * MAX_BODY))
    else:
        connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    sent = send_until_answered(connection, framing == "chunked")
    response = connection.getresponse()
    assert (response.status, response.getheader("Connection")) == (413, "close")
    assert b"413" in response.read()
    assert sent < 10 * MAX_BODY


def send_until_answered(connection: http.client.HTTPConnection, chunked: bool) -> int:
    """Send a body, look for a response between its pieces; return how much was sent."""
    sent = 0
    for piece in pieces(10 * MAX_BODY):
        readable, _, _ = select.select([connection.sock], [], [], 0)
        if readable:
            break
        try:
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        except (BrokenPipeError, ConnectionResetError):
            break  # the server has stopped reading; its answer is still there
        sent += len(piece)
    return sent
