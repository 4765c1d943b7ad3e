"""How a process ended, in words."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitStatus:
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

    def explained(self, *, killed_by_us: bool) -> str:
        """Return how it ended, with what can be said about who did it."""
        if self.signal != signal.SIGKILL:
            return str(self)
        # The kernel's out-of-memory killer leaves no other trace that we could read.
        why = "as it did not leave" if killed_by_us else "perhaps out of memory"
        return f"{self}, {why}"
