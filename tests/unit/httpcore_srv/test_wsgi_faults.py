"""WSGIHandler: faults of applications at every point, and what the client and the log get."""

from __future__ import annotations

import http.client
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from httpcore_srv.errors import AppError, PeerGone
from tests.unit.httpcore_srv.wsgi_rig import (
    GET,
    HEAD,
    OK,
    OLD_GET,
    TEXT,
    Application,
    Closable,
    Environ,
    Served,
    StartResponse,
    answering,
    length,
    serve,
)


class Unusual(BaseException):
    """Neither an Exception nor one of the interpreter's own."""


class Unspeakable(Exception):
    """Nothing can be said about it."""

    def __str__(self) -> str:
        raise SystemExit(4)

    __repr__ = __str__


def recurse() -> None:
    recurse()


def deep() -> BaseException:
    """A RecursionError that was really one."""
    try:
        recurse()
    except RecursionError as error:
        return error
    raise AssertionError("no end of the stack")


ERRORS = [
    ValueError("oops"),
    SystemExit(0),
    SystemExit("message"),
    KeyboardInterrupt(),
    GeneratorExit(),
    MemoryError(),
    StopAsyncIteration(),
    ExceptionGroup("several", [ValueError("one"), OSError("two")]),
    Unusual(),
    Unspeakable(),
    deep(),
]


def name(error: object) -> str:
    return type(error).__name__


class Content(Closable):
    """Fails at the point that was asked for; counts how often close() was called."""

    def __init__(self, point: str, error: BaseException) -> None:
        super().__init__(b"one", b"two", error=error if point == "later" else None)
        self._point = point
        self._raised = error

    def _fail_at(self, *points: str) -> None:
        if self._point in points:
            raise self._raised

    def __iter__(self) -> Iterator[Any]:
        self._fail_at("iter")
        return self

    def __next__(self) -> Any:
        self._fail_at("first")
        return super().__next__()

    def close(self) -> None:
        super().close()
        self._fail_at("close")


def failing(point: str, error: BaseException, headers: list[tuple[str, str]]) -> Application:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        if point == "called":
            raise error
        start_response(OK, headers)
        if point == "started":
            raise error
        if point == "written":
            start_response(OK, headers, sys.exc_info())(b"one")
            raise error
        return Content(point, error)

    return app


def assert_500(served: Served) -> None:
    assert served.status() == 500
    assert served.header("Connection") == "close"
    assert served.header("Date") is not None
    assert served.body() == (b"" if served.method == "HEAD" else b"500 Internal Server Error\n")
    assert served.sink.data.count(b"HTTP/1.1 ") == 1


def assert_cut(served: Served, content: bytes) -> None:
    """The client has a part and can tell that it is one."""
    assert served.status() == 200
    assert served.sink.data.count(b"HTTP/1.1 ") == 1
    with pytest.raises(http.client.IncompleteRead):
        served.body()
    assert content in served.sink.data


def assert_logged_once(caplog: pytest.LogCaptureFixture, kind: type[BaseException]) -> None:
    """One record, which says which request it was, with the traceback of this error."""
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert re.search(r"\b(GET|HEAD) /(path\?q=1)?", record.getMessage())
    assert record.exc_info is not None
    assert record.exc_info[0] is kind
    assert record.exc_info[2] is not None


