"""Clients that a server would rather not have: slow ones, and those that mean harm.

Scripts for `crowd`. The slow ones never end by themselves; whoever the server cuts comes
again. The hostile ones do their worst, look at what comes of it, and come again.
"""

from __future__ import annotations

import random
from typing import Final

from benchmarks.crowd import Drain, Kind, Receive, Reset, Rest, Script, ScriptMaker, Send, Take

DRIP_S: Final = 0.4  # between two drips of a slow client
SMALL_BUFFER: Final = 4096  # SO_RCVBUF of slow readers; the kernel makes it twice that
READ_BYTES: Final = 1024  # a slow reader's at a time: 2.5 KB/s
_PATIENCE_S: Final = 3.0  # of a hostile client, for what the server says to it
_FOR_EVER_S: Final = 1e6
_HEAD_END: Final = b"\r\nHost: test\r\n\r\n"

_DRIP_REST: Final = Rest(DRIP_S)
_READ_REST: Final = Rest(DRIP_S, unread=True)


def get(target: str, *fields: str) -> bytes:
    """Return a GET request."""
    lines = [f"GET {target} HTTP/1.1", "Host: test", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(target: str, body: bytes) -> bytes:
    """Return a POST request with its length."""
    head = f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


# -- slow -----------------------------------------------------------------------------------


def keeps_quiet(request: bytes) -> ScriptMaker:
    """Return the script that asks once, then keeps the connection and says nothing."""

    def script(number: int, chance: random.Random) -> Script:
        yield Send(request, requests=1)
        yield Receive()
        while True:
            yield Rest(_FOR_EVER_S)

    return script


def slow_header(number: int, chance: random.Random) -> Script:
    """Send a head byte by byte, without an end."""
    yield from _drip(b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ", b"x", chance)


def slow_body(number: int, chance: random.Random) -> Script:
    """Send a body a few bytes at a time."""
    head = b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n"
    yield from _drip(head, b"body", chance)


def slow_chunk(number: int, chance: random.Random) -> Script:
    """Send a chunked body in chunks of one byte."""
    head = b"POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield from _drip(head, b"1\r\nx\r\n", chance)


def slow_reader(number: int, chance: random.Random) -> Script:
    """Ask for a large page and hardly read it."""
    yield from _sip("/large", chance)


def slow_stream_reader(number: int, chance: random.Random) -> Script:
    """Ask for a large streamed answer and hardly read it."""
    yield from _sip("/stream", chance)


def _drip(start: bytes, drop: bytes, chance: random.Random) -> Script:
    yield Send(start)
    yield Rest(DRIP_S * chance.random())  # so that not all of them drip at once
    step = Send(drop)
    while True:
        yield step
        yield _DRIP_REST


def _sip(target: str, chance: random.Random) -> Script:
    yield Send(get(target), requests=1)
    yield Rest(DRIP_S * chance.random(), unread=True)
    step = Take(READ_BYTES)
    while True:
        yield step
        yield _READ_REST


SLOW: Final = {
    kind.name: kind
    for kind in (
        Kind("idle", keeps_quiet(get("/"))),
        Kind("slow-header", slow_header),
        Kind("slow-body", slow_body),
        Kind("slow-chunk", slow_chunk),
        Kind("slow-reader", slow_reader, receive_buffer=SMALL_BUFFER),
        Kind("slow-stream-reader", slow_stream_reader, receive_buffer=SMALL_BUFFER),
    )
}

# -- hostile --------------------------------------------------------------------------------


def garbage(number: int, chance: random.Random) -> Script:
    """Send bytes without any sense."""
    yield Send(chance.randbytes(chance.randrange(1, 4000)))
    yield Drain(_PATIENCE_S)


def half_request(number: int, chance: random.Random) -> Script:
    """Send a part of a request, then vanish."""
    whole = post("/upload", b"x" * 1000)
    yield Send(whole[: chance.randrange(1, len(whole))])
    yield Rest(chance.random() / 10)
    yield Reset()


def connect_and_close(number: int, chance: random.Random) -> Script:
    """Connect and go, politely or not, at once or after a moment."""
    if chance.random() < 0.5:
        yield Rest(chance.random() / 10)
    if chance.random() < 0.5:
        yield Reset()


def smuggle(number: int, chance: random.Random) -> Script:
    """Send what two servers could read in two ways, with a second request inside."""
    yield Send(chance.choice(SMUGGLED), requests=2)
    yield Drain(_PATIENCE_S)


def huge_head(number: int, chance: random.Random) -> Script:
    """Send fields without measure: many, or long, or a long request line."""
    way = chance.randrange(3)
    if way == 0:
        yield Send(b"GET /" + b"a" * 100_000 + b" HTTP/1.1" + _HEAD_END)
    elif way == 1:
        yield Send(b"GET / HTTP/1.1\r\nHost: test\r\n" + b"A: b\r\n" * 20_000 + b"\r\n")
    else:
        yield Send(b"GET / HTTP/1.1\r\nHost: test\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n")
    yield Drain(_PATIENCE_S)


def stopped_body(number: int, chance: random.Random) -> Script:
    """Begin a body, stop, and go at last."""
    if chance.random() < 0.5:
        yield Send(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 900000\r\n\r\n")
    else:
        yield Send(b"POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        yield Send(b"c3500\r\n")
    yield Send(b"x" * chance.randrange(700_000))  # beyond half a megabyte it is in a file
    yield Drain(_PATIENCE_S * chance.random())
    if chance.random() < 0.5:
        yield Reset()


def reset_in_response(number: int, chance: random.Random) -> Script:
    """Ask for much, read the beginning, and vanish."""
    yield Send(get(chance.choice(("/large", "/stream", "/file"))), requests=1)
    yield Rest(chance.random() / 5, unread=True)
    yield Take(chance.randrange(1, 100_000))
    yield Reset()


def pipeline_flood(number: int, chance: random.Random) -> Script:
    """Send a thousand requests and read nothing for a while."""
    yield Send(get("/") * 1000, requests=1000)
    yield Rest(chance.random(), unread=True)
    if chance.random() < 0.5:
        yield Reset()
    else:
        yield Drain(_PATIENCE_S)


_HIDDEN: Final = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
_HIDDEN_CHUNK: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_HIDDEN), _HIDDEN)


def _posted(*fields: bytes) -> bytes:
    lines = (b"POST / HTTP/1.1", b"Host: test", *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"


SMUGGLED: Final = (
    _posted(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + _HIDDEN,
    _posted(b"Transfer-Encoding: chunked", b"Content-Length: 5") + _HIDDEN_CHUNK,
    _posted(b"Content-Length: 0", b"Content-Length: %d" % len(_HIDDEN)) + _HIDDEN,
    _posted(b"Content-Length: 0, %d" % len(_HIDDEN)) + _HIDDEN,
    _posted(b"Content-Length: +%d" % len(_HIDDEN)) + _HIDDEN,
    _posted(b"Content-Length : %d" % len(_HIDDEN)) + _HIDDEN,
    _posted(b"Content-Length: 0x10") + _HIDDEN,
    _posted(b"Transfer-Encoding : chunked") + _HIDDEN_CHUNK,
    _posted(b"Transfer-Encoding:\x0bchunked") + _HIDDEN_CHUNK,
    _posted(b"Transfer-Encoding: xchunked") + _HIDDEN_CHUNK,
    _posted(b"Transfer-Encoding: chunked, identity") + _HIDDEN_CHUNK,
    _posted(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x") + _HIDDEN_CHUNK,
    _posted(b"X: y\n" + b"Transfer-Encoding: chunked") + _HIDDEN_CHUNK,
    _posted(b"X: y", b" Transfer-Encoding: chunked") + _HIDDEN_CHUNK,
    _posted(b"X: y\x00z") + _HIDDEN,
    _posted(b"Transfer-Encoding: chunked") + b"-1\r\n" + _HIDDEN,
    _posted(b"Transfer-Encoding: chunked") + b"0x5\r\nhello\r\n0\r\n\r\n" + _HIDDEN,
    _posted(b"Transfer-Encoding: chunked") + b"1;a\nb\r\nx\r\n0\r\n\r\n" + _HIDDEN,
    _posted(b"Transfer-Encoding: chunked") + b"5\r\nhelloxx0\r\n\r\n" + _HIDDEN,
    _posted(b"Transfer-Encoding: chunked") + b"ffffffffffffffff1\r\nx\r\n" + _HIDDEN,
    b"POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + _HIDDEN_CHUNK,
    b"GET / HTTP/1.1\r\nHost: test\r\nHost: other\r\n\r\n" + _HIDDEN,
    b"GET / HTTP/1.1\nHost: test\n\n" + _HIDDEN,
)

HOSTILE: Final = {
    kind.name: kind
    for kind in (
        Kind("garbage", garbage),
        Kind("half-request", half_request),
        Kind("connect-and-close", connect_and_close),
        Kind("smuggle", smuggle),
        Kind("huge-head", huge_head),
        Kind("stopped-body", stopped_body),
        Kind("reset-in-response", reset_in_response),
        Kind("pipeline-flood", pipeline_flood, pause_s=2.0),
    )
}
