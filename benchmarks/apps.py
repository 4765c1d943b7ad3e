"""The applications under test that need nothing but the standard library.

Flask's is in `flask_app`, so that a process that only says hello does not carry Flask's
objects: a full collection walks them, and that would be measured as the server's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

HELLO_BODY: Final = b"Hello, World!"
JSON_BODY: Final = (
    b'{"message":"Hello, World!"}\n'  # what flask_app answers, kept here without Flask
)
SLEPT_BODY: Final = b"slept"
SLEEP_S: Final = 0.010


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 13 bytes with the two fields that every application sets."""
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO_BODY)))]
    )
    return [HELLO_BODY]


def sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer after 10 ms without the processor, as a database query would."""
    time.sleep(SLEEP_S)
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(SLEPT_BODY)))]
    )
    return [SLEPT_BODY]
