"""A bare WSGI application: every kind of response that PEP 3333 allows, one to a path."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

TEXT = [("Content-Type", "text/plain")]
SHOWN = (str, int, bool, tuple)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the path says."""
    name = environ["PATH_INFO"].strip("/") or "whole"
    view = VIEWS.get(name)
    if view is None:
        start_response("404 Not Found", TEXT)
        return [b"no such path\n"]
    return view(environ, start_response)


def whole(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """One piece of a declared length."""
    start_response("200 OK", [*TEXT, ("Content-Length", "6")])
    return [b"whole\n"]


def pieces(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A list of unknown length to the server; nothing says how long it is."""
    start_response("200 OK", TEXT)
    return [b"one ", b"", b"two ", b"three\n"]


def generated(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """A generator that calls start_response when its first piece is asked for."""
    start_response("200 OK", TEXT)
    yield b""
    for number in range(3):
        yield b"piece %d\n" % number


def written(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The old way: write()."""
    write = start_response("200 OK", TEXT)
    write(b"written ")
    write(b"by hand, ")
    return [b"and returned\n"]


def nothing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A response that has no content by its status."""
    start_response("204 No Content", [])
    return []


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The request's content, read to its end."""
    content = bytearray()
    while piece := environ["wsgi.input"].read(65536):
        content += piece
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(content)))])
    return [bytes(content)]


def lines(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The lines of the request's content, in reverse order."""
    start_response("200 OK", TEXT)
    return [b"".join(reversed(list(environ["wsgi.input"])))]


def show(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The environ, as JSON."""
    shown = {key: value for key, value in environ.items() if isinstance(value, SHOWN)}
    content = json.dumps({**shown, "pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [content]


def replaced(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A response that is taken back for another one before anything was sent."""
    start_response("200 OK", TEXT)
    try:
        raise LookupError("the first answer was wrong")
    except LookupError:
        start_response("404 Not Found", TEXT, sys.exc_info())
    return [b"the second answer\n"]


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A file, by the server's own wrapper."""
    start_response("200 OK", TEXT)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](open(__file__, "rb"), 1024)  # noqa: SIM115 - the server closes it
    return wrapped


def broken(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """An application that fails when its headers and a piece have been sent."""
    start_response("200 OK", TEXT)
    yield b"so far so good\n"
    raise RuntimeError("broken in the middle")


VIEWS = {
    view.__name__: view
    for view in (
        whole,
        pieces,
        generated,
        written,
        nothing,
        echo,
        lines,
        show,
        replaced,
        file,
        broken,
    )
}
