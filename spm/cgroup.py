"""Control groups: where ours are, and what they allow us; versions 1, 2 and both at once.

A group is limited by itself and by all above it, so the numbers here come for each level,
our own first, up to the mount point: in a container that is often all there is to be seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

# memory.limit_in_bytes of a group without a limit: the largest multiple of the page size.
_NO_LIMIT: Final = 1 << 62
_PIECE_BYTES: Final = 1 << 16
# Version 2, and the controllers of version 1 that are asked below; there are a dozen others.
_CONTROLLERS: Final = ("", "cpu", "cpuacct", "memory")


def read(path: Path | str) -> str:
    """Return the contents of a small file; empty if it cannot be read.

    6 µs, of which the kernel takes most; `Path.read_text` takes 15 more.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # not there, or not for us
    try:
        pieces = []
        while piece := os.read(fd, _PIECE_BYTES):
            pieces.append(piece)
    except OSError:
        return ""  # EOPNOTSUPP, where pressure is not measured; ENODEV: the group is gone
    finally:
        os.close(fd)
    return b"".join(pieces).decode("ascii", "replace")


def field(text: str, name: str) -> int | None:
    """Return the number behind a name at the beginning of a line, as in `cpu.stat`."""
    start = f"\n{text}".find(f"\n{name} ")
    if start < 0:
        return None
    end = text.find("\n", start)
    return _number(text[start + len(name) : end if end >= 0 else None].split()[0])


class CpuGroup(NamedTuple):
    """One level's share of the CPU. usage: the directory that counts it, if there is one."""

    directory: Path
    usage: Path | None
    version: int

    def quota_cores(self) -> float | None:
        """Return how many cores it may use on average; None: as many as there are."""
        if self.version == 2:
            quota, _, period = read(f"{self.directory}/cpu.max").partition(" ")
        else:
            quota = read(f"{self.directory}/cpu.cfs_quota_us")
            period = read(f"{self.directory}/cpu.cfs_period_us")
        allowed_us, period_us = _number(quota), _number(period)
        if not period_us or allowed_us is None or allowed_us <= 0:
            return None  # no such file, "max" (version 2) or -1 (version 1)
        return allowed_us / period_us

    def used_ns(self) -> int | None:
        """Return the CPU time that its processes have used."""
        if self.usage is None:
            return None
        if self.version == 1:
            return _number(read(f"{self.usage}/cpuacct.usage"))
        used_us = field(read(f"{self.usage}/cpu.stat"), "usage_usec")
        return None if used_us is None else used_us * 1000

    def periods(self) -> tuple[int, int] | None:
        """Return in how many periods it ran, and in how many the quota stopped it."""
        text = read(f"{self.directory}/cpu.stat")
        ran, stopped = field(text, "nr_periods"), field(text, "nr_throttled")
        return None if ran is None or stopped is None else (ran, stopped)


class MemoryGroup(NamedTuple):
    """One level's memory."""

    directory: Path
    version: int

    def available_bytes(self) -> int | None:
        """Return what its limit leaves; None if it has no limit.

        Files that nobody has read lately are in memory for want of anything better: the
        kernel counts them as used, and drops them as soon as somebody wants the room.
        """
        if self.version == 2:
            limit = min(self._bytes("memory.max"), self._bytes("memory.high"))
            used_name, files_name = "memory.current", "inactive_file"
        else:
            limit = self._bytes("memory.limit_in_bytes")
            used_name, files_name = "memory.usage_in_bytes", "total_inactive_file"
        used = self._bytes(used_name)
        if max(limit, used) >= _NO_LIMIT:
            return None
        files = field(read(f"{self.directory}/memory.stat"), files_name) or 0
        return max(0, limit - max(0, used - files))

    def oom_kills(self) -> int | None:
        """Return how many of its processes the kernel killed for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return field(read(f"{self.directory}/{name}"), "oom_kill")

    def _bytes(self, name: str) -> int:
        number = _number(read(f"{self.directory}/{name}"))
        return _NO_LIMIT if number is None else number


class Cgroups:
    """Our control groups, as they are when this is made.

    proc: where procfs is mounted. Nothing is said where the groups are not mounted.
    """

    def __init__(self, proc: Path) -> None:
        memberships = dict(_memberships(read(proc / "self/cgroup")))
        # The first of each: those that follow are copies (bind mounts), perhaps of a part.
        mounts = dict(reversed([*_mounts(read(proc / "self/mountinfo"))]))
        levels = {
            controller: _levels(*mounts[controller], group)
            for controller, group in memberships.items()
            if controller in mounts and controller in _CONTROLLERS
        }
        unified = levels.get("", [])
        self.pressure = unified[0] / "cpu.pressure" if unified else None
        self.cpu = [CpuGroup(level, level, 2) for level in unified]
        self.cpu += _old_cpu_groups(levels.get("cpu", []), levels.get("cpuacct", []), mounts)
        # A controller belongs to one version at a time: where it is the other's, the files
        # are not there, and nothing is known.
        self.memory = [MemoryGroup(level, 2) for level in unified]
        self.memory += [MemoryGroup(level, 1) for level in levels.get("memory", [])]
        own = (unified[:1], levels.get("memory", [])[:1])
        self.own_memory = [group for group in self.memory if [group.directory] in own]


def _old_cpu_groups(
    cpu: list[Path], cpuacct: list[Path], mounts: dict[str, tuple[str, Path]]
) -> Iterator[CpuGroup]:
    """Yield the levels of version 1, whose time is counted by a controller of its own.

    It may be mounted elsewhere, and we may be in a group of another name there, whose time
    is not that of the group with the quota.
    """
    for level in cpu:
        usage = None
        for counted in cpuacct:
            if counted.relative_to(mounts["cpuacct"][1]) == level.relative_to(mounts["cpu"][1]):
                usage = counted
        yield CpuGroup(level, usage, 1)


def _memberships(text: str) -> Iterator[tuple[str, str]]:
    """Yield controller and group from /proc/self/cgroup; "" stands for version 2."""
    for line in text.splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, group


def _mounts(text: str) -> Iterator[tuple[str, tuple[str, Path]]]:
    """Yield controller, the group that is mounted, and where, from /proc/self/mountinfo."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mounted_on = before.split(" ")[3:5]
        if "\\" in mounted_on:  # a space is \040
            mounted_on = mounted_on.encode().decode("unicode_escape")
        place = root, Path(mounted_on)
        if kind == "cgroup2":
            yield "", place
        else:
            for controller in options.rpartition(" ")[2].split(","):
                yield controller, place


def _levels(root: str, mounted_on: Path, group: str) -> list[Path]:
    """Return the directories of a group and of those above it, as far as they are mounted."""
    try:
        inner = PurePosixPath(group).relative_to(root)
    except ValueError:
        inner = PurePosixPath("..")
    if ".." in inner.parts:
        # What is mounted is a part of the tree that does not have us, as in a container whose
        # groups were mounted from outside: that part is what limits it.
        inner = PurePosixPath()
    directory = mounted_on / inner
    return [directory, *(d for d in directory.parents if d.is_relative_to(mounted_on))]


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None  # no such file, or "max": no limit
