"""WaitingLine: streams for whose request no thread is free. First come, first served.

What waits has either been read whole, or lies in its socket still, where a sibling can
take it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from httpcore_srv.parcel import MAX_HOPS
from httpcore_srv.stream import Stream

if TYPE_CHECKING:
    from httpcore_srv.server import HTTPServer

RETRY_S: Final = 0.01  # how often what waits for a thread looks for a sibling with a free one


class WaitingLine:
    """The line of one worker. Of the holder of the baton, but for `post_serving`."""

    def __init__(self, server: HTTPServer) -> None:
        self.streams: deque[Stream] = deque()
        self._server = server
        self._serving_posted = False

    def wait_for_thread(self, stream: Stream) -> None:
        """No thread is free: give the stream to a sibling that has one, or let it wait."""
        server = self._server
        if server.give_away(stream, only_free=True) or not stream.park():
            return
        self.streams.append(stream)
        server.poke()
        # A thread may have ended its request after we looked and before we stood in the
        # line; then it saw an empty line. So look again from the line.
        if server.pool.busy < server.max_threads:
            self.post_serving()

    def wait_for_turn(self, stream: Stream) -> None:
        """Let the others go first: the stream has pipelined many requests."""
        if stream.park():
            self.streams.append(stream)
            self.post_serving()

    def leave(self, stream: Stream) -> None:
        """The stream waits no more."""
        self.streams.remove(stream)

    def post_serving(self) -> None:
        """Have the line served soon: once, however many ask for it. Any thread."""
        if not self._serving_posted:
            self._serving_posted = True
            self._server.loop.post(self._serve)

    def retry_siblings(self) -> None:
        """Look again whether a sibling has a thread for what waits here unread."""
        for stream in list(self.streams):
            may_move = stream.movable and stream.hops < MAX_HOPS
            # Nobody free for the first that may move is nobody free for the rest.
            if may_move and not self._server.give_away(stream, only_free=True):
                return

    def _serve(self) -> bool:
        """Give free threads to what waits. True: the baton was lost."""
        # Cleared before anything is looked at: whoever frees a thread after this posts anew,
        # and whoever did so before is seen.
        self._serving_posted = False
        server = self._server
        for _ in range(len(self.streams)):
            # The line may have become shorter by more than one: a stream's end can end others.
            if server.pool.busy >= server.max_threads or not self.streams:
                break
            if self.streams.popleft().resume():
                if self.streams:
                    self.post_serving()
                return True
        return False
