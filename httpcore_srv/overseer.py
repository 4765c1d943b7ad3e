"""Overseer: looks at the requests that pool threads run.

A response that goes on for long is a stream: its thread is counted aside, so that streams
do not starve ordinary requests. A request whose response has not begun in time
(`request_s`) is answered 504, and its thread written off: nobody can stop a thread,
but others can take its place.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Final

from httpcore_srv import wsgi
from httpcore_srv.dispatcher import Run
from httpcore_srv.errors import ProtocolError
from httpcore_srv.ports import Incident

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer
    from httpcore_srv.stream import Stream

log = logging.getLogger("smart_http.worker")

LOOK_S: Final = 0.1  # between two looks, while anything runs
LASTING_NS: Final = 1_000_000_000  # a response that goes on for so long is a stream


class Overseer:
    """Looks from time to time. The holder of the baton."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._request_ns = server.request_ns
        self._due_ns = 0

    def look(self, now_ns: int) -> float:
        """Look if it is time to; return when to look again, in seconds."""
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + int(LOOK_S * 1e9)
            # copy() is one step under the GIL: threads add to it meanwhile.
            for stream, run in self._server.running.copy().items():
                self._look_at(stream, run, now_ns)
        return LOOK_S

    def _look_at(self, stream: Stream, run: Run, now_ns: int) -> None:
        exchange = stream.exchange
        # Aside for its body only, and not waiting: that is the application's time.
        if exchange is None or run.waiting or (run.aside and not run.live):
            return
        age_ns = now_ns - run.began_ns
        if (exchange.is_stream and age_ns >= LASTING_NS) or exchange.is_event_stream:
            self._server.dispatcher.move_aside(stream)
        elif 0 < self._request_ns <= age_ns:
            self._write_off(stream, run, exchange.what, age_ns)

    def _write_off(self, stream: Stream, run: Run, what: str, age_ns: int) -> None:
        if not self._server.dispatcher.write_off(stream):
            return
        log.error(
            "%s: no response after %.1f s, answered 504; its thread is written off, and is at:\n%s",
            what,
            age_ns / 1e9,
            _application_stack(run.thread),
        )
        self._server.count(Incident.REQUEST_TIMEOUT)
        stream.refuse(ProtocolError(504, "the application did not respond in time"))


def _application_stack(thread: int) -> str:
    """Return what a thread is doing in the application, as a traceback shows it."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "  (it has ended)"
    stack = traceback.extract_stack(frame)
    ours = [index for index, line in enumerate(stack) if line.filename == wsgi.__file__]
    return "".join(traceback.format_list(stack[ours[-1] + 1 if ours else 0 :])).rstrip()
