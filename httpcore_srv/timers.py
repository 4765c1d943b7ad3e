"""Deadlines of thousands of connections, at no cost per request.

A connection's deadline moves with every request, a heap or an ordered table would
be touched every time. Here the moving is one attribute store on the item; the
item sits in the bucket of an *earlier* moment, and only when that moment comes is
its deadline looked at again: passed, or the item moves on to a later bucket. The
look happens once per timeout, not once per request.

Owned by the holder of the baton.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Final, Protocol

TICK_NS: Final = 100_000_000  # 0.1 s: the grain of every timeout
NEVER_NS: Final = 1 << 62


class Timed(Protocol):
    """Something that has a deadline."""

    deadline_ns: int  # CLOCK_MONOTONIC
    due_tick: int  # the bucket it sits in, 0: in none. Written by Timers only

    def expire(self) -> None:
        """The deadline has passed."""


class Timers:
    """Buckets of items, a tenth of a second wide.

    clock_ns: CLOCK_MONOTONIC in nanoseconds.
    shortest_ns: the shortest timeout that is ever set. No item sleeps longer than that
        without a look, so a deadline may also be moved *nearer* by a mere store.
    """

    def __init__(
        self, clock_ns: Callable[[], int] = time.monotonic_ns, shortest_ns: int = NEVER_NS
    ) -> None:
        self._clock_ns = clock_ns
        self._shortest_ns = shortest_ns
        self.next_ns = NEVER_NS  # when the earliest bucket is due
        self._buckets: dict[int, set[Timed]] = {}
        self._ticks: list[int] = []  # heap of the buckets' numbers

    def schedule(self, item: Timed, deadline_ns: int) -> None:
        """Give `item` a deadline; cheap when a look comes no later than that anyway."""
        item.deadline_ns = deadline_ns
        tick = self._tick_of(deadline_ns, self._clock_ns())
        if not item.due_tick or tick < item.due_tick:
            self.forget(item)
            self._put(item, tick)

    def forget(self, item: Timed) -> None:
        """Take `item` out, so that a closed connection is not kept alive by its deadline."""
        bucket = self._buckets.get(item.due_tick)
        if bucket is not None:
            bucket.discard(item)
        item.due_tick = 0

    def fire(self, now_ns: int) -> None:
        """Expire what is past its deadline, and move on what is not."""
        now_tick = now_ns // TICK_NS
        while self._ticks and self._ticks[0] <= now_tick:
            tick = heapq.heappop(self._ticks)
            for item in self._buckets.pop(tick):
                # Another item's expiry may have forgotten or moved this one meanwhile.
                if item.due_tick != tick:
                    continue
                item.due_tick = 0
                if item.deadline_ns <= now_ns:
                    item.expire()
                else:
                    self._put(item, self._tick_of(item.deadline_ns, now_ns))
        self.next_ns = self._ticks[0] * TICK_NS if self._ticks else NEVER_NS

    def _tick_of(self, deadline_ns: int, now_ns: int) -> int:
        """Return the bucket in which an item with this deadline is looked at again."""
        return min(deadline_ns, now_ns + self._shortest_ns) // TICK_NS + 1

    def _put(self, item: Timed, tick: int) -> None:
        item.due_tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item}
            heapq.heappush(self._ticks, tick)
            self.next_ns = self._ticks[0] * TICK_NS
        else:
            bucket.add(item)
