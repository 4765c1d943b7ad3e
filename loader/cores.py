"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os


def usable_cores() -> int:
    """Return how many cores may be used: the affinity mask, cut by the cgroup's CPU quota.

    A container limited to one core of a 64-core machine still sees 64 of them; the quota is
    what it gets (cgroup v2, `cpu.max`; the smallest from its own group up to the root counts).
    """
    return max(1, min(len(os.sched_getaffinity(0)), _quota_cores()))


def _quota_cores(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int:
    """Return the cores that the cgroup's quota allows, rounded up; a huge number if unlimited."""
    cores = 1 << 20
    path = _own_group(membership)
    while True:
        cores = min(cores, _quota_of(f"{root}{path}/cpu.max"))
        if path in ("", "/"):
            return cores
        path = os.path.dirname(path)


def _own_group(membership: str) -> str:
    for line in _text_of(membership).splitlines():
        if line.startswith("0::/"):
            return line.removeprefix("0::").rstrip("/")
    return ""


def _quota_of(path: str) -> int:
    words = _text_of(path).split()
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit() and int(words[1])):
        return 1 << 20  # "max", no such file, or cgroup v1: no quota that we know of
    return math.ceil(int(words[0]) / int(words[1]))


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # not mounted, or not ours to read: no quota that we know of
