"""Requirements of the RFCs and of PEP 3333 that are nobody else's (see docs/http.md)."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator

import pytest

from httpcore_srv import HTTPSettings
from httpcore_srv.connection import State
from httpcore_srv.environ import Environ, Environs, base_environ
from httpcore_srv.messages import END_OF_MESSAGE, RequestHead
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.settings import HTTPLimits, HTTPTimeouts
from httpcore_srv.stream import RECEIVE_BYTES
from httpcore_srv.wsgi import StartResponse
from tests.fakes.worker import FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    Client,
    Echo,
    Gate,
    WorkerInThread,
    get,
    post,
    worker,
)


def assert_head_only(client: Client, status: int) -> None:
    """The answer has this status, says how long its content would be, and has none."""
    head = client.head()
    assert (head.status, head.fields["connection"]) == (status, "close")
    assert int(head.fields["content-length"]) > 0
    client.assert_closed()


def states(server: WorkerInThread) -> list[State]:
    """Return the states of the connections."""
    return [stream.connection.state for stream in list(server.server.streams.values())]


def parsed(data: bytes) -> tuple[RequestHead, bytes]:
    """Return the head and the content of the one request in `data`."""
    parser = HTTPRequest(HTTPLimits())
    parser.receive_data(data)
    head = parser.next_message()
    assert isinstance(head, RequestHead)
    content = b""
    while head.has_body and (piece := parser.next_message()) is not END_OF_MESSAGE:
        assert isinstance(piece, bytes)
        content += piece
    return head, content


# -- HEAD: no content in any answer (RFC 9110 section 9.3.2) -----------------------------------


def test_a_head_request_that_waited_too_long_gets_a_503_without_content() -> None:
    clock = FakeClock()
    app = Echo()
    settings = HTTPSettings(max_threads=1, timeouts=HTTPTimeouts(queue_s=5))
    with worker(app, settings, clock_ns=clock) as server:
        server.use_pool()  # the loop goes on while the request runs
        running, waiting = server.connect(), server.connect()
        for client in (running, waiting):
            assert client.ask().status == 200
        server.until_at_rest()
        # Half of it is read while a thread is free: of a request that waits unread nobody
        # knows that it is a HEAD.
        request = get("/").replace(b"GET", b"HEAD")
        waiting.send(request[:-2])
        server.slot.until(lambda: State.RECEIVING_HEAD in states(server))
        running.send(get("/wait"))
        app.gate.entered()
        waiting.send(request[-2:])
        server.until_waiting(1)
        server.pass_time(clock, 6)
        assert_head_only(waiting, 503)
        app.gate.open()
        assert running.response().status == 200


def test_a_head_request_that_took_too_long_gets_a_504_without_content() -> None:
    clock = FakeClock()
    app = Echo()
    settings = HTTPSettings(timeouts=HTTPTimeouts(request_s=5))
    with worker(app, settings, clock_ns=clock) as server, server.connect() as client:
        server.use_pool()
        client.send(get("/wait").replace(b"GET", b"HEAD"))
        app.gate.entered()
        try:
            server.pass_time(clock, 6)
            assert_head_only(client, 504)
        finally:
            # A worker with a stuck thread ends its process at the end, which is this one.
            app.gate.open()
            server.slot.until(lambda: not server.server.pool.written_off)


# -- what is the application's affair ----------------------------------------------------------


def test_content_codings_of_requests_are_handed_on_undecoded() -> None:
    # RFC 9110 section 8.4: a property of the representation, not of the message.
    content = gzip.compress(b"content")
    head, received = parsed(post("/", content, "Content-Encoding: gzip"))
    assert received == content
    assert head.fields.environ["HTTP_CONTENT_ENCODING"] == "gzip"
    assert head.fields.environ["CONTENT_LENGTH"] == str(len(content))


def test_the_scheme_is_that_of_the_connection_whatever_the_target_says() -> None:
    head, _ = parsed(b"GET https://other/x HTTP/1.1\r\nHost: a\r\n\r\n")
    environ = Environs(base_environ("host", "80", False)).make(head)
    assert (environ["wsgi.url_scheme"], environ["SERVER_PORT"]) == ("http", "80")
    assert (environ["HTTP_HOST"], environ["PATH_INFO"]) == ("other", "/x")
    assert environ["REQUEST_URI"] == "https://other/x"


# -- what is read ahead ------------------------------------------------------------------------


def test_no_more_than_one_piece_is_read_ahead_of_the_request_that_runs() -> None:
    app = Echo()
    padding = "X-Padding: " + "x" * 1000
    pipelined = get("/next", padding) * 300
    assert len(pipelined) > 4 * RECEIVE_BYTES
    with worker(app) as server, server.connect() as client:
        server.use_pool()  # the loop could read on while the request runs
        client.send(get("/wait"))
        app.gate.entered()
        sender = threading.Thread(target=client.send, args=(pipelined,))
        sender.start()
        for _ in range(5):
            server.until_next_round()
        (stream,) = server.server.streams.values()
        assert stream.connection.unparsed_bytes <= RECEIVE_BYTES
        app.gate.open()
        assert client.response().text == "app /wait "
        for _ in range(300):
            assert client.response().text == "app /next "
        sender.join()


# -- transmission must not be delayed (PEP 3333, "Buffering and Streaming") --------------------


@pytest.mark.parametrize("max_streams", [0, 1])
def test_a_piece_is_sent_to_its_end_while_the_application_makes_the_next(max_streams: int) -> None:
    gate = Gate()
    piece = b"x" * (16 << 20)  # more than the kernel's buffers hold

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(len(piece) + 4))])
        yield piece
        gate.pass_through("/")
        yield b"next"

    settings = HTTPSettings(max_threads=1, max_streams=max_streams)
    with worker(app, settings) as server, server.connect() as client:
        client.send(get("/"))
        try:
            client.head()
            assert client.read(len(piece)) == piece
            gate.entered()
        finally:
            gate.open()
        assert client.read(4) == b"next"
