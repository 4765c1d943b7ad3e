"""Large requests and large responses: checksums of what came, content that can be checked."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PIECE_BYTES = 1 << 16
TEXT = ("Content-Type", "text/plain")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the path says."""
    return VIEWS[environ["PATH_INFO"].strip("/")](environ, start_response)


def asked(environ: WSGIEnvironment, name: str) -> int:
    """Return a number of the query."""
    return int(parse_qs(environ["QUERY_STRING"])[name][0])


def whole(start_response: StartResponse, content: bytes) -> Iterable[bytes]:
    """A response in one piece."""
    start_response("200 OK", [TEXT, ("Content-Length", str(len(content)))])
    return [content]


def ready(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """An ordinary response."""
    return whole(start_response, b"ready\n")


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Length and checksum of what was sent."""
    checksum, length = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(PIECE_BYTES):
        checksum.update(piece)
        length += len(piece)
    return whole(start_response, json.dumps([length, checksum.hexdigest()]).encode())


def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """So many pieces of 64 KiB, each with its number, as one."""
    return whole(start_response, b"".join(_pieces(environ)))


def generated(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """The same, piece by piece."""
    start_response("200 OK", [TEXT])
    yield from _pieces(environ)


def _pieces(environ: WSGIEnvironment) -> Iterator[bytes]:
    mark = asked(environ, "mark")
    for number in range(asked(environ, "count")):
        yield b"%08d%08d" % (mark, number) + bytes(PIECE_BYTES - 16)


def files(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What this process has open, and how many threads it has."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # that was the listing itself
    return whole(start_response, json.dumps([links, threading.active_count()]).encode())


VIEWS = {view.__name__: view for view in (ready, upload, large, generated, files)}
