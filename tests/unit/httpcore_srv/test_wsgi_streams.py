"""Exchange: interim responses, CONNECT, and what is known of a response while it goes on."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from httpcore_srv.errors import AppError
from httpcore_srv.settings import HTTPLimits
from httpcore_srv.wsgi import LARGE_BYTES, Exchange, WSGIHandler
from tests.unit.httpcore_srv.wsgi_rig import (
    GET,
    OK,
    OLD_GET,
    TEXT,
    Environ,
    FakeConditions,
    FakeConnection,
    FakeSink,
    Served,
    StartResponse,
    answering,
    length,
    parsed,
    serve,
)

LINK = ("Link", "</style.css>; rel=preload")
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
CONNECT = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
PASSING = HTTPLimits(pass_connect=True)


def hinting(*headers: Any, before: bool = True) -> Callable[..., Iterable[bytes]]:
    """An application that sends hints, before or after it calls start_response."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not before:
            start_response(OK, TEXT)
        environ["wsgi.early_hints"](list(headers))
        if before:
            start_response(OK, TEXT)
        return [b"content"]

    return app


# -- 103 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_hints_go_out_before_the_response(before: bool) -> None:
    served = serve(hinting(LINK, before=before))
    assert served.sink.calls == ["hint", "finish"]
    assert served.sink.data.startswith(HINTS + b"HTTP/1.1 200 OK\r\n")
    assert served.sink.data.endswith(b"content")
    assert served.exchange.keep_alive
    assert served.exchange.sent == len(b"content")


def test_hints_may_come_more_than_once_and_be_empty() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        for headers in ([LINK], [], [LINK, ("X-Any", "thing")]):
            environ["wsgi.early_hints"](headers)
        start_response(OK, TEXT)
        return [b"content"]

    served = serve(app)
    assert served.sink.calls == ["hint"] * 3 + ["finish"]
    assert served.sink.data.count(b"HTTP/1.1 103 Early Hints\r\n") == 3
    assert served.sink.data.count(b"X-Any: thing\r\n\r\n") == 1


def test_an_old_client_gets_no_hints() -> None:
    served = serve(hinting(LINK), OLD_GET)
    assert served.sink.calls == ["finish"]
    assert served.body() == b"content"


def test_hints_after_the_head_are_dropped() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, TEXT)
        yield b"one"
        environ["wsgi.early_hints"]([LINK])
        yield b"two"

    served = serve(app)
    assert "hint" not in served.sink.calls
    assert served.body() == b"onetwo"


@pytest.mark.parametrize(
    "header",
    [
        ("Content-Length", "5"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("Keep-Alive", "timeout=5"),
        ("Upgrade", "h2c"),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Server", "other"),
        ("Link", "a\r\nb"),
        ("Link", "a\nX-Injected: b"),
        ("Li nk", "a"),
        ("", "a"),
        ("Link", "caf\u0113"),
        ("Link", 5),
        (5, "a"),
        ("Link",),
        ("Link", "a", "b"),
        "Link: a",
        None,
    ],
)
@pytest.mark.parametrize("raw", [GET, OLD_GET])
def test_a_header_that_cannot_be_in_hints_is_the_applications_error(
    header: Any, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(hinting(LINK, header), raw)
    assert "hint" not in served.sink.calls
    assert served.status() == 500
    assert served.exchange.failed
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], AppError)


def test_an_application_may_catch_the_error_and_go_on() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with pytest.raises(AppError):
            environ["wsgi.early_hints"]([("Content-Length", "5")])
        start_response(OK, TEXT)
        return [b"content"]

    served = serve(app)
    assert served.body() == b"content"
    assert served.exchange.keep_alive


def test_a_client_that_goes_at_the_hints_is_found_gone_by_the_response() -> None:
    reached: list[bool] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.early_hints"]([LINK])
        reached.append(True)
        start_response(OK, TEXT)
        return [b"content"]

    served = serve(app, gone_after=0)
    assert reached == [True], "hints are no reason to end a request"
    assert not served.exchange.keep_alive
    assert not served.exchange.failed


def test_hints_are_no_beginning_of_the_response() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.early_hints"]([LINK])
        raise ValueError("oops")

    served = serve(app)
    assert served.sink.data.startswith(HINTS + b"HTTP/1.1 500 ")
    assert served.exchange.failed


# -- CONNECT -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "299 Whatever"])
def test_a_tunnel_cannot_be_begun(status: str, caplog: pytest.LogCaptureFixture) -> None:
    served = serve(answering([b""], [], status), CONNECT, limits=PASSING)
    assert served.sink.data.startswith(b"HTTP/1.1 500 ")
    assert served.exchange.failed
    assert not served.exchange.keep_alive
    assert len(caplog.records) == 1


@pytest.mark.parametrize("status", ["403 Forbidden", "405 Method Not Allowed", "302 Found"])
def test_any_other_answer_to_connect_passes_and_ends_the_connection(status: str) -> None:
    served = serve(answering([b"no"], TEXT, status), CONNECT, limits=PASSING)
    assert served.sink.data.startswith(b"HTTP/1.1 " + status.encode() + b"\r\n")
    assert b"\r\nConnection: close\r\n" in served.sink.data
    assert served.sink.data.endswith(b"\r\n\r\nno")
    assert not served.exchange.failed
    assert not served.exchange.keep_alive


