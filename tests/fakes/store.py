"""A real memory budget whose files are the test's."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from typing import IO

from httpcore_srv.ports import Incident
from httpcore_srv.store import Store


class SpyStore(Store):
    """Counts incidents and remembers the files it has made.

    max_bytes: the budget. make: how a file comes about; it may raise OSError.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        super().__init__(max_bytes, None, self._note)
        self.made: list[IO[bytes]] = []
        self.incidents: list[Incident] = []
        self.make: Callable[[], IO[bytes]] = tempfile.SpooledTemporaryFile  # without a limit

    def open_file(self) -> IO[bytes]:
        file = self.make()
        self.made.append(file)
        self._note(Incident.SPOOLED)
        return file

    def limit(self, max_bytes: int) -> None:
        """Set another budget; what has been taken stays taken."""
        self._max_bytes = max_bytes

    def close(self) -> None:
        """Close what a test has left open."""
        for file in self.made:
            with contextlib.suppress(OSError):
                file.close()

    def _note(self, incident: Incident) -> None:
        self.incidents.append(incident)


def no_space() -> OSError:
    """Return what a full disk says."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk() -> IO[bytes]:
    """Open a file on a disk without room: its buffer takes what it cannot keep."""
    return open("/dev/full", "r+b")
