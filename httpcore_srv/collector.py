"""Collector: full collections of cyclic garbage, in the moments when nobody waits for an answer.

CPython looks for garbage in the middle of whatever allocates. Its young generations cost
microseconds and stay as they are. A full collection looks at everything that is not frozen (see
`spm/heap.py`): 10 ms for 200,000 objects, which some request pays and those behind it.

    requests ... quiet for 4 x its time, and CPython's count is reached --------> full collection
             ... quiet >= 1 s, and there was a request since the last one ------> full collection
             ... never quiet: CPython's own, when its count is exceeded five-fold

So none is ever skipped for good: the third line is CPython's automatic collection itself with
its last threshold raised, in force also while the leader looks at nothing at all. Its rule that a
quarter of the old objects must be new goes on as it was. The first threshold is not raised:
cycles may hold large buffers, and it is all that bounds how many of those lie about.

A loaded worker gains nothing, and loses nothing: without gaps somebody waits in any case. What
collections cost in quiet moments is bounded to a hundredth of the time.

It runs on the leader with the baton held, so a finalizer that blocks makes the worker stand
still. It runs while no thread of the pool is busy, so an application that has but one thread at a
time (`--max-threads 1`) is not entered by a second one.

Left alone: an application that has set thresholds or switched collecting off by itself; an
interpreter whose collector is incremental (3.14.0 to 3.14.4: no collection is a full one, and the
last threshold is always 0; from 3.14.5 on it is as in 3.13, gh-148726), or has no generations
(free-threaded builds).
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol

log = logging.getLogger("smart_http.worker")

Thresholds = tuple[int, int, int]

PATIENCE: Final = 5  # by this factor CPython's own full collections come later
QUIET_NS: Final = 20_000_000  # at least so long without a request, if enough was allocated
# By what a quiet time must be longer than the collection. Requests at random moments come with
# the same chance whenever one begins, but real pauses are of very different lengths: one that has
# lasted for a while will. Waiting for as long as it takes met every second burst.
GAP: Final = 4
CALM_NS: Final = 1_000_000_000  # so long without a request: collect whatever there is
SHARE: Final = 100  # a collection is followed by so many times its own duration without one
LOOK_NS: Final = 10_000_000  # between two looks while requests come
NEVER_NS: Final = 1 << 63

# Before any application is imported: by this one it is seen whether that has changed them.
ORIGINAL: Final = gc.get_threshold()
# "t" (PEP 703): built without the GIL. sysconfig knows it, too, but takes a millisecond to import.
GENERATIONAL: Final = ORIGINAL[2] > 0 and "t" not in sys.abiflags


class Functions(Protocol):
    """What is needed of the module `gc`; a seam for tests."""

    def isenabled(self) -> bool:
        """Whether the automatic collection is on."""

    def get_threshold(self) -> Thresholds:
        """Return the thresholds of the three generations."""

    def set_threshold(self, young: int, middle: int, old: int, /) -> None:
        """Set the thresholds of the three generations."""

    def get_count(self) -> Thresholds:
        """Return the counts that are compared with the thresholds."""

    def collect(self) -> int:
        """Make a full collection."""


class Collector:
    """When to make full collections. The holder of the baton; one in a process.

    functions: the module `gc`.
    original: its thresholds as they were before the application was imported.
    generational: whether the interpreter's collector is of the kind that this is for.
    """

    def __init__(
        self,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        functions: Functions = gc,
        original: Thresholds = ORIGINAL,
        *,
        generational: bool = GENERATIONAL,
    ) -> None:
        self._clock_ns = clock_ns
        self._gc = functions
        self._original = original
        self._ours = (original[0], original[1], original[2] * PATIENCE)
        self._generational = generational
        self._arrivals = self._collected = 0  # seen, and when it was last collected
        self._active_ns = 0  # when something was last seen to have come
        self._due_ns = NEVER_NS  # not before, for the sake of what it costs; NEVER_NS: left alone
        self._look_ns = 0
        self._quiet_ns = QUIET_NS

    def begin(self) -> None:
        """Take over, unless the application has settings of its own. After it was imported."""
        if not self._generational:
            log.debug("the collector is left alone: this interpreter's has no full collections")
        elif not self._gc.isenabled() or self._gc.get_threshold() != self._original:
            log.debug("the collector is left alone: the application has set it")
        else:
            self._gc.set_threshold(*self._ours)
            self._due_ns = 0

    def end(self) -> None:
        """Leave everything as it was."""
        if self._due_ns != NEVER_NS and self._gc.get_threshold() == self._ours:
            self._gc.set_threshold(*self._original)
        self._due_ns = NEVER_NS

    def look(self, now_ns: int, arrivals: int, *, busy: bool) -> float | None:
        """Collect if this is the moment; return when to look again, seconds, if it is near.

        arrivals: how many requests and connections have come so far. busy: one runs or waits.
        """
        if busy or arrivals != self._arrivals:
            self._arrivals = arrivals
            self._active_ns = now_ns
            if now_ns < self._look_ns:
                return None
            self._look_ns = now_ns + LOOK_NS
        # Nothing to do for a worker that had nothing to do.
        if now_ns < self._due_ns or arrivals == self._collected or busy:
            return None
        quiet_ns = now_ns - self._active_ns
        if quiet_ns < CALM_NS:
            if self._gc.get_count()[2] <= self._original[2]:
                return None
            if quiet_ns < self._quiet_ns:
                return (self._quiet_ns - quiet_ns) / 1e9
        self._collect(arrivals)
        return None

    def _collect(self, arrivals: int) -> None:
        if self._gc.get_threshold() != self._ours:
            log.debug("the collector is left alone from now on: the application has set it")
            self._due_ns = NEVER_NS
            return
        if not self._gc.isenabled():
            return  # for a while, perhaps; whoever disables it is to be obeyed
        start_ns = self._clock_ns()
        self._gc.collect()
        end_ns = self._clock_ns()
        took_ns = end_ns - start_ns
        self._collected = arrivals
        self._due_ns = end_ns + SHARE * took_ns
        self._quiet_ns = max(QUIET_NS, GAP * took_ns)
