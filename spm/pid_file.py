"""The pid file: who serves here."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from .errors import BootFailed

_log = logging.getLogger("smart_http.spm")


def read_pid(path: str | os.PathLike[str]) -> int | None:
    """Return the pid in the file; None if there is no file or no pid in it."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return None
    try:
        pid = int(text)
    except ValueError:
        return None
    return pid if pid > 0 else None


def is_alive(pid: int) -> bool:
    """Whether a process has this pid (also one that we may not touch)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


class PidFile:
    """A pid file that is ours from claim() to release()."""

    def __init__(self, path: str) -> None:
        # Absolute now: the application may change the directory.
        self._path = Path(path).absolute()

    def claim(self, predecessor: int = 0) -> None:
        """Write our pid, at once or not at all.

        predecessor: pid of a server that we replace; the file may be its own.
        Raises: BootFailed if it names another live process or cannot be written. One that
            names a dead process is a leftover and is overwritten.
        """
        try:
            other = read_pid(self._path)
            ours = (None, os.getpid(), predecessor)
            if other not in ours and is_alive(other):
                raise BootFailed(f"pid file {self._path}: process {other} is running")
            self._write()
        except OSError as error:
            raise BootFailed(f"pid file {self._path}: {error.strerror or error}") from error

    def restore(self) -> None:
        """Write our pid again if a successor took the file over, and is gone."""
        try:
            self.claim()
        except BootFailed as error:
            _log.error("%s", error)

    def _write(self) -> None:
        # A reader sees the old file or the whole new one: rename(2) is atomic.
        fd, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(fd, "w") as file:
                file.write(f"{os.getpid()}\n")
                os.fchmod(file.fileno(), 0o644)
            os.replace(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise

    def release(self) -> None:
        """Remove the file if it still holds our pid; it may be a successor's by now."""
        if read_pid(self._path) == os.getpid():
            self._path.unlink(missing_ok=True)
