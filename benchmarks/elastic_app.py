"""The application under test in `elastic`: waits or computes, and says which worker answered."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

BODY: Final = b"done"
_CALIBRATION_LOOPS: Final = 50_000
_CALIBRATIONS: Final = 9


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer /sleep?ms=N, /compute?loops=N and / with the worker's pid in X-Worker."""
    _, _, figure = environ["QUERY_STRING"].partition("=")
    match environ["PATH_INFO"]:
        case "/sleep":
            time.sleep(int(figure) / 1000)
        case "/compute":
            compute(int(figure))
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]
    start_response("200 OK", [*fields, ("X-Worker", str(os.getpid()))])
    return [BODY]


def compute(loops: int) -> int:
    """Keep the interpreter, and so a core, busy."""
    total = 0
    for number in range(loops):
        total += number * number
    return total


def loops_for(seconds: float) -> int:
    """Return how many loops take so long here, on a core of one's own.

    A fixed amount of work, not of time: an application that looks at the clock would do
    less when the machine is crowded.
    """
    best_s = min(_time_of_calibration() for _ in range(_CALIBRATIONS))
    return max(1, round(_CALIBRATION_LOOPS * seconds / best_s))


def _time_of_calibration() -> float:
    began_s = time.thread_time()
    compute(_CALIBRATION_LOOPS)
    return time.thread_time() - began_s
