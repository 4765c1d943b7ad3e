"""Stopping the server: ask, insist, kill - each after its time, each only once."""

from __future__ import annotations

import enum
from typing import Final

_NS: Final = 1_000_000_000
# From "leave at once" to SIGKILL, when somebody pressed Ctrl+C twice.
IMPATIENT_KILL_AFTER_S: Final = 0.2


class Step(enum.Enum):
    """How far the stop has got."""

    NOT_ASKED = "not asked"
    STOPPING = "stopping"  # workers finish what they have
    NOW = "now"  # workers leave at once
    KILLED = "killed"


class Shutdown:
    """The deadlines of a stop. Pure: the manager tells it the time and does what it says."""

    def __init__(self, step: Step = Step.NOT_ASKED, deadline_ns: int = 0) -> None:
        self.step = step
        self.deadline_ns = deadline_ns

    @property
    def asked(self) -> bool:
        """Whether the server is stopping."""
        return self.step is not Step.NOT_ASKED

    def ask(self, now_ns: int, graceful_timeout_s: float) -> Step:
        """Note a signal; the second one makes it NOW. Returns the step to take."""
        if self.step is Step.NOT_ASKED:
            self.step = Step.STOPPING
            self.deadline_ns = now_ns + int(graceful_timeout_s * _NS)
        elif self.step is Step.STOPPING:
            self.step = Step.NOW
            self.deadline_ns = now_ns + int(IMPATIENT_KILL_AFTER_S * _NS)
        return self.step

    def next_step(self, now_ns: int, kill_after_s: float) -> Step | None:
        """Return the step whose time has come, None if there is none."""
        if not self.asked or now_ns < self.deadline_ns:
            return None
        if self.step is Step.STOPPING:
            self.step = Step.NOW
            self.deadline_ns = now_ns + int(kill_after_s * _NS)
            return Step.NOW
        # Said again each second: a worker whose pidfd was still on its way is hit then.
        self.step = Step.KILLED
        self.deadline_ns = now_ns + _NS
        return Step.KILLED
