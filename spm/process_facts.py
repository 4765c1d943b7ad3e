"""What /proc tells of a single process, for a file's reading each."""

from __future__ import annotations

import os
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
_LINE_BYTES: Final = 256


def run_wait_ns(pid: int) -> int | None:
    """Return how long the threads of a process were ready to run and had no core.

    Of those that live; about 10 us a thread. None if the process is gone or the kernel does
    not tell: /proc/PID/task/TID/schedstat, second number (Documentation/scheduler).
    """
    directory = f"/proc/{pid}/task"
    total_ns, known = 0, False
    try:
        threads = os.listdir(directory)
    except OSError:
        return None
    for thread in threads:
        line = _first_line(f"{directory}/{thread}/schedstat")
        if line is None:
            continue  # it has ended since
        numbers = line.split()
        if len(numbers) != 3:
            return None
        total_ns, known = total_ns + int(numbers[1]), True
    return total_ns if known else None


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped, by a signal or a debugger; False if it is gone."""
    line = _first_line(f"/proc/{pid}/stat")
    # The state stands behind the name, in which anything may stand.
    return line is not None and line.rpartition(b")")[2].lstrip()[:1] in (b"T", b"t")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, shared pages included; 0 if it is gone."""
    line = _first_line(f"/proc/{pid}/statm")
    return int(line.split()[1]) * _PAGE_BYTES if line else 0


def _first_line(path: str) -> bytes | None:
    # Unbuffered: a buffer, and its fstat(2), would cost more than what is read.
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_LINE_BYTES)
    except OSError:
        return None
