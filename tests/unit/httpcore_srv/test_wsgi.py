"""WSGIHandler: PEP 3333, as an application and a client see it."""

from __future__ import annotations

import errno
import gzip
import http.client
import io
import logging
import os
import sys
import tempfile
import types
import warnings
import wsgiref.validate
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from werkzeug.middleware.lint import LintMiddleware

from httpcore_srv.environ import FileWrapper, base_environ
from httpcore_srv.errors import PeerGone
from httpcore_srv.wsgi import Exchange, WSGIHandler
from tests.unit.httpcore_srv.wsgi_rig import (
    GET,
    HEAD,
    OK,
    OLD_GET,
    TEXT,
    Application,
    Closable,
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


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    def messages() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]

    return messages


# -- content -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ([], b""),
        ((), b""),
        ([b""], b""),
        ([b"hello"], b"hello"),
        ((b"hello",), b"hello"),
        ([b"hel", b"", b"lo"], b"hello"),
        ((b"hel", b"lo"), b"hello"),
    ],
)
def test_content_that_is_all_there_goes_out_with_one_send_and_its_length(
    content: Any, body: bytes
) -> None:
    served: Served = serve(answering(content))
    assert served.sink.calls == ["finish"]
    assert served.header("Content-Length") == str(len(body))
    assert served.body() == body
    assert served.exchange.keep_alive
    assert served.exchange.sent == len(body)


def test_a_generator_is_sent_in_chunks_piece_by_piece() -> None:
    served = serve(answering(lambda: (piece for piece in [b"a" * 17, b"", b"b"])))
    assert served.header("Transfer-Encoding") == "chunked"
    assert served.body() == b"a" * 17 + b"b"
    assert served.sink.calls == ["send", "send", "finish"]
    assert served.sink.data.endswith(b"\r\n11\r\n" + b"a" * 17 + b"\r\n1\r\nb\r\n0\r\n\r\n")
    assert served.exchange.keep_alive
    assert served.exchange.sent == 18


def test_each_piece_is_sent_before_the_next_is_asked_for() -> None:
    seen: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        for piece in (b"one", b"two", b"three"):
            yield piece
            seen.append(sink_data())

    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response(OK, TEXT)
        nonlocal sink_data
        sink_data = lambda: write.__self__._sink.data  # type: ignore[attr-defined]  # noqa: E731
        return pieces()

    def sink_data() -> bytes:
        raise AssertionError

    serve(app)
    assert [b"one" in s for s in seen] == [True, True, True]
    assert [b"two" in s for s in seen] == [False, True, True]
    assert [b"three" in s for s in seen] == [False, False, True]


def test_an_empty_generator_has_a_length_of_zero() -> None:
    served = serve(answering(lambda: iter(())))
    assert served.header("Content-Length") == "0"
    assert served.body() == b""
    assert served.exchange.keep_alive


def test_a_generator_with_a_declared_length_is_not_chunked() -> None:
    served = serve(answering(lambda: iter([b"hel", b"lo"]), length(5)))
    assert served.header("Transfer-Encoding") is None
    assert served.body() == b"hello"
    # The piece that completes it is the last: no thread waits for a slow client.
    assert served.sink.calls == ["send", "finish"]
    assert served.exchange.keep_alive


def test_a_generator_for_an_old_client_ends_with_the_connection() -> None:
    served = serve(answering(lambda: iter([b"hel", b"lo"])), OLD_GET)
    assert served.header("Transfer-Encoding") is None
    assert served.header("Content-Length") is None
    assert served.header("Connection") == "close"
    assert served.body() == b"hello"
    assert not served.exchange.keep_alive


def test_an_old_client_keeps_its_connection_when_the_length_is_known() -> None:
    served = serve(answering([b"hello"]), OLD_GET)
    assert served.header("Connection") == "keep-alive"
    assert served.exchange.keep_alive