@pytest.mark.parametrize("error", ERRORS, ids=name)
@pytest.mark.parametrize("point", ["called", "started", "iter", "first"])
@pytest.mark.parametrize("raw", [GET, HEAD, OLD_GET], ids=["GET", "HEAD", "HTTP/1.0"])
def test_whatever_is_raised_before_the_head_is_a_500(
    point: str, error: BaseException, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(failing(point, error, TEXT), raw)
    assert_500(served)
    assert not served.exchange.keep_alive
    assert served.exchange.failed
    assert_logged_once(caplog, type(error))


@pytest.mark.parametrize("error", ERRORS, ids=name)
@pytest.mark.parametrize("point", ["written", "later"])
@pytest.mark.parametrize("headers", [TEXT, length(100)], ids=["chunked", "length"])
def test_whatever_is_raised_after_the_head_cuts_the_response(
    point: str,
    error: BaseException,
    headers: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = serve(failing(point, error, headers))
    assert_cut(served, b"one")
    assert not served.exchange.keep_alive
    assert served.exchange.failed
    assert_logged_once(caplog, type(error))


@pytest.mark.parametrize("error", ERRORS, ids=name)
@pytest.mark.parametrize("raw", [GET, HEAD, OLD_GET], ids=["GET", "HEAD", "HTTP/1.0"])
def test_whatever_close_raises_leaves_the_client_its_answer(
    error: BaseException, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(failing("close", error, length(6)), raw)
    assert served.status() == 200
    assert served.body() == (b"" if served.method == "HEAD" else b"onetwo")
    assert served.exchange.keep_alive, "the framing is intact"
    assert_logged_once(caplog, type(error))


def test_a_stop_iteration_out_of_the_call_is_an_error_like_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert_500(serve(failing("called", StopIteration(), TEXT)))
    assert_logged_once(caplog, StopIteration)


def test_an_old_client_of_a_stream_that_fails_loses_its_connection() -> None:
    served = serve(failing("later", ValueError("oops"), TEXT), OLD_GET)
    assert served.header("Connection") == "close"
    assert served.sink.data.endswith(b"\r\n\r\nonetwo")
    assert not served.exchange.keep_alive


def test_two_errors_of_one_request_are_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    class Twice(Closable):
        def close(self) -> None:
            super().close()
            raise OSError("second")

    content = Twice(b"one", error=ValueError("first"))
    assert_cut(serve(answering(content)), b"one")
    assert content.closed == 1
    assert_logged_once(caplog, OSError)
    assert "ValueError: first" in caplog.text


# -- start_response ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Name": "value"},
        "X-Name",
        b"X-Name",
        5,
        ["X-Name"],
        ["XY"],
        [("X-Name",)],
        [("X-Name", "value", "more")],
        [["X-Name", "value"]],
        [None],
        [("X-Name", None)],
        [("X-Name", b"value")],
        [(b"X-Name", "value")],
        [("X-Name", ["value"])],
    ],
    ids=repr,
)
@pytest.mark.parametrize("content", [[b"x"], lambda: iter([b"x"])], ids=["whole", "stream"])
def test_headers_of_a_wrong_type_never_go_out(
    headers: Any, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, headers)
        return content() if callable(content) else content

    served = serve(app)
    assert_500(served)
    assert b"X-Name" not in served.sink.data
    assert len(caplog.records) == 1


def test_headers_that_can_be_read_only_once_are_not_lost_in_silence() -> None:
    headers: Any = (header for header in [("X-Name", "value"), ("Content-Length", "1")])

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, headers)
        return [b"x"]

    served = serve(app)
    assert served.status() == 500 or served.header("X-Name") == "value"


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Name", "a\r\nX-Injected: b")],
        [("X-Name", "a\nX-Injected: b")],
        [("X-Name", "a\rX-Injected: b")],
        [("X-Name", "a\0X-Injected")],
        [("X-Name", "a\x7fX-Injected")],
        [("X-Name\r\nX-Injected", "a")],
        [("X-Name\nX-Injected", "a")],
        [("X-Name\0X-Injected", "a")],
        [("X-Name: a\r\nX-Injected", "b")],
        [("X-Injected ", "a")],
        [("X-Injected", "\u20ac")],
        [("X-Injected\xe9", "a")],
        [("Content-Length", "1\r\nX-Injected: b")],
        [("Connection", "close\r\nX-Injected: b")],
        [("Date", "now\r\nX-Injected: b")],
        [("Server", "mine\r\nX-Injected: b")],
        [("Transfer-Encoding", "chunked\r\nX-Injected: b")],
    ],
    ids=repr,
)
def test_nothing_can_be_injected_by_a_header(
    headers: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    for content in ([b"x"], [], [b"x", b"y"]):
        served = serve(answering(content, headers))
        assert_500(served)
        assert b"X-Injected" not in served.sink.data
    assert len(caplog.records) == 3


@pytest.mark.parametrize("exc_info", [None, True, (), (None,) * 3, "text", [1, 2, 3]], ids=repr)
def test_a_second_start_response_after_the_head_cuts_the_response(
    exc_info: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, TEXT)
        yield b"one"
        start_response("500 Oops", [("X-Second", "1")], exc_info)
        yield b"two"

    served = serve(app)
    assert_cut(served, b"one")
    assert b"X-Second" not in served.sink.data
    assert b"two" not in served.sink.data
    assert len(caplog.records) == 1


def test_start_response_in_close_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Late(Closable):
        def close(self) -> None:
            starts[0]("500 Oops", TEXT)

    def app(environ: Environ, start_response: StartResponse) -> Closable:
        starts.append(start_response)
        start_response(OK, length(1))
        return Late(b"x")

    starts: list[StartResponse] = []
    served = serve(app)
    assert (served.status(), served.body()) == (200, b"x")
    assert_logged_once(caplog, AppError)


# -- write ---------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["close", "thread"])
@pytest.mark.parametrize("headers", [TEXT, length(1)], ids=["chunked", "length"])
@pytest.mark.parametrize("raw", [GET, HEAD, OLD_GET], ids=["GET", "HEAD", "HTTP/1.0"])
def test_write_after_the_end_sends_nothing(
    late: str, headers: list[tuple[str, str]], raw: bytes
) -> None:
    # FakeSink notes what comes after the last piece; `serve` looks that this is nothing.
    writes: list[Callable[[bytes], None]] = []

    class Late(Closable):
        def close(self) -> None:
            if late == "close":
                writes[0](b"late")

    def app(environ: Environ, start_response: StartResponse) -> Closable:
        writes.append(start_response(OK, headers))
        return Late(b"x")

    served = serve(app, raw)
    if late == "thread":
        thread = threading.Thread(target=writes[0], args=(b"late",))
        thread.start()
        thread.join()
    assert b"late" not in served.sink.data
    assert served.sink.too_late == []
    assert served.body() == (b"" if raw == HEAD else b"x")


def test_write_after_a_failure_sends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    writes: list[Callable[[bytes], None]] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        writes.append(start_response(OK, TEXT))
        raise ValueError("oops")

    served = serve(app)
    writes[0](b"late")
    assert_500(served)
    assert served.sink.too_late == []
    assert_logged_once(caplog, ValueError)


def test_an_application_that_goes_on_writing_to_a_client_that_has_gone_hears_it_each_time() -> None:
    heard = 0

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        nonlocal heard
        write = start_response(OK, TEXT)
        for _ in range(5):
            try:
                write(b"x")
            except PeerGone:
                heard += 1
        return []

    served = serve(app, gone_after=0)
    assert heard == 5
    assert not served.exchange.keep_alive


def test_write_and_no_iterable_is_the_applications_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> None:
        start_response(OK, TEXT)(b"one")

    assert_cut(serve(app), b"one")
    assert_logged_once(caplog, TypeError)


# -- content -------------------------------------------------------------------------------

NOT_BYTES = ["str", "", None, 0, 5, [], bytearray(b"x"), bytearray(), memoryview(b"x"), object()]


@pytest.mark.parametrize("piece", NOT_BYTES, ids=repr)
@pytest.mark.parametrize("way", ["iterator", "later", "write", "list"])
def test_a_piece_of_a_wrong_type_is_the_applications_error(
    piece: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response(OK, TEXT)
        if way == "write":
            write(piece)
            return []
        if way == "list":
            return [piece]
        return iter([b"one", piece, b"two"] if way == "later" else [piece, b"two"])

    served = serve(app)
    if way == "later":
        assert_cut(served, b"one")
        assert b"two" not in served.sink.data
    else:
        assert_500(served)
    assert_logged_once(caplog, AppError)


class NoIterator:
    def __iter__(self) -> Any:
        return 5


@pytest.mark.parametrize(
    "content",
    ["text", b"bytes", None, 5, 0.5, object(), NoIterator(), len, bytearray(b"x")],
    ids=name,
)
def test_content_that_is_no_iterable_of_bytes_is_the_applications_error(
    content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, TEXT)
        return content

    assert_500(serve(app))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("fault", ["not callable", "property", "arguments"])
def test_a_close_that_is_none_leaves_the_client_its_answer(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Content:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

    class Property(Content):
        @property
        def close(self) -> None:
            raise ValueError("no close for you")

    class Arguments(Content):
        def close(self, why: str) -> None:
            """Nobody says why."""

    content: Any = {"property": Property, "arguments": Arguments}.get(fault, Content)()
    if fault == "not callable":
        content.close = 5
    served = serve(answering(content, length(1)))
    assert (served.status(), served.body()) == (200, b"x")
    assert served.exchange.keep_alive
    assert len(caplog.records) == 1


def test_a_generator_that_will_not_end_is_given_up_when_the_client_has_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = 0

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        nonlocal asked
        start_response(OK, TEXT)
        try:
            while True:
                asked += 1
                yield b"x"
        finally:
            yield b"one more"

    served = serve(app, gone_after=3)
    assert asked == 4  # three that were taken, one that was not
    assert not served.exchange.keep_alive
    assert_logged_once(caplog, RuntimeError)
