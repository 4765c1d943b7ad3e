"""The applications of the scale curves."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

COMPUTE_S: Final = 0.001  # of the thread's own time
COMPUTED_BODY: Final = b"computed"
_READ_BYTES: Final = 65536
_BLOCK: Final = bytes(range(256)) * 16

_bodies: dict[str, bytes] = {}
_forked_at_s = 0.0  # CLOCK_BOOTTIME; 0: not forked since this module was loaded


def body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as many bytes as the query says, from memory."""
    wanted = environ.get("QUERY_STRING", "")
    content = _bodies.get(wanted)
    if content is None:
        content = _bodies[wanted] = b"x" * int(wanted or 0)
    return _answer(start_response, content)


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the whole body in pieces; answer its length."""
    length, read = 0, environ["wsgi.input"].read
    if environ.get("CONTENT_LENGTH"):
        while piece := read(_READ_BYTES):
            length += len(piece)
    return _answer(start_response, b"%d" % length)


def compute(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Use a core for 1 ms."""
    end_s = time.thread_time() + COMPUTE_S
    while time.thread_time() < end_s:
        zlib.crc32(_BLOCK)
    return _answer(start_response, COMPUTED_BODY)


def born() -> str:
    """Return when this process was forked, as CLOCK_BOOTTIME in seconds.

    To the microsecond where this module was loaded before the fork, else to the 10 ms of the
    kernel's record of processes.
    """
    return f"{_forked_at_s or _started_s():.6f}"


def _note_fork() -> None:
    global _forked_at_s
    _forked_at_s = time.clock_gettime(time.CLOCK_BOOTTIME)


def _started_s() -> float:
    # starttime, the 22nd field (proc_pid_stat(5)); the second may have spaces, and ends with ")"
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _answer(start_response: StartResponse, content: bytes) -> Iterable[bytes]:
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    )
    return [content]


os.register_at_fork(after_in_child=_note_fork)