@pytest.mark.parametrize("content", [[b"hello"], lambda: iter([b"hel", b"lo"])])
def test_head_gets_the_head_only(content: Any) -> None:
    served = serve(answering(content, length(5)), HEAD)
    assert served.header("Content-Length") == "5"
    assert served.sink.data.endswith(b"\r\n\r\n")
    assert served.exchange.keep_alive
    assert served.exchange.sent == 0
    assert not served.exchange.failed


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "304 Not Modified"])
@pytest.mark.parametrize("content", [[b"hello"], lambda: iter([b"hel", b"lo"]), []])
def test_a_status_without_content_has_none_whatever_the_application_returns(
    status: str, content: Any
) -> None:
    served = serve(answering(content, TEXT, status))
    assert served.sink.data.endswith(b"\r\n\r\n")
    assert served.sink.data.count(b"\r\n\r\n") == 1
    assert served.exchange.sent == 0
    assert served.exchange.keep_alive


def test_the_application_may_close_the_connection() -> None:
    served = serve(answering([b"x"], [*TEXT, ("Connection", "close")]))
    assert served.header("Connection") == "close"
    assert not served.exchange.keep_alive


@pytest.mark.parametrize("content", [[b"x"], lambda: iter([b"x"])])
def test_a_server_that_keeps_no_connections_says_so(content: Any) -> None:
    served = serve(answering(content), keep_alive=False)
    assert served.header("Connection") == "close"
    assert not served.exchange.keep_alive


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_server_told_to_stop_while_a_request_runs_says_so_in_its_last_answer(
    pipelined: bool,
) -> None:
    # To what the client has pipelined behind it an answer is owed first.
    conditions = FakeConditions()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, TEXT)
        conditions.keeps_alive = False
        conditions.leaving = True
        return [b"x"]

    request, _ = parsed(GET)
    sink = FakeSink()
    exchange = Exchange(request, FakeConnection(pipelined), sink, conditions)
    WSGIHandler(app).handle({}, exchange)
    assert (b"\r\nConnection: close\r\n" in sink.data) is not pipelined
    assert exchange.keep_alive is pipelined


# -- Content-Length against content --------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [[b"hello"], [b"hel", b"lo"], lambda: iter([b"hel", b"lo"]), lambda: iter([b"hello"])],
)
def test_content_longer_than_declared_is_cut(content: Any, errors: Callable[[], list[str]]) -> None:
    served = serve(answering(content, length(4)))
    assert served.sink.data.endswith(b"\r\n\r\nhell")
    assert served.exchange.sent == 4
    assert served.exchange.failed
    assert served.exchange.keep_alive  # the framing is right, so the next request is safe
    assert len(errors()) == 1
    assert "beyond the end of the response" in errors()[0]


def test_however_much_too_long_it_is_said_once(errors: Callable[[], list[str]]) -> None:
    served = serve(answering(lambda: iter([b"x"] * 1000), length(1)))
    assert served.sink.data.endswith(b"\r\n\r\nx")
    assert len(errors()) == 1


@pytest.mark.parametrize("content", [[b"x"], lambda: iter([b"x"])])
def test_content_where_none_was_declared_is_cut(content: Any) -> None:
    served = serve(answering(content, length(0)))
    assert served.sink.data.endswith(b"\r\n\r\n")
    assert served.exchange.failed


@pytest.mark.parametrize(
    "content",
    [[b"hell"], [], [b"he", b"ll"], lambda: iter([b"he", b"ll"]), lambda: iter(())],
)
def test_content_shorter_than_declared_closes_the_connection(
    content: Any, errors: Callable[[], list[str]]
) -> None:
    served = serve(answering(content, length(5)))
    assert not served.exchange.keep_alive
    assert served.exchange.failed
    with pytest.raises(http.client.IncompleteRead):
        served.body()
    assert len(errors()) == 1
    assert "shorter than its Content-Length" in errors()[0]


