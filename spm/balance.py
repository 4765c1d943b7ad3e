"""Which worker gives connections to which: the one whose core is full to the one with room.

Pure. Threads cannot help a worker whose GIL is the limit, and another worker helps only if it
gets some of the connections, which are kept alive for minutes. So where the load of two
workers is far apart, half of the difference moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .observation import Observation, WorkerSeen, WorkerState

# Shares of a core. Below FULL nobody is slowed down, however uneven the load is; and a
# difference of less than GAP would only go back and forth.
FULL: Final = 0.85
GAP: Final = 0.3


@dataclass(frozen=True, slots=True)
class Shift:
    """Move this share, 0 to 1, of the active connections from one slot's worker to another's."""

    source: int
    target: int
    share: float


def plan_shift(seen: Observation) -> Shift | None:
    """Return what should move now; None: nothing.

    To be asked after each measurement of the workers' CPU time, but for the one that the
    last shift has fallen into.
    """
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
