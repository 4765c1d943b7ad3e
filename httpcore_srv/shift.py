"""Shift: a part of the active connections moves to a sibling that has a core to spare.

A kept-alive connection stays with the worker that accepted it. When the clients of one
worker ask for more than its GIL gives, and a sibling idles, the manager orders a part of
them to be moved; idle connections cost nothing and stay. Nobody waits for that: a stream
moves when it happens to be between two requests, within the next moments or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from httpcore_srv.mode import Mode
from httpcore_srv.parcel import MAX_HOPS

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer
    from httpcore_srv.stream import Stream

ACTIVE_NS: Final = 500_000_000  # whoever has asked within this time is active
PATIENCE_NS: Final = 400_000_000  # how long an order holds; the next may be half a second off
_ROUNDING: Final = 0.25


class Shift:
    """The order that is being carried out, if there is one. Of the holder of the baton."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._streams: list[Stream] = []  # the active ones that are still here
        self._count = 0  # so many of them are still to move
        self._target = -1
        self._until_ns = 0

    @property
    def under_way(self) -> bool:
        """Whether something is still to be moved."""
        return self._count > 0

    def begin(self, target: int, share: float) -> None:
        """Move this share, 0 to 1, of the active connections to the sibling in slot `target`."""
        server = self._server
        now_ns = server.loop.clock_ns()
        since_ns = now_ns - ACTIVE_NS
        self._streams = [s for s in server.streams.values() if self._is_active(s, since_ns)]
        # Of one connection nothing can be moved but the whole load; of two, one, although the
        # sibling does a little something of its own and the share is less than a half.
        self._count = int(share * len(self._streams) + _ROUNDING)
        self._target = target
        self._until_ns = now_ns + PATIENCE_NS

    def go_on(self, now_ns: int) -> None:
        """Move what can be moved at this moment."""
        if now_ns > self._until_ns or self._server.leaving:
            self._end()
            return
        staying = []
        has_room = True  # the sibling; if not, it may have at the next look
        for stream in self._streams:
            if stream.mode is Mode.CLOSED:
                continue
            if has_room and self._count and stream.movable and stream.hops < MAX_HOPS:
                has_room = self._server.give_away(stream, only_free=True, target=self._target)
                if has_room:
                    self._count -= 1
                    continue
            staying.append(stream)
        self._streams = staying
        if not self._count:
            self._end()

    def _end(self) -> None:
        self._streams, self._count = [], 0

    def _is_active(self, stream: Stream, since_ns: int) -> bool:
        if stream.mode is not Mode.READING:
            return stream.mode is Mode.RUNNING or stream.mode is Mode.WAITING
        if stream.is_new:
            return False  # its client has asked for nothing yet
        if not stream.at_rest:
            return True  # a request is coming in
        # At rest, its deadline says when it came to rest.
        return stream.deadline_ns - self._server.keep_alive_ns >= since_ns