def test_what_comes_after_the_last_piece_does_not_go_out() -> None:
    # Were it sent, the client would take it for its next response.
    served = serve(answering(lambda: iter([b"hello", b"HTTP/1.1 200 OK\r\n\r\n"]), length(5)))
    assert served.sink.data.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("raw", [GET, OLD_GET])
def test_what_close_writes_does_not_go_out(raw: bytes) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response(OK, TEXT)

        class Content(Closable):
            def close(self) -> None:
                write(b"late")

        return Content(b"abc")

    assert b"late" not in serve(app, raw).sink.data


# -- write() -------------------------------------------------------------------------------


def test_write_sends_at_once_and_before_what_is_returned() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, TEXT)
        write(b"first ")
        write(b"")
        write(b"second ")
        return [b"third"]

    served = serve(app)
    assert served.body() == b"first second third"
    assert served.sink.calls == ["send", "send", "send", "finish"]
    assert served.exchange.keep_alive
    assert served.exchange.sent == 18


@pytest.mark.parametrize("rest", [[], (), [b""], Closable()])
def test_write_may_be_all_there_is(rest: Any) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, TEXT)(b"written")
        return rest

    assert serve(app).body() == b"written"


@pytest.mark.parametrize("rest", [[b"lo"], lambda: iter([b"lo"])])
def test_write_and_what_is_returned_share_the_declared_length(rest: Any) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, length(5))(b"hel")
        return rest() if callable(rest) else rest

    served = serve(app)
    assert served.body() == b"hello"
    assert served.exchange.keep_alive
    assert not served.exchange.failed


def test_write_of_an_old_client_and_head() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, TEXT)
        write(b"hel")
        write(b"lo")
        return []

    assert serve(app, OLD_GET).body() == b"hello"
    assert serve(app, HEAD).sink.data.endswith(b"\r\n\r\n")


def test_a_file_after_write_is_iterated() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, TEXT)(b"first ")
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
        file.write(b"file")
        file.seek(0)
        return environ["wsgi.file_wrapper"](file)

    served = serve(app)
    assert served.body() == b"first file"
    assert "finish_file" not in served.sink.calls


# -- start_response ------------------------------------------------------------------------


def test_status_and_headers_may_come_with_the_first_piece() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Created", TEXT)
        yield b"late"

    served = serve(app)
    assert served.status() == 201
    assert served.body() == b"late"


def test_an_empty_piece_may_come_before_start_response() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        yield b""
        start_response(OK, TEXT)
        yield b"late"

    assert serve(app).body() == b"late"


@pytest.mark.parametrize("content", [[b"x"], [], lambda: iter([b"x"]), lambda: iter(())])
def test_content_without_start_response_is_the_applications_error(
    content: Any, errors: Callable[[], list[str]]
) -> None:
    served = serve(lambda environ, start_response: content() if callable(content) else content)
    assert served.status() == 500
    assert len(errors()) == 1


def test_start_response_twice_is_the_applications_error() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, TEXT)
        start_response(OK, TEXT)
        return [b"x"]

    served = serve(app)
    assert served.status() == 500
    assert served.exchange.failed
    assert not served.exchange.keep_alive


def raised(error: Exception) -> Any:
    try:
        raise error
    except type(error):
        return sys.exc_info()


def test_with_exc_info_another_response_may_replace_one_that_has_not_gone() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, [*TEXT, ("X-First", "1")])
        start_response("503 Sorry", TEXT, raised(ValueError("x")))
        return [b"sorry"]

    served = serve(app)
    assert served.status() == 503
    assert served.header("X-First") is None
    assert served.body() == b"sorry"
    assert served.exchange.keep_alive


def test_exc_info_is_good_at_the_first_call_too_and_by_name() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("503 Sorry", TEXT, exc_info=raised(ValueError("x")))
        return [b"sorry"]

    assert serve(app).status() == 503


