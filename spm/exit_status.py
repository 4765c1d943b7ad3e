"""How a process ended, in words, and who ended it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final, NamedTuple

_LOOK_EVERY_NS: Final = 500_000_000
# How long a killed process may take to be gone, and its parent to say so: freeing gigabytes
# takes a second.
_DYING_NS: Final = 10_000_000_000
_MOST_AT_ONCE: Final = 1000


class ExitStatus(NamedTuple):
    """An exit status, or the signal that ended the process (then status is 0)."""

    status: int = 0
    signal: int = 0

    @classmethod
    def of(cls, result: os.waitid_result) -> ExitStatus:
        """Return what waitid(2) tells."""
        if result.si_code == os.CLD_EXITED:
            return cls(status=result.si_status)
        return cls(signal=result.si_status)

    @property
    def clean(self) -> bool:
        """Whether the process ended by itself and was content."""
        return self.status == 0 and self.signal == 0

    def __str__(self) -> str:
        if not self.signal:
            return f"exit status {self.status}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        return f"killed by {name}"

    def explained(self, *, killed_by_us: bool, out_of_memory: bool | None = None) -> str:
        """Return how it ended, with what can be said about who did it.

        out_of_memory: whether the kernel says that it killed it; None: it does not tell.
        """
        if self.signal != signal.SIGKILL:
            return str(self)
        if killed_by_us:
            return f"{self}, as it did not leave"
        if out_of_memory:
            return "killed by the kernel: out of memory"
        return f"{self}, {'perhaps out of memory' if out_of_memory is None else 'by somebody else'}"


class KernelKills:
    """Tells a SIGKILL of the kernel's, for want of memory, from one of somebody else's.

    The kernel counts before it kills, and does not say whom. So each new count may explain
    one death, and not for long: it may have been for a process that is none of our workers.
    count: reads the number; it only grows. None: it cannot be read.
    """

    def __init__(self, count: Callable[[], int | None]) -> None:
        self._count = count
        self._last = count()
        self._looked_ns = 0
        self._unexplained_ns: list[int] = []  # when each new count was noticed

    def look(self, now_ns: int) -> None:
        """Notice new counts; to be called now and then, and reads when it is due."""
        if now_ns - self._looked_ns >= _LOOK_EVERY_NS:
            self._read(now_ns)

    def explain_one(self, now_ns: int) -> bool | None:
        """Return whether a process that has just died was killed for want of memory."""
        self._read(now_ns)
        if self._last is None:
            return None
        if not self._unexplained_ns:
            return False
        self._unexplained_ns.pop(0)
        return True

    def _read(self, now_ns: int) -> None:
        self._looked_ns = now_ns
        count, before = self._count(), self._last
        self._last = count
        oldest_ns = now_ns - _DYING_NS
        self._unexplained_ns = [each for each in self._unexplained_ns if each > oldest_ns]
        if count is not None and before is not None:
            self._unexplained_ns += [now_ns] * min(_MOST_AT_ONCE, count - before)
