"""An application that computes, or keeps what it is given for ever."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

COMPUTING_S = 0.003
LEAK_BYTES = 1 << 20

_kept: list[bytes] = []


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the pid. /whoami/compute computes first; /whoami/leak keeps a megabyte."""
    path = environ["PATH_INFO"]
    if path == "/whoami/compute":
        end_s = time.thread_time() + COMPUTING_S
        while time.thread_time() < end_s:
            pass
    elif path == "/whoami/leak":
        _kept.append(b"x" * LEAK_BYTES)
    content = json.dumps({"pid": os.getpid()}).encode()
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response("200 OK", head)
    return [content]
