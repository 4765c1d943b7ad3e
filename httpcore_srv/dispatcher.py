"""Who runs a complete request: the leader itself, or a thread of the pool.

Inline, while the application is quick: the leader lays the baton down, runs the
request on its own thread and takes the baton back. No queue, no lock, no second
thread. If the sentinel took the baton meanwhile, the application was not quick:
from then on requests go through the pool's queue, until 256 of them in a row
took less than a millisecond.

Both ways run the same `Stream.respond`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from httpcore_srv.event_loop import EventLoop
from httpcore_srv.ports import Slot
from httpcore_srv.sentinel import Sentinel
from httpcore_srv.thread_pool import ThreadPool

log = logging.getLogger("smart_http.worker")

QUICK_NS: Final = 1_000_000  # a request that took no longer was quick
QUICK_RUN: Final = 256  # quick requests in a row that make inline running the better bet again


class Job(Protocol):
    """A stream that holds a complete request."""

    def respond(self) -> bool:
        """Run the application and send the response. True: the application failed."""

    def responded(self) -> None:
        """Go on after a response. The leader."""

    def hand_back(self) -> None:
        """Give the connection back to the leader, from a thread that does not lead."""


class Dispatcher:
    """Runs requests and keeps count of them.

    on_freed: called by a pool thread that has ended a request, without any lock held.
    lead: runs the loop; called on the thread that leads after the baton was taken.
    """

    def __init__(
        self,
        loop: EventLoop,
        pool: ThreadPool,
        slot: Slot,
        on_freed: Callable[[], None],
        lead: Callable[[], object],
    ) -> None:
        self.inline = True
        self._pool = pool
        self._slot = slot
        self._store_begun = slot.begun
        self._store_ended = slot.ended_inline
        self._on_freed = on_freed
        self._clock_ns = loop.clock_ns
        self._baton = loop.baton
        self._lead = lead
        self.sentinel = Sentinel(loop.baton, self._baton_taken, lambda: loop.leader, loop.clock_ns)
        # Written by the leader:
        self._begun = 0
        self._ended_inline = 0
        self.durations_ns: list[int] = []  # of inline requests, since the last `flush`
        # Guarded by the pool's lock:
        self._ended_pooled = 0
        self._errors = 0
        self._quick = 0

    def run(self, stream: Job) -> bool:
        """Run the request that `stream` holds, which belongs to the running thread now.

        The leader only, with a free thread. True: the baton was lost.
        """
        self._begun += 1
        self._store_begun(self._begun)
        if not self.inline:
            self._pool.submit(lambda: self._serve(stream))
            return False
        if not self.durations_ns:
            # The first of its batch says that this worker is busy; `flush` ends the batch.
            self._slot.busy(self._pool.busy + 1)
        sentinel = self.sentinel
        sentinel.since_ns = start_ns = self._clock_ns()
        # Laid down. From here to `remove` another thread may be the leader at any moment;
        # `since_ns` was set first, or the sentinel would see an old one.
        self._baton.append(stream)
        if sentinel.asleep:
            sentinel.wake()
        failed = stream.respond()
        try:
            # Not pop(): if the sentinel took our baton long ago, another leader's may lie
            # here now, and taking that would make two threads lead by turns.
            self._baton.remove(stream)
        except ValueError:
            # The sentinel was here: this is a pool thread now, like any other, and was
            # counted as busy when the baton went.
            self._end_pooled(self._clock_ns() - start_ns, failed)
            stream.hand_back()
            self._on_freed()
            return True
        self._ended_inline += 1
        self._store_ended(self._ended_inline)
        self.durations_ns.append(self._clock_ns() - start_ns)
        if failed:
            with self._pool.lock:
                self._count_error()
        stream.responded()
        return False

    def flush(self) -> None:
        """Account for inline requests. The leader, with the pool's lock held."""
        if self.durations_ns:
            self._slot.timed(self.durations_ns)
            self.durations_ns.clear()

    def _serve(self, stream: Job) -> None:
        """Run one request on a pool thread."""
        start_ns = self._clock_ns()
        failed = stream.respond()
        self._end_pooled(self._clock_ns() - start_ns, failed)
        # In this order: a thread that is free, and only then the connection and whatever
        # waited for a thread. Otherwise a client's next request could find none.
        stream.hand_back()
        self._on_freed()

    def _end_pooled(self, duration_ns: int, failed: bool) -> None:
        pool = self._pool
        with pool.lock:
            pool.ended()
            self._ended_pooled += 1
            self._slot.ended_pooled(self._ended_pooled)
            self._slot.timed((duration_ns,))
            # Below zero for a moment if the sentinel has taken the baton and not counted yet.
            self._slot.busy(max(0, pool.busy))
            if failed:
                self._count_error()
            if duration_ns >= QUICK_NS:
                self._quick = 0
            elif not self.inline:
                self._quick += 1
                if self._quick >= QUICK_RUN:
                    self._quick = 0
                    self.inline = True

    def _count_error(self) -> None:
        """The application failed a request. The pool's lock is held."""
        self._errors += 1
        self._slot.failed(self._errors)

    def _baton_taken(self) -> None:
        """The sentinel's thread holds the baton: count the stuck call, have another lead."""
        self.inline = False
        pool = self._pool
        with pool.lock:
            # The stuck thread may already have found the baton gone, ended its request and
            # subtracted itself: then `busy` was one too low for a moment, never for long.
            pool.busy += 1
            self._quick = 0
            self._slot.busy(pool.busy)
        pool.run_aside(self._lead)
