"""What can go wrong in this room, each with the exit status it deserves."""

from __future__ import annotations


class SPMError(Exception):
    """Base of this room's errors; `str()` of one is the whole message for the user."""

    exit_status = 1


class SettingsError(SPMError, ValueError):
    """Two settings contradict each other, or one is out of its range."""

    exit_status = 2


class BootFailed(SPMError):
    """The server could not start: nothing is left running, nothing is left bound.

    exit_status: what the process should end with (2: the user can mend it).
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class WorkerBootError(BootFailed):
    """Workers die, time after time, before one of them is ready."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 3)


class ControlError(SPMError):
    """No running server could be found or asked."""