def test_with_exc_info_after_the_head_has_gone_the_error_is_raised_again() -> None:
    error = ValueError("in the middle")
    caught: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, TEXT)
        yield b"half"
        try:
            start_response("500 Oops", TEXT, raised(error))
        except ValueError as again:
            caught.append(again)
            raise

    served = serve(app)
    assert caught == [error]
    assert served.status() == 200
    assert not served.exchange.keep_alive
    with pytest.raises(http.client.IncompleteRead):
        served.body()


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("OK", TEXT),
        (200, TEXT),
        (OK, [("X", "a\r\nb")]),
        (OK, [("X", 1)]),
        (OK, [("", "x")]),
        (OK, None),
        (OK, [("Content-Length", "x")]),
    ],
)
@pytest.mark.parametrize("content", [[b"x"], lambda: iter([b"x"]), []])
def test_a_bad_status_or_header_is_the_applications_error(
    status: Any, headers: Any, content: Any, errors: Callable[[], list[str]]
) -> None:
    served = serve(answering(content, headers or (), status) if headers else bad_headers(content))
    assert served.status() == 500
    assert b"X: " not in served.sink.data
    assert served.exchange.status == "500 Internal Server Error"
    assert not served.exchange.keep_alive
    assert len(errors()) == 1


def bad_headers(content: Any) -> Application:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, None)
        return content() if callable(content) else content

    return app


# -- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ValueError("oops"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError()],
)
@pytest.mark.parametrize("raw", [GET, HEAD, OLD_GET])
def test_an_error_before_the_head_is_a_500_with_a_traceback(
    error: BaseException, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise error

    served = serve(app, raw)
    assert served.status() == 500
    assert served.header("Connection") == "close"
    assert served.body() == (b"" if served.method == "HEAD" else b"500 Internal Server Error\n")
    assert served.exchange.failed
    assert not served.exchange.keep_alive
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_an_error_of_the_application_does_not_tell_the_client_what_it_was() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, [("X-Secret", "1")])
        raise ValueError("password")

    served = serve(app)
    assert b"password" not in served.sink.data
    assert b"X-Secret" not in served.sink.data


@pytest.mark.parametrize("headers", [TEXT, length(100)])
def test_an_error_after_the_head_cuts_the_connection(headers: list[tuple[str, str]]) -> None:
    content = Closable(b"half", error=ValueError("oops"))
    served = serve(answering(content, headers))
    assert served.status() == 200
    assert served.exchange.failed
    assert not served.exchange.keep_alive
    assert b"500" not in served.sink.data
    with pytest.raises(http.client.IncompleteRead):
        served.body()
    assert content.closed == 1


def test_an_error_at_the_very_first_piece_is_still_a_500() -> None:
    content = Closable(error=SystemExit(1))
    served = serve(answering(content))
    assert served.status() == 500
    assert content.closed == 1


def test_an_error_after_all_content_leaves_the_client_its_answer() -> None:
    served = serve(answering(Closable(b"hello", error=ValueError("late")), length(5)))
    assert served.body() == b"hello"
    assert served.exchange.failed
    assert served.exchange.keep_alive


@pytest.mark.parametrize(
    "content",
    [
        ["str"],
        ["a", "b"],
        [b"a", "b"],
        [None],
        [5],
        [bytearray(b"x")],
        lambda: iter(["str"]),
        lambda: iter([5]),
        lambda: iter([bytearray(b"x")]),
        b"bytes",
        "str",
        None,
        5,
    ],
)
def test_content_that_is_not_bytes_is_the_applications_error(content: Any) -> None:
    served = serve(answering(content))
    assert served.status() == 500
    assert served.exchange.failed


def test_content_that_is_not_bytes_after_the_head_cuts_the_connection() -> None:
    served = serve(answering(Closable(b"good", "bad")))
    assert served.status() == 200
    assert not served.exchange.keep_alive
    with pytest.raises(http.client.IncompleteRead):
        served.body()


