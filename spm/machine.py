"""What the machine gives: cores, memory, how busy it is; cgroup limits included."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Final

import psutil

_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_CGROUP_MEMBERSHIP: Final = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use at once, at least 1.

    The affinity mask (taskset, cpusets) and the CPU quota of every cgroup above us
    (containers, systemd's CPUQuota=) both count; the smaller one holds.
    """
    cores = len(os.sched_getaffinity(0))
    for directory in _cgroup_directories():
        quota = _cpu_quota(directory)
        if quota is not None:
            cores = min(cores, ceil(quota))
    return max(1, cores)


def memory_available_bytes() -> int:
    """Return what can still be taken without swapping or meeting a cgroup's limit."""
    available: int = psutil.virtual_memory().available
    for directory in _cgroup_directories():
        limit = _number(directory / "memory.max")
        used = _number(directory / "memory.current")
        if limit is not None and used is not None:
            available = min(available, max(0, limit - used))
    return available


def machine_cpu() -> float:
    """Return the share, 0 to 1, of all CPU time that was used since the last call."""
    return psutil.cpu_percent(interval=None) / 100


def process_cpu_ns(pid: int) -> int | None:
    """Return the CPU time that a process has used; None if it is gone.

    The clock of another process has the number (~pid << 3) | 2: clock_getcpuclockid(3).
    Nanoseconds and one system call, against hundredths of a second from /proc.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return None


def process_memory(pid: int) -> dict[str, int]:
    """Return rss, pss and uss in bytes, as far as they can be read; none if it is gone.

    PSS counts a page shared by n processes as one n-th, so it can be summed up; the sum
    of RSS counts what the template shares with its workers again for each of them.
    """
    process = None
    try:
        process = psutil.Process(pid)
        full = process.memory_full_info()
        return {"rss": full.rss, "pss": full.pss, "uss": full.uss}
    except psutil.AccessDenied:
        try:
            return {"rss": process.memory_info().rss} if process else {}
        except psutil.Error:
            return {}
    except psutil.Error:
        return {}


def _cgroup_directories() -> Iterator[Path]:
    """Yield the directories of our cgroup (version 2) and of those above it."""
    try:
        lines = _CGROUP_MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::"):
            inner = _CGROUP_ROOT / line[3:].lstrip("/")
            yield inner
            for directory in inner.parents:
                if not directory.is_relative_to(_CGROUP_ROOT):
                    return
                yield directory


def _cpu_quota(directory: Path) -> float | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no such file, or "max": no quota here


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # no such file, or "max": no limit here
