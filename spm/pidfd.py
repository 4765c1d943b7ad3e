"""PidFD: a process, by a descriptor instead of a number that may be used again."""

from __future__ import annotations

import os
import signal

from .exit_status import ExitStatus


class PidFD:
    """A descriptor that stands for one process, whatever becomes of its number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, readable as soon as the process is dead."""
        return self._fd

    def kill(self) -> None:
        """Send SIGKILL; to a process that is gone already it does not matter."""
        self.send(signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send a signal; to a process that is gone already it does not matter."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return

    def collect(self) -> ExitStatus | None:
        """Reap the process and return how it ended; None if that is not known (yet).

        None, too, for a process that is not our child: whoever forked it reaps it.
        WNOHANG: the caller was told by poll and must never wait here.
        """
        try:
            result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        return None if result is None else ExitStatus.of(result)

    def pid(self) -> int:
        """Return the process's number, -1 if it is not known (any more)."""
        try:
            with open(f"/proc/self/fdinfo/{self._fd}") as lines:
                for line in lines:
                    if line.startswith("Pid:"):
                        return int(line.split()[1])
        except OSError:
            return -1
        return -1

    def close(self) -> None:
        """Close the descriptor, once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
