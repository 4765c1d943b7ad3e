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
    """The application could not be found, or is none: one message."""


class AppRaised(LoadError):
    """The application's own code raised while it was loaded: the message has its traceback.

    Its fault and not the command line's: hence 3, as for a worker that cannot start.
    """

    exit_status = 3


class HookError(Exception):
    """A hook has raised; `str()` is the whole message, with the application's traceback.

    No exit status is asked for: what failed in one worker (a database that is away) may
    succeed in the next.
    """

    exit_status: ClassVar[None] = None
