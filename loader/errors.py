"""What can go wrong between the command line and a callable: the user's to mend, never ours."""

from __future__ import annotations

from typing import ClassVar, Final

PROGRAM: Final = "smart-http"


class LoaderError(Exception):
    """A fault that the user can mend; `str()` is the whole message, without the program's name.

    `exit_status` is what the process ends with (2, as for every usage error since getopt(3)).
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UsageError(LoaderError):
    """The command line or the environment says something that cannot be done: one line."""


class LoadError(LoaderError):
    """The application could not be loaded: one message, with its own traceback if it raised."""
