"""Many raw connections at once: what is sent is given, what comes back is judged."""

from __future__ import annotations

import errno
import re
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.corpus.reading import Seen, Transcript
from tests.integration.apps.witness import testimony

IN_FLIGHT: Final = 100
PATIENCE_S: Final = 60.0  # of one conversation: a bound that says "never"
# A large error page would be a good answer to a bad client's wish for traffic.
SHORT: Final = 200

GONE: Final = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
READ: Final = selectors.EVENT_READ
BOTH: Final = selectors.EVENT_READ | selectors.EVENT_WRITE
STATUS_LINE: Final = re.compile(r"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*")
FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)")
DATE: Final = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


@dataclass
class Conversation:
    """One connection: pieces to send; what is sent must be taken for `transcript`.

    Our end of it is closed behind the last piece, unless the server has to close first: after
    a fault, or after the last request of a connection, it must not wait for that.
    received: all that came until the server closed its end.
    """

    name: str
    pieces: list[bytes]
    transcript: Transcript
    received: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Answer:
    """A whole response; `length` is what Content-Length says."""

    status: int
    fields: dict[str, str]
    body: bytes = b""
    length: int = 0


class Talk:
    """A conversation under way."""

    def __init__(self, address: tuple[str, int], conversation: Conversation) -> None:
        self.conversation = conversation
        self.deadline_s = time.monotonic() + PATIENCE_S
        self._pieces = deque(conversation.pieces)
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(address)
        self.wanted = BOTH

    def go_on(self, mask: int) -> bool:
        """Receive, then send one piece. False: the server has closed."""
        try:
            if mask & READ and not self._receive():
                return False
            if self.wanted == BOTH and mask & selectors.EVENT_WRITE:
                self._send()
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in GONE:
                raise
            # It closed while we were still sending. What it had said is ours to read.
            self._receive_rest()
            return False
        return True

    def _receive(self) -> bool:
        data = self.sock.recv(1 << 16)
        self.conversation.received += data
        return bool(data)

    def _send(self) -> None:
        if self._pieces:
            piece = self._pieces.popleft()
            sent = self.sock.send(piece)
            if sent < len(piece):
                self._pieces.appendleft(piece[sent:])
        if not self._pieces:
            if not server_closes(self.conversation.transcript):
                self.sock.shutdown(socket.SHUT_WR)
            self.wanted = READ

    def _receive_rest(self) -> None:
        try:
            while self._receive():
                pass
        except (ConnectionResetError, BlockingIOError):
            return


