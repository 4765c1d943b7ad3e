"""The application of the scenario `mixed`: most requests are quick, some wait."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from benchmarks.apps import HELLO_BODY, hello

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

QUICK_PATH: Final = "/"
QUICK_BODY: Final = HELLO_BODY
SLOW_PATH: Final = "/slow"
SLOW_BODY: Final = b"slow"
SLOW_S: Final = 0.100


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 13 bytes at once; at `/slow` 4 bytes after 100 ms without the processor."""
    if environ["PATH_INFO"] != SLOW_PATH:
        return hello(environ, start_response)
    time.sleep(SLOW_S)
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(SLOW_BODY)))]
    )
    return [SLOW_BODY]
