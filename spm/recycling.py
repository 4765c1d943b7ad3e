"""Recycling: workers that are to be replaced by fresh ones, though nothing is wrong yet.

For applications that leak, and for the peace of mind of those who run them. One worker at a
time, and its replacement is ready before it drains: so nothing is refused, nothing lost,
and there is never more than one worker beside the usual ones.

Threads that are stuck for good are another matter: they are capacity that is gone, so
every worker with too many of them is replaced, and at once.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Final

from .observation import WorkerState
from .settings import SPMS
from .worker import WorkerHandle

_NS: Final = 1_000_000_000
# So long a worker is let alone, however large it is.
_GROWING_S: Final = 10.0


def draw_request_limit(settings: SPMS) -> int:
    """Return after how many requests a new worker is due; 0: never."""
    if not settings.max_requests:
        return 0
    # Workers that were started together and share the load evenly would all be due at once.
    return settings.max_requests + random.randint(0, settings.max_requests_jitter)


class Recycling:
    """Chooses whose turn it is."""

    def __init__(self, settings: SPMS) -> None:
        self._settings = settings
        self._turn = 0  # the incarnation of the one that is being replaced

    def worn(
        self, handles: Collection[WorkerHandle], now_ns: int, *, reloading: bool
    ) -> Mapping[int, str]:
        """Return slot -> why, of all that are to be replaced now.

        reloading: every worker is being replaced already.
        """
        stuck = {
            handle.slot: f"{handle.row.written_off} threads that are stuck"
            for handle in handles
            if 0 < self._settings.written_off_limit <= handle.row.written_off
        }
        if reloading:
            return stuck
        due = {
            handle.incarnation: (handle, why)
            for handle in handles
            if (why := self._why_due(handle, now_ns))
            # It is being replaced anyway, and may be silent for ever.
            and handle.state is not WorkerState.WEDGED
        }
        if self._turn not in due:
            candidates = [h for h, _ in due.values() if h.state is WorkerState.READY]
            first = min(candidates, key=lambda handle: handle.spawned_ns, default=None)
            self._turn = first.incarnation if first is not None else 0
        if self._turn in due:
            handle, why = due[self._turn]
            return {handle.slot: why, **stuck}
        return stuck

    def _why_due(self, handle: WorkerHandle, now_ns: int) -> str:
        settings = self._settings
        if not handle.was_ready:
            return ""
        if 0 < handle.request_limit <= handle.totals.begun:
            return f"{handle.totals.begun} requests"
        age_s = (now_ns - handle.spawned_ns) / _NS
        if 0 < settings.max_age_s <= age_s:
            return f"{age_s:.0f} s of age"
        # Not in its first moments: what a fresh worker takes already no fresh worker cures.
        grown = age_s >= _GROWING_S
        if grown and 0 < settings.max_worker_memory_bytes <= handle.memory_bytes:
            return f"{handle.memory_bytes >> 20} MB of memory"
        return ""
