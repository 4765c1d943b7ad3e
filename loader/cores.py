"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
from typing import Final

_UNLIMITED: Final = 1 << 20


def usable_cores() -> int:
    """Return how many cores may be used: the affinity mask, cut by the cgroup's CPU quota.

    A container limited to one core of a 64-core machine still sees 64 of them; the quota is
    what it gets (`cpu.max`, in cgroup v1 `cpu.cfs_quota_us`; the smallest from its own group up
    to the root counts).
    """
    return max(1, min(len(os.sched_getaffinity(0)), _quota_cores()))


def _quota_cores(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int:
    """Return the cores that the cgroups' quotas allow, rounded up; a huge number if unlimited."""
    cores = _UNLIMITED
    for line in _text_of(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            cores = min(cores, _least(root, path))
        elif "cpu" in controllers.split(","):
            cores = min(cores, _least(f"{root}/{controllers}", path))
    return cores


def _least(root: str, path: str) -> int:
    """Return the smallest quota from a group up to the root of its tree."""
    cores = _UNLIMITED
    while True:
        directory = f"{root}{path}".rstrip("/")
        cores = min(cores, _quota_of(directory))
        if path in ("", "/"):
            return cores
        path = os.path.dirname(path)


def _quota_of(directory: str) -> int:
    words = _text_of(f"{directory}/cpu.max").split()
    if not words:  # version 1, or no such group
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [_text_of(f"{directory}/{name}").strip() for name in names]
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit() and int(words[1])):
        return _UNLIMITED  # "max" or -1, or no such file: no quota that we know of
    return math.ceil(int(words[0]) / int(words[1]))


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # not mounted, or not ours to read: no quota that we know of