@pytest.mark.parametrize("gone_after", [None, 0])
def test_an_application_may_do_with_the_environ_what_it_likes(gone_after: int | None) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ.clear()
        start_response(OK, TEXT)
        if gone_after is None:
            raise ValueError("oops")
        return [b"x"]

    served = serve(app, gone_after=gone_after)
    assert not served.exchange.keep_alive


# -- close() -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "error", "raw"),
    [
        ((b"a", b"b"), None, GET),
        ((), None, GET),
        ((b"a",), None, HEAD),
        ((b"a",), ValueError("x"), GET),
        ((), SystemExit(1), GET),
        (("not bytes",), None, GET),
    ],
)
def test_close_is_called_once_whatever_happened(
    pieces: tuple[Any, ...], error: BaseException | None, raw: bytes
) -> None:
    content = Closable(*pieces, error=error)
    serve(answering(content), raw)
    assert content.closed == 1


@pytest.mark.parametrize("gone_after", [0, 1, 2])
def test_close_is_called_when_the_client_is_gone(gone_after: int) -> None:
    content = Closable(*[b"x"] * 5)
    served = serve(answering(content), gone_after=gone_after)
    assert content.closed == 1
    assert not served.exchange.keep_alive


def test_close_is_called_when_nothing_was_started() -> None:
    content = Closable(b"x")
    serve(lambda environ, start_response: content)
    assert content.closed == 1


def test_close_is_called_after_the_last_piece_was_sent() -> None:
    sent: list[bool] = []

    class Content(Closable):
        def close(self) -> None:
            sent.append(served_sink.over)

    served_sink = FakeSink()
    request, _ = parsed(GET)
    exchange = Exchange(request, FakeConnection(), served_sink, FakeConditions())
    WSGIHandler(answering(Content(b"x"))).handle({}, exchange)
    assert sent == [True]


def test_a_close_that_fails_leaves_the_client_its_answer(
    errors: Callable[[], list[str]],
) -> None:
    class Content(Closable):
        def close(self) -> None:
            raise ValueError("in close")

    served = serve(answering(Content(b"hello")))
    assert served.body() == b"hello"
    assert served.exchange.failed
    assert len(errors()) == 1


def test_a_list_of_ones_own_is_closed_too() -> None:
    closed: list[bool] = []

    class Content(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    assert serve(answering(Content([b"a", b"b"]))).body() == b"ab"
    assert closed == [True]


# -- the client goes -----------------------------------------------------------------------


def test_a_client_that_is_gone_is_no_error_of_the_application(
    errors: Callable[[], list[str]],
) -> None:
    for content in ([b"x"], lambda: iter([b"x"] * 3), lambda: FileWrapper(io.BytesIO(b"x"))):
        served = serve(answering(content), gone_after=0)
        assert not served.exchange.keep_alive
        assert not served.exchange.failed
    assert errors() == []


def test_write_tells_the_application_that_the_client_is_gone() -> None:
    told: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, TEXT)
        try:
            write(b"x")
        except Exception as error:
            told.append(error)
            raise
        return []

    serve(app, gone_after=0)
    assert [type(error) for error in told] == [PeerGone]


def test_a_client_that_goes_before_its_500_is_left_alone() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise ValueError

    served = serve(app, gone_after=0)
    assert not served.exchange.keep_alive
    assert served.exchange.failed


# -- files ---------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


CONTENT = bytes(range(256)) * 1000


def filing(
    opener: Callable[[], IO[bytes]], headers: list[tuple[str, str]] = TEXT, **options: Any
) -> tuple[Application, list[IO[bytes]]]:
    opened: list[IO[bytes]] = []

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, headers)
        opened.append(opener())
        return environ["wsgi.file_wrapper"](opened[0], **options)

    return app, opened


def test_a_file_is_sent_by_the_kernel_with_its_length(path: Path) -> None:
    app, opened = filing(lambda: path.open("rb"))
    served = serve(app)
    assert served.sink.calls == ["finish_file"]
    assert served.header("Content-Length") == str(len(CONTENT))
    assert served.body() == CONTENT
    assert served.exchange.sent == len(CONTENT)
    assert served.exchange.keep_alive
    assert opened[0].closed


