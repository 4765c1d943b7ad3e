"""Responses that go on for long. Each notes on which threads it was, when it is closed."""

from __future__ import annotations

import contextvars
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PIECE_BYTES = 1 << 16
TEXT = ("Content-Type", "text/plain")
LOCAL = threading.local()
CONTEXT: contextvars.ContextVar[object] = contextvars.ContextVar("stream")
MEETINGS: dict[int, threading.Barrier] = {}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the path says."""
    return VIEWS[environ["PATH_INFO"].strip("/")](environ, start_response)


def asked(environ: WSGIEnvironment, name: str, default: int = 0) -> int:
    """Return a number of the query."""
    return int(parse_qs(environ["QUERY_STRING"]).get(name, [default])[0])


class Watched:
    """Pieces, with what a thread and its context keep for whoever makes them."""

    def __init__(self, path: str, pieces: Iterator[bytes]) -> None:
        self._path = path
        self._pieces = pieces
        self._threads = {threading.get_ident()}
        self._count = 0
        self._token = LOCAL.token = object()
        CONTEXT.set(self._token)
        self._database = sqlite3.connect(":memory:")  # not to be used by another thread

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self._look()
        self._count += 1
        return piece

    def close(self) -> None:
        """Note how it went."""
        self._look()
        self._database.close()
        note = {"path": self._path, "threads": len(self._threads), "pieces": self._count}
        record = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(record, json.dumps(note).encode() + b"\n")
        os.close(record)

    def _look(self) -> None:
        self._threads.add(threading.get_ident())
        self._database.execute("select 1").fetchone()
        assert LOCAL.token is self._token
        assert CONTEXT.get() is self._token


def big(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """So many pieces of 64 KiB, each with its number."""
    start_response("200 OK", [TEXT])
    count = asked(environ, "count")
    return Watched("big", (b"%08d" % n + bytes(PIECE_BYTES - 8) for n in range(count)))


def events(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Server-sent events: the first after `first` ms, the others `ms` after each other."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return Watched("events", _events(environ))


def ticks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The same, but nothing in its head says that it will go on for long."""
    start_response("200 OK", [TEXT])
    return Watched("ticks", _events(environ))


def _events(environ: WSGIEnvironment) -> Iterator[bytes]:
    time.sleep(asked(environ, "first") / 1000)
    for number in range(asked(environ, "count")):
        yield b"data: %d\n\n" % number
        time.sleep(asked(environ, "ms") / 1000)


def nap(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Slow enough for the server to give requests to its pool from now on."""
    time.sleep(0.05)
    return ready(environ, start_response)


def ready(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """An ordinary response."""
    return whole(start_response, b"ready\n")


def meet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Wait for others: `count` requests run at once, or none of them ends."""
    count = asked(environ, "count")
    meeting = MEETINGS.setdefault(count, threading.Barrier(count))
    try:
        meeting.wait(20)
    except threading.BrokenBarrierError:
        return whole(start_response, b"alone\n")
    return whole(start_response, b"met\n")


def whole(start_response: StartResponse, content: bytes) -> Iterable[bytes]:
    """A response in one piece."""
    start_response("200 OK", [TEXT, ("Content-Length", str(len(content)))])
    return [content]


VIEWS = {view.__name__: view for view in (big, events, ticks, nap, ready, meet)}
