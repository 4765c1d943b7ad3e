"""One request through WSGIHandler, with fakes of what is around it."""

from __future__ import annotations

import http.client
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from httpcore_srv.environ import base_environ
from httpcore_srv.errors import PeerGone
from httpcore_srv.messages import RequestHead
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.settings import HTTPLimits
from httpcore_srv.wsgi import Exchange, WSGIHandler

DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
OK = "200 OK"
TEXT = [("Content-Type", "text/plain")]
GET = b"GET /path?q=1 HTTP/1.1\r\nHost: example.com\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
OLD_GET = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

LIMITS = HTTPLimits()

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], None]]
Application = Callable[[Environ, StartResponse], Any]


class FakeConditions:
    """What the server says at the moment in which a head is made."""

    def __init__(self, keeps_alive: bool = True) -> None:
        self.date = DATE
        self.keeps_alive = keeps_alive
        self.leaving = False


class FakeConnection:
    """A connection over which more has come, or not."""

    def __init__(self, has_unread: bool = False) -> None:
        self.has_unread = has_unread


class FakeSink:
    """A socket that takes everything, or whose client is gone after so many pieces."""

    def __init__(self, gone_after: int | None = None) -> None:
        self.data = b""
        self.calls: list[str] = []
        self.too_late: list[bytes] = []  # what came after the last piece
        self.large: list[bytes] = []  # content that came beside its head
        self._gone_after = gone_after

    def _take(self, call: str, data: bytes) -> None:
        if self.over:
            self.too_late.append(data)
        if self._gone_after is not None and len(self.calls) >= self._gone_after:
            raise PeerGone("connection reset by peer")
        self.calls.append(call)
        self.data += data

    @property
    def over(self) -> bool:
        return any(call.startswith(("finish", "abort")) for call in self.calls)

    def send(self, data: bytes) -> None:
        assert data, "an empty piece"
        self._take("send", data)

    def hint(self, data: bytes) -> None:
        self._take("hint", data)

    def abort(self) -> None:
        self._take("abort", b"")

    def finish(self, data: bytes, content: bytes = b"") -> None:
        self._take("finish", data + content)
        if content:
            self.large.append(content)

    def finish_file(self, data: bytes, fd: int, offset: int, count: int) -> None:
        try:
            self._take("finish_file", data + os.pread(fd, count, offset))
        finally:
            os.close(fd)


class _Wire:
    """Enough of a socket for http.client."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


class Served(NamedTuple):
    """What became of one request."""

    sink: FakeSink
    exchange: Exchange
    method: str

    def response(self) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(_Wire(self.sink.data), method=self.method)  # type: ignore[arg-type]
        response.begin()
        return response

    def body(self) -> bytes:
        return self.response().read()

    def status(self) -> int:
        return self.response().status

    def header(self, name: str) -> str | None:
        return self.response().headers[name]


def parsed(raw: bytes, limits: HTTPLimits = LIMITS) -> tuple[RequestHead, bytes]:
    """Return the head and the body of a request."""
    parser = HTTPRequest(limits)
    parser.receive_data(raw)
    head = parser.next_message()
    assert isinstance(head, RequestHead)
    body = parser.next_message() if head.has_body else b""
    assert isinstance(body, bytes)
    return head, body


def serve(
    app: Application,
    raw: bytes = GET,
    *,
    gone_after: int | None = None,
    keep_alive: bool = True,
    limits: HTTPLimits = LIMITS,
) -> Served:
    """Run one request to its end."""
    request, body = parsed(raw, limits)
    environ = base_environ("127.0.0.1", "8000", False) | request.fields.environ
    environ |= {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SERVER_PROTOCOL": f"HTTP/1.{request.minor}",
        "RAW_URI": request.target,
        "wsgi.input": io.BytesIO(body),
    }
    sink = FakeSink(gone_after)
    exchange = Exchange(request, FakeConnection(), sink, FakeConditions(keep_alive))
    environ["wsgi.early_hints"] = exchange.early_hints
    WSGIHandler(app).handle(environ, exchange)
    assert sink.too_late == []
    if gone_after is None:
        assert sink.over or not exchange.keep_alive, "a client would wait for ever"
    return Served(sink, exchange, request.method)


def answering(content: Any, headers: list[tuple[str, str]] = TEXT, status: str = OK) -> Application:
    """An application that answers with this iterable, or what this function makes."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(status, list(headers))
        return content() if callable(content) else content

    return app


def length(count: int) -> list[tuple[str, str]]:
    """Headers that declare a length."""
    return [*TEXT, ("Content-Length", str(count))]


class Closable:
    """An iterable with a close(), as frameworks return."""

    def __init__(self, *pieces: Any, error: BaseException | None = None) -> None:
        self._pieces = iter(pieces)
        self._error = error
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        for piece in self._pieces:
            return piece
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        self.closed += 1
