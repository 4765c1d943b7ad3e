"""Store: how much of clients' data one worker keeps in memory, and files for the rest."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from typing import IO

from httpcore_srv.errors import ProtocolError
from httpcore_srv.ports import Incident
from httpcore_srv.seldom import Seldom

log = logging.getLogger("smart_http.worker")


class Store:
    """The memory budget of one worker, shared by all its connections and threads.

    max_bytes: what unfinished requests and unsent responses may take together.
    directory: where temporary files go; None: the system's place.
    count: called for what the readout is to show. Any thread.
    """

    def __init__(
        self, max_bytes: int, directory: str | None, count: Callable[[Incident], None]
    ) -> None:
        self._max_bytes = max_bytes
        # Asked now: tempfile tries by writing, which may fail later for lack of descriptors.
        self._directory = directory or _usual_directory()
        self._count = count
        self._lock = threading.Lock()
        self._spooling = threading.Lock()
        self._used = 0
        self._seldom = Seldom()

    @property
    def used(self) -> int:
        """How many bytes are taken now."""
        return self._used

    def take(self, size: int) -> bool:
        """Reserve `size` bytes of memory; False if that would be more than there is."""
        with self._lock:
            if self._used + size > self._max_bytes:
                return False
            self._used += size
            return True

    def give(self, size: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._used -= size

    def open_file(self) -> IO[bytes]:
        """Make a file without a name, for what is too large for memory. Raises: OSError."""
        file = tempfile.TemporaryFile(prefix="smart-http-", dir=self._directory)  # noqa: SIM115
        self._count(Incident.SPOOLED)
        return file

    def spool(self, data: memoryview) -> int:
        """Write `data` to a file without a name; return a descriptor of it. Raises: OSError.

        One thread at a time: many that copy megabytes into the kernel leave the leader
        hardly a turn on its core.
        """
        with self._spooling, self.open_file() as file:
            file.write(data)
            file.flush()
            return os.dup(file.fileno())

    def full(self) -> ProtocolError:
        """Return what to tell a client whose request has no room in memory."""
        self._count(Incident.NO_ROOM)
        return ProtocolError(503, "no memory for another request", retry_after_s=1)

    def failed(self, what: str, error: OSError) -> ProtocolError:
        """Log that a file could not be made or written, and return what to tell the client."""
        self._count(Incident.NO_ROOM)
        if self._seldom(what):
            log.error("cannot keep %s in a temporary file: %s", what, error.strerror or error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return ProtocolError(507 if full else 503, f"no room for {what}", retry_after_s=10)


def _usual_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "/tmp"  # not writable; what has to wait there will be refused, and logged
