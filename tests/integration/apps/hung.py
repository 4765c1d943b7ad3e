"""An application that keeps Python's lock, or only its thread, as long as it is asked to."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def keep_the_lock(seconds: int) -> None:
    """Sleep in C without letting any other thread run."""
    ctypes.PyDLL(None).sleep(seconds)


def backtrack(seconds: int) -> None:
    """Match for years: the pattern doubles its work with each byte."""
    re.match(rb"(a+)+$", b"a" * 20 * seconds + b"b")


def keep_the_thread(seconds: int) -> None:
    """Sleep while others run."""
    time.sleep(seconds)


def compute(seconds: int) -> None:
    """Compute in Python, which lets others run now and then."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        sum(range(1000))


ACTS: dict[str, Callable[[int], None]] = {
    f"/{act.__name__}": act for act in (keep_the_lock, backtrack, keep_the_thread, compute)
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path says for as many seconds as the query says; answer with the pid."""
    act = ACTS.get(environ["PATH_INFO"])
    if act is not None:
        act(int(environ["QUERY_STRING"]))
    content = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
