"""What happens thousands of times a second is said once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PERIOD_NS: Final = 60_000_000_000


class Seldom:
    """Says of each kind of news whether it is time to log it (again).

    Any thread: at worst two threads log the same news once each.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._due_ns: dict[str, int] = {}

    def __call__(self, news: str) -> bool:
        """Return whether `news` was not said within the last minute."""
        now_ns = self._clock_ns()
        if now_ns < self._due_ns.get(news, 0):
            return False
        self._due_ns[news] = now_ns + PERIOD_NS
        return True