# -- a response that goes on ---------------------------------------------------------------------


class Watched:
    """An exchange that is asked at each step what it knows of itself."""

    def __init__(self, raw: bytes = GET) -> None:
        request, _ = parsed(raw)
        self.sink = FakeSink()
        self.exchange = Exchange(request, FakeConnection(), self.sink, FakeConditions())
        self.seen: list[bool] = []

    def note(self) -> None:
        self.seen.append(self.exchange.is_stream)

    def serve(self, app: Callable[..., Any]) -> Served:
        self.note()
        WSGIHandler(app).handle({}, self.exchange)
        self.note()
        return Served(self.sink, self.exchange, "GET")


@pytest.mark.parametrize("headers", [TEXT, length(6)])
def test_a_response_is_a_stream_between_its_first_and_its_last_piece(
    headers: list[tuple[str, str]],
) -> None:
    watched = Watched()

    def pieces() -> Iterator[bytes]:
        for piece in (b"one", b"two"):
            watched.note()
            yield piece
        watched.note()

    served = watched.serve(answering(pieces, headers))
    # With a length, the second piece is known to be the last.
    assert watched.seen == [False, False, True, headers is TEXT, False]
    assert served.body() == b"onetwo"


@pytest.mark.parametrize("content", [[b"all"], [], [b"a", b"b"], (b"a",)])
def test_a_response_that_is_all_there_is_no_stream(content: Any) -> None:
    watched = Watched()
    watched.serve(answering(content))
    assert watched.seen == [False, False]


def test_an_application_that_fails_is_no_stream_any_more() -> None:
    watched = Watched()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        watched.note()
        raise ValueError("oops")

    watched.serve(answering(pieces))
    assert watched.seen == [False, True, False]


@pytest.mark.parametrize(
    ("headers", "endless"),
    [
        ([("Content-Type", "text/event-stream")], True),
        ([("X-Any", "1"), ("content-TYPE", "text/event-stream; charset=utf-8")], True),
        (TEXT, False),
        ([], False),
        ([("X-Content-Type", "text/event-stream")], False),
        ([("Accept", "text/event-stream")], False),
        ([("Content-Type", "application/json")], False),
    ],
)
def test_a_stream_of_events_is_known_by_its_type_before_anything_was_sent(
    headers: list[tuple[str, str]], endless: bool
) -> None:
    watched = Watched()
    assert not watched.exchange.is_event_stream
    watched.exchange.start_response(OK, headers)
    assert watched.exchange.is_event_stream is endless
    assert not watched.exchange.is_stream


class Hostile(list[Any]):
    """A list that cannot be looked at."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "headers",
    [
        [None],
        [5],
        ["Content-Type"],
        [("Content-Type",)],
        [("Content-Type", None)],
        [(b"Content-Type", b"text/event-stream")],
        [["Content-Type", "text/event-stream"]],
    ],
)
def test_whatever_an_application_gave_as_headers_can_be_looked_at(headers: Any) -> None:
    # The loop's own thread asks, before anybody has checked them.
    watched = Watched()
    watched.exchange.start_response(OK, headers)
    assert not watched.exchange.is_event_stream


@pytest.mark.parametrize("headers", [None, 5, object(), Hostile()])
def test_what_is_no_list_of_headers_fails_in_the_applications_own_thread(
    headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched()
    asked: list[bool] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            start_response(OK, headers)
        finally:
            asked.append(watched.exchange.is_event_stream)
        return [b"content"]

    served = watched.serve(app)
    assert asked == [False]
    assert served.status() == 500
    assert len(caplog.records) == 1


def test_headers_that_can_be_read_only_once_are_sent_all_the_same() -> None:
    watched = Watched()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, (pair for pair in [("X-One", "1"), ("X-Two", "2")]))
        assert not watched.exchange.is_event_stream
        return [b"content"]

    served = watched.serve(app)
    assert (served.header("X-One"), served.header("X-Two")) == ("1", "2")


# -- large contents --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES + 1])
def test_large_content_is_not_copied_and_arrives_whole(size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    served = serve(answering([content]))
    assert served.header("Content-Length") == str(size)
    assert served.body() == content
    assert served.exchange.sent == size
    assert served.sink.calls == ["finish"]
    assert any(large is content for large in served.sink.large) == (size > LARGE_BYTES)


def test_head_of_large_content_sends_nothing_of_it() -> None:
    raw = GET.replace(b"GET", b"HEAD")
    served = serve(answering([b"x" * (LARGE_BYTES + 1)]), raw)
    assert served.header("Content-Length") == str(LARGE_BYTES + 1)
    assert served.sink.data.endswith(b"\r\n\r\n")
    assert served.exchange.sent == 0


# -- a response that ends too early -----------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "last"),
    [(GET, "finish"), (b"GET / HTTP/1.0\r\n\r\n", "abort"), (OLD_GET, "abort")],
)
def test_a_client_can_always_tell_that_it_has_not_got_all(
    raw: bytes, last: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("oops")

    served = serve(answering(pieces), raw)
    assert served.sink.calls == ["send", last]
    assert not served.exchange.keep_alive
    if last == "finish":
        with pytest.raises(http.client.IncompleteRead):
            served.body()
