"""A graceful reload: a new generation comes up, then the old one leaves.

    IDLE -> LOADING (new template imports) -> RISING (its workers start) -> LEAVING (the
    old ones drain) -> IDLE

A failure in LOADING or RISING leads back to IDLE with the old generation serving; from
LEAVING on there is no way back, and none is needed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Phase(enum.Enum):
    """Where the reload stands."""

    IDLE = "idle"
    LOADING = "loading"
    RISING = "rising"
    LEAVING = "leaving"


@dataclass(slots=True)
class Reload:
    """What the manager remembers of a reload.

    old, new: the generations. floor: how many new workers must be ready before the old
    ones are told to leave. asked_again: another one is to follow.
    """

    phase: Phase = Phase.IDLE
    old: int = 0
    new: int = 0
    template: int = 0
    floor: int = 0
    asked_again: bool = False

    @property
    def rising(self) -> bool:
        """Whether the new workers are coming up, next to the old ones."""
        return self.phase is Phase.RISING

    def begin(self, old: int, new: int, template: int) -> None:
        """The new template is loading."""
        self.phase, self.old, self.new, self.template = Phase.LOADING, old, new, template

    def rise(self, floor: int) -> None:
        """The new template is ready; so many workers are to come."""
        self.phase, self.floor = Phase.RISING, floor

    def leave(self) -> None:
        """The new workers serve; the old ones are draining."""
        self.phase, self.floor = Phase.LEAVING, 0

    def end(self) -> bool:
        """Be done; return whether another reload was asked for meanwhile."""
        again, self.asked_again = self.asked_again, False
        self.phase, self.floor, self.template = Phase.IDLE, 0, 0
        return again