def test_a_file_is_sent_from_where_it_stands(path: Path) -> None:
    def opener() -> IO[bytes]:
        file = path.open("rb")
        file.read(100)
        return file

    assert serve(filing(opener)[0]).body() == CONTENT[100:]


def test_a_file_read_to_its_end_has_no_content(path: Path) -> None:
    def opener() -> IO[bytes]:
        file = path.open("rb")
        file.seek(0, os.SEEK_END)
        return file

    served = serve(filing(opener)[0])
    assert served.header("Content-Length") == "0"
    assert served.exchange.keep_alive


def test_a_file_that_was_just_written_is_sent_whole() -> None:
    def opener() -> IO[bytes]:
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the server closes it
        file.write(b"fresh")
        file.seek(0)
        return file

    served = serve(filing(opener)[0])
    assert served.body() == b"fresh"
    assert served.sink.calls == ["finish_file"]


def test_a_file_without_a_buffer_is_sent_by_the_kernel_too(path: Path) -> None:
    served = serve(filing(lambda: path.open("rb", buffering=0))[0])
    assert served.body() == CONTENT
    assert served.sink.calls == ["finish_file"]


def test_a_file_that_is_closed_already_is_the_applications_error(path: Path) -> None:
    def opener() -> IO[bytes]:
        file = path.open("rb")
        file.close()
        return file

    served = serve(filing(opener)[0])
    assert served.status() == 500
    assert served.exchange.failed


def test_a_bad_header_beside_a_file_is_a_500_and_leaves_no_descriptor(path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    assert serve(filing(lambda: path.open("rb"), [("X", "a\r\nb")])[0]).status() == 500
    assert os.listdir("/proc/self/fd") == before


def test_of_a_file_no_more_than_declared_is_sent(path: Path) -> None:
    served = serve(filing(lambda: path.open("rb"), length(10))[0])
    assert served.body() == CONTENT[:10]
    assert served.exchange.sent == 10
    assert served.exchange.keep_alive


def test_a_file_shorter_than_declared_closes_the_connection(
    path: Path, errors: Callable[[], list[str]]
) -> None:
    served = serve(filing(lambda: path.open("rb"), length(len(CONTENT) + 1))[0])
    assert not served.exchange.keep_alive
    assert served.exchange.failed
    assert len(errors()) == 1
    with pytest.raises(http.client.IncompleteRead):
        served.body()


def test_a_file_for_an_old_client_keeps_its_connection(path: Path) -> None:
    served = serve(filing(lambda: path.open("rb"))[0], OLD_GET)
    assert served.body() == CONTENT
    assert served.exchange.keep_alive


def test_head_of_a_file_sends_nothing_of_it(path: Path) -> None:
    served = serve(filing(lambda: path.open("rb"))[0], HEAD)
    assert served.header("Content-Length") == str(len(CONTENT))
    assert served.sink.data.endswith(b"\r\n\r\n")
    assert served.exchange.sent == 0


@pytest.mark.parametrize(
    ("raw", "status", "headers"), [(HEAD, OK, TEXT), (GET, "304 Not Modified", length(5))]
)
def test_a_response_without_content_made_of_a_file_is_no_error(
    path: Path, raw: bytes, status: str, headers: list[tuple[str, str]]
) -> None:
    served = serve(answering(lambda: FileWrapper(path.open("rb")), headers, status), raw)
    assert served.exchange.keep_alive
    assert not served.exchange.failed


def test_what_is_no_file_of_the_kernels_is_read_in_blocks() -> None:
    sizes: list[int] = []

    class Noting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
            sizes.append(size or 0)
            return super().read(size)

    app, opened = filing(lambda: Noting(b"abcdefgh"), blksize=3)
    served = serve(app)
    assert served.body() == b"abcdefgh"
    assert sizes == [3, 3, 3, 3]
    assert served.header("Transfer-Encoding") == "chunked"
    assert "finish_file" not in served.sink.calls
    assert opened[0].closed


def test_a_pipe_is_read_and_not_sent_as_a_file() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    served = serve(filing(lambda: os.fdopen(reading, "rb", buffering=0))[0])
    assert served.body() == b"through a pipe"


def test_a_file_that_does_not_know_its_size_is_read() -> None:
    path = Path("/proc/sys/kernel/ostype")
    assert serve(filing(lambda: path.open("rb"))[0]).body() == path.read_bytes()


def test_an_object_that_can_only_read_is_good_enough() -> None:
    pieces = iter([b"a", b"b", b""])
    wrapper = FileWrapper(types.SimpleNamespace(read=lambda size: next(pieces)))  # type: ignore[arg-type]
    assert serve(answering(wrapper)).body() == b"ab"
    assert not hasattr(wrapper, "close")


def test_a_file_wrapper_is_an_iterator_by_itself() -> None:
    # Middleware may take it apart with next().
    wrapper = FileWrapper(io.BytesIO(b"abcde"), 2)
    assert next(wrapper) == b"ab"  # type: ignore[call-overload]
    assert list(wrapper) == [b"cd", b"e"]
    with pytest.raises(StopIteration):
        next(wrapper)  # type: ignore[call-overload]


def test_a_file_in_a_middlewares_iterable_is_iterated(path: Path) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, TEXT)
        with path.open("rb") as file:
            yield from environ["wsgi.file_wrapper"](file)

    assert serve(app).body() == CONTENT


