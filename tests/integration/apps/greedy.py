"""An application that takes all the memory it can get, when it is asked to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_MEGABYTE = 1 << 20
_MOST_MEGABYTES = 1024


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the pid; after taking a gigabyte, if the path says so."""
    wanted = _MOST_MEGABYTES if environ["PATH_INFO"] == "/take" else 0
    taken = [bytearray(os.urandom(4096) * (_MEGABYTE // 4096)) for _ in range(wanted)]
    content = json.dumps({"pid": os.getpid(), "megabytes": len(taken)}).encode()
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response("200 OK", head)
    return [content]
