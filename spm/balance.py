"""Which worker gives connections to which: the one whose core is full to the one with room.

Threads cannot help a worker whose GIL is the limit, and another worker helps only if it
gets some of the connections, which are kept alive for minutes. So where the load of two
workers is far apart, half of the difference moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Final, NamedTuple

from .observation import Observation, WorkerSeen, WorkerState

# Shares of a core. Below FULL nobody is slowed down, however uneven the load is; and a
# difference of less than GAP would only go back and forth.
FULL: Final = 0.85
GAP: Final = 0.3
# How long what was in vain is not tried again; twice as long each time.
_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 60.0


class Shift(NamedTuple):
    """Move this share, 0 to 1, of the active connections from one slot's worker to another's."""

    source: int
    target: int
    share: float


class Balance:
    """The shifts, one after the other. Not again and again what does not help.

    A single client may fill a core: then nothing moves, or the load goes to and fro with it.
    """

    def __init__(self) -> None:
        self._settling = False  # the next measurement shows what the last shift has done
        self._last: Shift | None = None
        self._handed_out = 0  # by the source, before the last shift
        self._pause_s = 0.0
        self._not_before_s = -inf

    def next_shift(
        self, seen: Observation, handed_out: Mapping[int, int], now_s: float
    ) -> Shift | None:
        """Return what is to move now. To be asked after each measurement of CPU time.

        handed_out: slot -> connections that its worker has ever handed out.
        """
        # What was measured since the last shift is half before and half after it.
        self._settling, settled = False, not self._settling
        shift = plan_shift(seen) if settled else None
        if shift is None:
            return None
        given = handed_out.get(shift.source, 0)
        if not self._was_in_vain(shift, given):
            self._pause_s = 0.0
        elif now_s < self._not_before_s:
            return None
        self._pause_s = min(_LONGEST_PAUSE_S, max(_PAUSE_S, 2 * self._pause_s))
        self._not_before_s = now_s + self._pause_s
        self._last, self._handed_out, self._settling = shift, given, True
        return shift

    def _was_in_vain(self, shift: Shift, handed_out: int) -> bool:
        """Whether the last shift moved nothing, or is to be undone by this one."""
        last = self._last
        if last is None:
            return False
        nothing_moved = shift.source == last.source and handed_out == self._handed_out
        return nothing_moved or (shift.source, shift.target) == (last.target, last.source)


def plan_shift(seen: Observation) -> Shift | None:
    """Return what should move, by this look alone; None: nothing."""
    ready = [w for w in seen.workers if w.state is WorkerState.READY and not w.worn]
    current = [w for w in ready if w.generation == seen.generation]
    if len(current) < 2:
        return None
    full, free = _extremes(current)
    difference = _load(full) - _load(free)
    if _load(full) < FULL or difference < GAP or full.connections < 2:
        return None
    return Shift(full.slot, free.slot, difference / (2 * _load(full)))


def _load(worker: WorkerSeen) -> float:
    """Return what the worker would take of a core if it had one for itself."""
    return min(1.0, worker.cpu + worker.run_wait)


def _extremes(workers: Iterable[WorkerSeen]) -> tuple[WorkerSeen, WorkerSeen]:
    ranked = sorted(workers, key=lambda w: (_load(w), w.connections, w.slot))
    return ranked[-1], ranked[0]