def hold(address: tuple[str, int], conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """Hold conversations, many at a time; give each back when it is over.

    Raises: AssertionError if a server lets one wait for ever.
    """
    waiting = iter(conversations)
    with selectors.DefaultSelector() as selector:
        talks: dict[int, Talk] = {}
        try:
            while True:
                while len(talks) < IN_FLIGHT and (one := next(waiting, None)) is not None:
                    talk = Talk(address, one)
                    talks[talk.sock.fileno()] = talk
                    selector.register(talk.sock, talk.wanted, talk)
                if not talks:
                    return
                yield from _round(selector, talks)
        finally:
            for talk in talks.values():
                talk.sock.close()


def _round(selector: selectors.BaseSelector, talks: dict[int, Talk]) -> Iterator[Conversation]:
    """Go on with those that can; give back those that are over."""
    for key, mask in selector.select(1.0):
        talk: Talk = key.data
        before = talk.wanted
        if talk.go_on(mask):
            if talk.wanted != before:
                selector.modify(talk.sock, talk.wanted, talk)
            continue
        selector.unregister(talk.sock)
        del talks[key.fd]
        talk.sock.close()
        yield talk.conversation
    now_s = time.monotonic()
    for talk in talks.values():
        conversation = talk.conversation
        assert now_s < talk.deadline_s, f"no end: {conversation.name} {conversation.received!r}"


# -- judging ---------------------------------------------------------------------------------


def problems(conversation: Conversation) -> str:
    """Say what is wrong with the answers; nothing if they are right."""
    try:
        _judge(conversation)
    except AssertionError as problem:
        sent = b"".join(conversation.pieces)
        return f"{conversation.name}: {problem}\n  {sent!r}\n  {bytes(conversation.received)!r}"
    return ""


def _judge(conversation: Conversation) -> None:
    transcript = conversation.transcript
    requests, status = expected(transcript)
    rest = bytes(conversation.received)
    for request in requests:
        rest = _without_interim(request, rest)
        answer, rest = take_answer(rest, has_body=request.method != "HEAD")
        _judge_answer(request, answer)
    if not requests or requests[-1].keep_alive:
        for begun in transcript.requests[len(requests) :]:
            rest = _without_interim(begun, rest)
    if status is not None:
        answer, rest = take_answer(rest, has_body=True)
        _judge_refusal(status, answer)
    assert rest == b"", f"more than {len(requests)} answers and {status}: {rest!r}"


def _without_interim(request: Seen, data: bytes) -> bytes:
    """Take away a 100 if the request asks for one."""
    if not (request.expects_continue and data.startswith(b"HTTP/1.1 100 ")):
        return data
    interim, rest = take_answer(data, has_body=False)
    assert interim.fields == {}, f"fields in a 100: {interim.fields}"
    return rest


def expected(transcript: Transcript) -> tuple[list[Seen], int | None]:
    """Return the requests that must be answered, and the status of the refusal behind them."""
    requests = []
    for request in transcript.requests:
        if request.whole:
            requests.append(request)
            if not request.keep_alive:
                return requests, None
    return requests, transcript.status


def server_closes(transcript: Transcript) -> bool:
    """Whether the server has to close the connection without being asked."""
    requests, status = expected(transcript)
    return status is not None or bool(requests and not requests[-1].keep_alive)


def take_answer(data: bytes, *, has_body: bool) -> tuple[Answer, bytes]:
    """Read one response strictly; return it and what is behind it."""
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, f"no whole answer where one was due: {data!r}"
    first, *lines = head.decode("ascii").split("\r\n")
    match = STATUS_LINE.fullmatch(first)
    assert match, f"no status line: {first!r}"
    status = int(match[1])
    fields: dict[str, str] = {}
    for line in lines:
        found = FIELD.fullmatch(line)
        assert found, f"no field line: {line!r}"
        name = found[1].lower()
        assert name not in fields, f"twice: {name}"
        fields[name] = found[2]
    if status == 100:
        return Answer(status, fields), rest
    assert "transfer-encoding" not in fields
    digits = fields.get("content-length", "")
    assert digits.isascii() and digits.isdigit(), f"Content-Length: {digits!r}"  # noqa: PT018
    length = int(digits)
    body = rest[:length] if has_body else b""
    assert len(body) == length or not has_body, f"{len(body)} octets of {length}"
    return Answer(status, fields, body, length), rest[len(body) :]


def _judge_answer(request: Seen, answer: Answer) -> None:
    status = 403 if request.method == "CONNECT" else 200
    assert answer.status == status, f"{answer.status} for {request}"
    connection = answer.fields.get("connection")
    if request.keep_alive:
        assert connection == (None if request.minor else "keep-alive"), f"Connection: {connection}"
    else:
        assert connection == "close", f"Connection: {connection}"
    assert DATE.fullmatch(answer.fields.get("date", "")), f"Date: {answer.fields}"
    ways = testimonies(request)
    if request.method == "HEAD":
        assert answer.length in map(len, ways), f"{answer.length} octets of HEAD, not {ways}"
    else:
        assert answer.body in ways, f"the application saw {answer.body!r}, not {ways}"


def testimonies(request: Seen) -> list[bytes]:
    """Return what the application may say that it saw of a request.

    The length of a chunked body is put into the environ when it is known; that a body without
    an octet was chunked is the one thing that `Seen` does not know.
    """
    environ = {
        **request.environ,
        "REQUEST_METHOD": request.method,
        "REQUEST_URI": request.target,
        "RAW_URI": request.target,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": f"HTTP/1.{request.minor}",
    }
    if request.authority is not None:
        environ["HTTP_HOST"] = request.authority
    if "CONTENT_LENGTH" in environ:
        return [testimony(environ, request.body)]
    with_length = testimony({**environ, "CONTENT_LENGTH": str(len(request.body))}, request.body)
    return [with_length] if request.body else [with_length, testimony(environ, b"")]


def _judge_refusal(status: int, answer: Answer) -> None:
    assert answer.status == status, f"{answer.status} instead of {status}"
    assert answer.fields.get("connection") == "close", f"Connection: {answer.fields}"
    assert DATE.fullmatch(answer.fields.get("date", "")), f"Date: {answer.fields}"
    assert answer.body.startswith(b"%d " % status), f"content: {answer.body!r}"
    assert len(answer.body) <= SHORT, f"content: {answer.body!r}"
