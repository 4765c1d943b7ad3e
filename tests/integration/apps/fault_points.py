"""An application that fails at the point that the path names, in the way that the query names."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

TEXT = [("Content-Type", "text/plain")]
OK = "200 OK"

kept: list[Any] = []  # what outlives its request
closed = 0  # how many endless responses were closed


class Unusual(BaseException):
    """Neither an Exception nor one of the interpreter's own."""


class Unspeakable(Exception):
    """Nothing can be said about it."""

    def __str__(self) -> str:
        raise ValueError("it has no words")

    __repr__ = __str__


class Unformattable(Exception):
    """A traceback of it cannot be made."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ValueError("it has no notes")


def recurse() -> None:
    """Never end."""
    recurse()


def fail(kind: str) -> None:
    """Raise what is asked for."""
    if kind == "recursion":
        recurse()
    if kind == "memory":
        kept.append(bytearray(1 << 60))
    if kind == "exit":
        sys.exit(3)
    raise ERRORS[kind]


ERRORS: dict[str, BaseException | type[BaseException]] = {
    "error": ValueError("asked for"),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "stop": StopIteration,
    "unusual": Unusual,
    "unspeakable": Unspeakable,
    "unformattable": Unformattable,
    # Tools that compile templates make such ones; the last one should be a line of the source.
    "syntax": SyntaxError("asked for", ("template", 1, 1, 5)),  # type: ignore[arg-type]
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path says."""
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    response: Iterable[bytes] = VIEWS[environ["PATH_INFO"].strip("/")](
        environ, start_response, query
    )
    return response


View = Callable[["WSGIEnvironment", "StartResponse", dict[str, str]], Any]
VIEWS: dict[str, View] = {}


def view(function: View) -> View:
    """Note a view under its name."""
    VIEWS[function.__name__] = function
    return function


@view
def lane(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """Who runs this: the loop's own thread, or one of the pool's? After a pause, if asked."""
    time.sleep(int(query.get("ms", "0")) / 1000)
    frame: Any = sys._getframe()
    name = "pool"
    while frame is not None:
        if frame.f_code.co_filename.endswith("event_loop.py"):
            name = "loop"
        frame = frame.f_back
    said = {"lane": name, "pid": os.getpid(), "closed": closed, "threads": threading.active_count()}
    content = json.dumps(said).encode()
    start_response(OK, [*TEXT, ("Content-Length", str(len(content)))])
    return [content]


# -- where it fails ----------------------------------------------------------------------------


@view
def called(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """Before anything."""
    fail(query["kind"])


@view
def started(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """After start_response."""
    start_response(OK, TEXT)
    fail(query["kind"])


@view
def first(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """When the first piece is asked for."""
    start_response(OK, TEXT)
    fail(query["kind"])
    yield b"never"


@view
def later(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """In the middle of the content, the length of which is declared if asked for."""
    length = [("Content-Length", query["length"])] if "length" in query else []
    start_response(OK, TEXT + length)
    yield b"half"
    fail(query["kind"])


@view
def written(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """After write()."""
    start_response(OK, TEXT)(b"half")
    fail(query["kind"])


@view
def at_end(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """In close()."""

    class Content:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"wh", b"ole"])

        def close(self) -> None:
            fail(query["kind"])

    start_response(OK, TEXT)
    return Content()


# -- start_response ----------------------------------------------------------------------------

STATUSES: dict[str, Any] = {
    "number": 200,
    "split": "200 OK\r\nX-Injected: yes",
    "no-code": "OK",
    "interim": "100 Continue",
}
HEADERS: dict[str, Any] = {
    "none": None,
    "dict": {"X-Injected": "yes"},
    "number": [("X-Injected", 1)],
    "three": [("X-Injected", "a", "b")],
    "split-value": [("X-Name", "a\r\nX-Injected: yes")],
    "split-name": [("X-Name: a\r\nX-Injected", "yes")],
    "nul": [("X-Injected", "\0")],
    "not-latin-1": [("X-Injected", "\u20ac")],
    "length": [("Content-Length", "-1")],
}


@view
def status(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """A status that is none."""
    start_response(STATUSES[query["kind"]], TEXT)
    return [b"content"]


@view
def headers(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """Headers that are none; after that a pause, if asked for."""
    start_response(OK, HEADERS[query["kind"]])
    time.sleep(int(query.get("ms", "0")) / 1000)
    return [b"content"]


@view
def twice(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """start_response twice, before or after the head has been sent, with exc_info or without."""
    start_response(OK, TEXT)
    if query["kind"].startswith("sent"):
        yield b"half"
    try:
        raise LookupError("asked for")
    except LookupError:
        if query["kind"].endswith("info"):
            start_response("503 Sorry", TEXT, sys.exc_info())
        else:
            start_response("503 Sorry", TEXT)
    yield b"sorry"


# -- content -----------------------------------------------------------------------------------

CONTENTS: dict[str, Any] = {
    "text": "text",
    "bytes": b"bytes",
    "none": None,
    "number": 5,
    "str": ["piece"],
    "bytearray": [bytearray(b"piece")],
}


@view
def content(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """An iterable that is none, or that is not of bytes."""
    start_response(OK, TEXT)
    return CONTENTS[query["kind"]]


@view
def endless(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """Content without an end; the generator does not like to be closed, if asked for."""
    global closed
    kept[:] = [start_response(OK, TEXT)]
    try:
        while True:
            yield b"x" * 1000
    finally:
        closed += 1
        if query.get("kind") == "unwilling":
            yield b"one more"


# -- what outlives its request -----------------------------------------------------------------


@view
def keep_write(
    environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]
) -> Any:
    """Keep the write() of this request for later."""
    kept[:] = [start_response(OK, TEXT)]
    yield b"kept"


@view
def late_write(
    environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]
) -> Any:
    """Call the write() of an earlier request, from another thread, in the middle of this one."""

    def late() -> None:
        for _ in range(3):
            try:
                kept[0](b"FORGED")
            except Exception as error:  # noqa: BLE001 - told below
                told.append(type(error).__name__)

    told: list[str] = []
    start_response(OK, TEXT)
    for piece in (b"one ", b"two"):
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
        yield piece


@view
def keep_buffer(
    environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]
) -> Any:
    """Hold on to the memory in which the request's content is, or to the file."""
    content: IO[bytes] = environ["wsgi.input"]
    kept[:] = [content.getbuffer() if hasattr(content, "getbuffer") else content.detach()]  # type: ignore[attr-defined]
    start_response(OK, TEXT)
    return [b"kept"]


# -- crashes -----------------------------------------------------------------------------------


@view
def crash(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Any:
    """End the process, after a piece of the response if asked for."""
    if "after" in query:
        start_response(OK, TEXT)(b"half")
    if query["kind"] == "exit":
        os._exit(3)
    if query["kind"] == "segfault":
        ctypes.string_at(0)
    if query["kind"] == "descriptors":
        os.closerange(3, 1 << 16)
    else:
        os.abort()
