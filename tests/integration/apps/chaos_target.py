"""An application that keeps a journal: which process has begun which request, before it answers."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PIECES = 20
PIECE_BYTES = 400


def make(version: int) -> WSGIApplication:
    """Build the application as it is at this version of its source."""
    # One write(2) of a short line to a file opened for appending is whole or not there.
    journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        identity = environ["QUERY_STRING"]
        os.write(journal, f"{identity} {os.getpid()}\n".encode())
        body = environ["wsgi.input"].read()
        kind, _, ms = environ["PATH_INFO"].strip("/").partition("/")
        if kind == "sleep":
            time.sleep(int(ms) / 1000)
        said = {"id": identity, "pid": os.getpid(), "version": version, "crc": zlib.crc32(body)}
        content = json.dumps(said).encode() + b"\n"
        if kind == "stream":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return pieces(content, int(ms))
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]

    return app


def pieces(content: bytes, ms: int) -> Iterator[bytes]:
    """Yield the content, then many pieces that can be told apart, at leisure."""
    yield content
    for number in range(PIECES):
        time.sleep(ms / 1000)
        yield piece(number)


def piece(number: int) -> bytes:
    """Return one piece of a stream."""
    return b"%03d" % number * PIECE_BYTES
