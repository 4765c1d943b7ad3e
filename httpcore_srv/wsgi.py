"""WSGIHandler: from a complete request, through the application, to response bytes.

PEP 3333 to the letter. The thread that runs an exchange owns its environ, its
iterable and its response until `WSGIHandler.handle` returns; it writes through a
`Sink` and touches no socket.
"""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Protocol, cast

from httpcore_srv.environ import Environ, FileWrapper
from httpcore_srv.errors import AppError, BodyLost, PeerGone
from httpcore_srv.messages import RequestHead
from httpcore_srv.response_writer import Framing, encode_head, encode_interim, error_page

log = logging.getLogger("smart_http.app")

LARGE_BYTES: Final = 1 << 16  # content above it is not copied behind its head

# Plain names: reading a member off its class costs a search in the metaclass each time.
NONE: Final = Framing.NONE
LENGTH: Final = Framing.LENGTH
CHUNKED: Final = Framing.CHUNKED
CLOSE: Final = Framing.CLOSE

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
StartResponse = Callable[..., Callable[[bytes], None]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class Conditions(Protocol):
    """What a response is told by the server in the moment in which its head is made."""

    date: bytes  # the complete Date line with its CRLF
    keeps_alive: bool  # whether connections may be kept at all
    leaving: bool  # whether it stops: then only for requests that have come already


class Pipelined(Protocol):
    """The connection that a request came over."""

    has_unread: bool  # something of the next request has been received already


class Sink(Protocol):
    """Where response bytes go. Of the thread that runs the exchange."""

    def send(self, data: bytes) -> None:
        """Send a piece that others will follow; may wait for a slow client.

        Raises: PeerGone if the client is gone or has taken nothing for too long.
        """

    def abort(self) -> None:
        """Have the client see that it will not get all: its connection is reset."""

    def hint(self, data: bytes) -> None:
        """Send an interim response, or drop it if the client takes none of it now.

        Raises: PeerGone.
        """

    def finish(self, data: bytes, content: bytes = b"") -> None:
        """Send the last piece, and `content`, which is large, after it.

        Never waits: what the socket does not take is kept. Raises: PeerGone.
        """

    def finish_file(self, data: bytes, fd: int, offset: int, count: int) -> None:
        """Send `data` and then `count` bytes of the file `fd`. Never waits; closes `fd`.

        Raises: PeerGone.
        """


def _is_plain_file(filelike: object) -> bool:
    """Whether what read() gives is what lies in the descriptor: not so for a GzipFile."""
    raw = getattr(filelike, "raw", filelike)
    if not isinstance(raw, io.FileIO):
        return False
    status = os.fstat(raw.fileno())
    # The files of /proc say that they are empty, and are not.
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


class Exchange:
    """One request's way through the application: start_response, write, framing."""

    # Defaults live on the class: most requests never change them, and an object is
    # made per request (0.2 us less than filling twelve slots).
    failed = False
    sent = 0  # bytes of content, for the access log
    _status: str | None = None
    _headers: Sequence[tuple[str, str]] = ()
    _head_sent = False
    over = False  # all content that the framing promises has been given to the sink
    _framing: Framing = NONE
    _remaining = 0

    def __init__(
        self, request: RequestHead, connection: Pipelined, sink: Sink, conditions: Conditions
    ) -> None:
        self.keep_alive = request.keep_alive
        self._request = request
        self._connection = connection
        self._sink = sink
        self._conditions = conditions

    @property
    def wants_no_content(self) -> bool:
        """Whether the response is complete without any content."""
        return self.over and self._framing is NONE

    @property
    def what(self) -> str:
        """The request, for the log: the parser lets no control character into either part."""
        return f"{self._request.method} {self._request.target}"

    @property
    def status(self) -> str:
        """The status line's code and phrase, '-' when no head was sent."""
        return self._status or "-"

    @property
    def is_stream(self) -> bool:
        """Whether content goes out piece by piece just now. Any thread may ask."""
        return self._head_sent and not self.over

    @property
    def is_event_stream(self) -> bool:
        """Whether the response will be a stream that never ends (server-sent events).

        Asked while the application may still be computing the first event, so what it
        gave as headers may be anything yet. Any thread.
        """
        headers = self._headers
        for pair in headers if isinstance(headers, list | tuple) else ():
            if isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(i, str) for i in pair):
                name, value = pair
                if name.lower() == "content-type" and value.startswith("text/event-stream"):
                    return True
        return False

    # -- the application's side ---------------------------------------------------------

    def early_hints(self, headers: Sequence[tuple[str, str]]) -> None:
        """Send a 103 (RFC 8297) with these headers, before the response.

        Does nothing for an HTTP/1.0 client (RFC 9110 section 15.2) and once the
        response has begun. Raises: AppError for headers that cannot be.
        """
        data = encode_interim(103, headers)
        if self._head_sent or not self._request.minor:
            return
        try:
            self._sink.hint(data)
        except PeerGone as error:
            log.debug("%s: %s", self.what, error)  # as the response will find out

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Accept status and headers; they go out with the first piece of content."""
        if exc_info is not None:
            try:
                if self._head_sent:
                    # Too late for another response: PEP 3333 wants the error raised again.
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # breaks the cycle traceback -> frame -> exc_info
        elif self._status is not None:
            raise AppError("start_response was called twice without exc_info")
        if type(headers) is not list:
            try:
                headers = list(headers)
            except TypeError:
                what = type(headers).__name__
                raise AppError(f"headers must be a list of tuples, not {what}") from None
        self._status = status
        self._headers = headers
        return self.write

    def write(self, data: bytes) -> None:
        """Send one piece of content now, the head before it if it has not gone yet."""
        if not isinstance(data, bytes):
            raise AppError(f"content must be bytes, not {type(data).__name__}")
        if not data:
            return
        if self.over:
            self._drop_surplus()
            return
        head = b"" if self._head_sent else self._take_head(None)
        framing = self._framing
        if framing is CHUNKED:
            self.sent += len(data)
            self._sink.send(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        elif framing is LENGTH:
            self._write_counted(head, data)
        elif framing is CLOSE:
            self.sent += len(data)
            self._sink.send(head + data)
        else:
            self.over = True
            self._sink.finish(head)

    # -- the server's side --------------------------------------------------------------

    def send_whole(self, content: bytes) -> None:
        """Send a response whose content is all there, with one send."""
        if self._head_sent:  # the application has used write() before
            self.write(content)
            self.end()
            return
        if not isinstance(content, bytes):
            raise AppError(f"content must be bytes, not {type(content).__name__}")
        length = len(content)
        head = self._take_head(length)
        if self._framing is LENGTH:
            if self._remaining != length:
                self._write_counted(head, content)
                self.end()
                return
            self.sent = length
            self.over = True
            if length > LARGE_BYTES:
                self._sink.finish(head, content)
            else:
                self._sink.finish(head + content)
            return
        self.over = True
        self._sink.finish(head)

    def send_file(self, wrapper: FileWrapper) -> bool:
        """Send an ordinary file by sendfile(2). False: it is not one; nothing was sent.

        Raises: OSError if there is no descriptor left; PeerGone.
        """
        if self._head_sent or not _is_plain_file(wrapper.filelike):
            return False
        # A duplicate, because the application's close() comes at once and the loop may
        # still be sending to a slow client minutes later.
        fd = os.dup(wrapper.filelike.fileno())
        try:
            offset = wrapper.filelike.tell()
            available = max(0, os.fstat(fd).st_size - offset)
            head = self._take_head(available)
        except BaseException:
            os.close(fd)
            raise
        count = min(available, self._remaining)
        self._remaining -= count
        self.sent = count
        self.over = True
        if self._remaining:
            self._too_short()
        self._sink.finish_file(head, fd, offset, count)
        return True

    def end(self) -> None:
        """The iterable is exhausted: complete the response."""
        if self.over:
            return
        if not self._head_sent:
            head = self._take_head(0)
            self.over = True
            if self._framing is LENGTH and self._remaining:
                self._too_short()
            self._sink.finish(head)
            return
        self.over = True
        if self._framing is LENGTH:
            self._too_short()
        self._sink.finish(b"0\r\n\r\n" if self._framing is CHUNKED else b"")

    def fail(self) -> None:
        """The application failed: 500 if nothing went out yet, else cut the connection.

        Raises: PeerGone.
        """
        self.failed = True
        self._cut_short(500)

    def body_came(self) -> None:
        """The body has been read to its end: the connection can be kept after all."""
        if not self._head_sent:  # else the head has said that it is not
            self.keep_alive = self._request.keep_alive

    def lose_body(self, error: BodyLost) -> None:
        """The application gave up with its request's body: 408 if that can be said.

        Raises: PeerGone.
        """
        log.debug("%s: %s", self.what, error)
        if error.late or self._head_sent:
            self._cut_short(408)
        self.keep_alive = False

    def _cut_short(self, status: int) -> None:
        if self.over:
            return  # the client has its whole answer; what failed came after it
        self.keep_alive = False
        self.over = True
        if self._head_sent:
            # RFC 9112 section 8: a closed connection is how an incomplete message shows; to
            # a client that takes the end of the connection for the end of the message, a reset.
            if self._framing is CLOSE:
                self._sink.abort()
            else:
                self._sink.finish(b"")
            return
        self._head_sent = True
        is_head = self._request.method == "HEAD"
        page = error_page(status, date=self._conditions.date, is_head=is_head)
        # As its status line has it, for the access log.
        self._status = page[len("HTTP/1.1 ") : page.index(b"\r\n")].decode()
        self._sink.finish(page)

    def _write_counted(self, head: bytes, data: bytes) -> None:
        """Send content of a declared length: never more of it."""
        if len(data) > self._remaining:
            data = data[: self._remaining]
            self._drop_surplus()
        self._remaining -= len(data)
        self.sent += len(data)
        if self._remaining:
            self._sink.send(head + data)
        else:
            # That was the last piece, so a slow client need not hold this thread.
            self.over = True
            self._sink.finish(head + data)

    def _drop_surplus(self) -> None:
        """Content beyond the response's end must not get into the next response."""
        if self._framing is not NONE and not self.failed:  # once, however much follows
            self.failed = True
            log.error("%s: content beyond the end of the response was dropped", self.what)

    def _take_head(self, length: int | None) -> bytes:
        if self._status is None:
            raise AppError("the application sent content before it called start_response")
        request = self._request
        method = request.method
        if method == "CONNECT" and self._status.startswith("2"):
            raise AppError("a 2xx to CONNECT begins a tunnel, and WSGI cannot carry one")
        head, self._framing, self._remaining, self.keep_alive = encode_head(
            self._status,
            self._headers,
            request.minor,
            method == "HEAD",
            # Asked now and not when the request began: a server that was told to stop
            # while a request ran must say in its answer that the connection ends.
            self.keep_alive and (self._conditions.keeps_alive or self._owes_more()),
            length,
            self._conditions.date,
        )
        self._head_sent = True
        return head

    def _owes_more(self) -> bool:
        """Whether a server that stops has received more of this client's requests."""
        return self._conditions.leaving and self._connection.has_unread

    def _too_short(self) -> None:
        self.keep_alive = False
        self.failed = True
        log.error(
            "%s: content is %d bytes shorter than its Content-Length", self.what, self._remaining
        )


