"""An application that says what has reached it, and lets a client put words into its response."""

from __future__ import annotations

import ctypes
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

OK = "200 OK"
TEXT = [("Content-Type", "text/plain")]
PID_WORD = 2  # of a row of the scoreboard
WORKER_WORDS = 8  # from here on it is its worker's ...
ROW_WORDS = 160  # ... up to here

seen: list[str] = []  # method and target of each request


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path says; any other path is answered with what was asked."""
    seen.append(f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}")
    path = environ["PATH_INFO"]
    text = unquote(environ["QUERY_STRING"], "latin-1")
    if path == "/seen":
        said: Any = seen[:-1]
        seen.clear()
        return answer(start_response, said)
    if path == "/stream":
        return stream(start_response)
    if path == "/sleep":
        time.sleep(int(text) / 1000)
    elif path == "/name":
        start_response(OK, [(text, "x")])
        return [b"content"]
    elif path == "/value":
        start_response(OK, [("X-Name", text)])
        return [b"content"]
    elif path == "/cookie":
        start_response(OK, [("Set-Cookie", text)])
        return [b"content"]
    elif path == "/status":
        start_response(text, TEXT)
        return [b"content"]
    elif path == "/hints":
        environ["wsgi.early_hints"]([("Link", text)])
    elif path == "/fail":
        raise ValueError(text)
    elif path == "/scribble":
        scribble(int(text))
    elif path != "/ignore":
        return answer(start_response, described(environ))
    return answer(start_response, None)


def answer(start_response: StartResponse, said: object) -> list[bytes]:
    """Answer in JSON, with the pid."""
    content = json.dumps({"pid": os.getpid(), "said": said}).encode()
    start_response(OK, [("Content-Type", "application/json")])
    return [content]


def described(environ: WSGIEnvironment) -> dict[str, object]:
    """Return the request as it arrived here."""
    shown = {key: value for key, value in environ.items() if isinstance(value, str)}
    return {**shown, "content": environ["wsgi.input"].read().decode("latin-1")}


def stream(start_response: StartResponse) -> Iterator[bytes]:
    """Content without an end."""
    start_response(OK, TEXT)
    while True:
        yield b"x" * 65536


def scribble(word: int) -> None:
    """Write a number over this worker's own words of the scoreboard.

    That is all it can reach: the rest is read-only here.
    """
    rows = list(own_rows())
    assert len(rows) == 1, rows
    rows[0][WORKER_WORDS:ROW_WORDS] = [word] * (ROW_WORDS - WORKER_WORDS)


def own_rows() -> Iterator[Any]:
    """Find this worker's row in its memory: a shared page that can be written to."""
    with open("/proc/self/maps") as maps:
        shared = [line for line in maps if re.search(r" rw-s .*/dev/zero", line)]
    for line in shared:
        begin, end = (int(address, 16) for address in line.split()[0].split("-"))
        words = (ctypes.c_uint64 * ((end - begin) // 8)).from_address(begin)
        if words[PID_WORD] == os.getpid():
            yield words
