"""Journal: what the manager has decided, and why. The last few hundred entries."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_log = logging.getLogger("smart_http.spm")

_ENTRIES: Final = 300


class Entry(NamedTuple):
    """One decision. at: seconds since 1970; total: workers at that time; wanted: to be."""

    at: float
    what: str
    why: str
    total: int
    wanted: int


class Journal:
    """Says each decision in one line of the log, and remembers it for the readout.

    clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=_ENTRIES)

    def note(self, what: str, why: str, total: int, wanted: int) -> None:
        """Log and keep a decision."""
        self._entries.append(Entry(round(self._clock(), 3), what, why, total, wanted))
        _log.info("%s: %s (Total %d, wanted %d)", what, why, total, wanted)

    def entries(self) -> list[dict[str, Any]]:
        """Return what is remembered, the oldest first, ready for JSON."""
        return [entry._asdict() for entry in self._entries]