def test_a_file_that_decompresses_sends_what_reading_it_gives(tmp_path: Path) -> None:
    packed = tmp_path / "file.gz"
    packed.write_bytes(gzip.compress(b"plain text"))
    with gzip.open(packed) as file:
        assert serve(filing(lambda: file)[0]).body() == b"plain text"  # type: ignore[arg-type,return-value]


def test_running_out_of_descriptors_at_a_file_is_a_500(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", no_more)
    assert serve(filing(lambda: path.open("rb"))[0]).status() == 500


def test_a_client_that_is_gone_leaves_no_descriptor_of_a_file(path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    serve(filing(lambda: path.open("rb"))[0], gone_after=0)
    assert os.listdir("/proc/self/fd") == before


# -- conformance ---------------------------------------------------------------------------

POST = (
    b"POST /a%20b HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
)


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    content = b"got " + body
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    start_response("200 OK", headers)
    return [content]  # to HEAD too: the server leaves it away


def streaming(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Closable(b"got ", b"", b"streamed")


def empty(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [("Content-Length", "0")])  # lint wants it said
    return []


def writing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])(b"got written")
    return Closable()


@pytest.mark.parametrize("app", [echo, streaming, empty])
@pytest.mark.parametrize("raw", [GET, HEAD, POST, OLD_GET])
def test_werkzeugs_lint_has_nothing_to_say(
    app: Application, raw: bytes, errors: Callable[[], list[str]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served = serve(LintMiddleware(app), raw)
    assert errors() == []
    assert served.status() in (200, 204)


@pytest.mark.parametrize("app", [echo, streaming, writing])
@pytest.mark.parametrize("raw", [GET, POST, OLD_GET])
def test_wsgirefs_validator_has_nothing_to_say(
    app: Application, raw: bytes, errors: Callable[[], list[str]]
) -> None:
    served = serve(wsgiref.validate.validator(app), raw)  # type: ignore[arg-type]
    assert errors() == []
    assert served.body().startswith(b"got ")


def test_the_environ_that_all_requests_share_is_what_pep_3333_asks_for() -> None:
    environ = base_environ("host", "80", True)
    assert environ["SERVER_NAME"] == "host"
    assert environ["SERVER_PORT"] == "80"
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is True
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.errors"] is sys.stderr
    assert base_environ("host", "80", False)["wsgi.multiprocess"] is False