class WSGIHandler:
    """Calls the application for one request after the other, on any number of threads."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def handle(self, environ: Environ, exchange: Exchange) -> None:
        """Run the application and send its response through the exchange's sink.

        Never raises: an application's error is logged and answered, a client that
        went away ends the exchange with `keep_alive` False.
        """
        try:
            iterable = self._app(environ, exchange.start_response)
            kind = type(iterable)
            if kind is list or kind is tuple:
                # No close() to call, and the length is known.
                content = cast("list[bytes]", iterable)
                exchange.send_whole(content[0] if len(content) == 1 else b"".join(content))
            else:
                _iterate(iterable, exchange)
        except PeerGone as error:
            exchange.keep_alive = False
            log.debug("%s: %s", exchange.what, error)
        except BodyLost as error:
            try:
                exchange.lose_body(error)
            except PeerGone:
                exchange.keep_alive = False
        # An edge: whatever an application raises, SystemExit too, ends its request only.
        except BaseException:  # noqa: BLE001
            _log_failure(exchange.what)
            try:
                exchange.fail()
            except PeerGone:
                exchange.keep_alive = False


def _log_failure(what: str) -> None:
    """Log the exception that is being handled, whatever kind of thing it is."""
    try:
        log.exception("%s: the application failed", what)
    except Exception as error:  # noqa: BLE001
        # Its class or its notes run code of the application to be shown, and that fails.
        kind = type(error.__context__).__name__
        log.error("%s: the application failed: %s, of which there is no traceback", what, kind)


def _iterate(iterable: Iterable[bytes], exchange: Exchange) -> None:
    """Send what an iterable yields; call its close() whatever happens."""
    try:
        if isinstance(iterable, FileWrapper) and exchange.send_file(iterable):
            return
        write = exchange.write
        for piece in iterable:
            write(piece)
            if exchange.over and exchange.wants_no_content:
                break  # a HEAD of a stream that never ends
        exchange.end()
    finally:
        close = getattr(iterable, "close", None)
        if close is not None:
            close()
