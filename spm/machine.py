"""What the machine gives: cores, memory, how busy it is; cgroup limits included."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from math import ceil
from pathlib import Path
from typing import Final

from .cgroup import Cgroups, field, read

# /proc/stat: user nice system idle iowait irq softirq steal; what follows is part of user.
_TIMES: Final = slice(1, 9)
_IDLE: Final = slice(3, 5)


class Machine:
    """The machine as far as it is ours: what cgroups and the affinity mask leave of it.

    Shares, from 0 to 1, are of the time since the last call, at first since this was made.
    proc: where procfs is mounted. now_ns: the clock that shares of time are measured by.
    """

    def __init__(
        self, proc: Path = Path("/proc"), now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._proc = proc
        self._now_ns = now_ns
        self._groups = Cgroups(proc)
        self._before: dict[Hashable, tuple[int, ...]] = {}
        self._cpu = 0.0
        self.machine_cpu()
        self.cpu_pressure()
        self.cpu_throttled()

    def usable_cores(self) -> int:
        """Return how many cores this process may use at once, at least 1.

        The affinity mask (taskset, cpusets) and the CPU quota of every cgroup above us
        (containers, systemd's CPUQuota=) both count; the smaller one holds.
        """
        quotas = (group.quota_cores() for group in self._groups.cpu)
        cores = len(os.sched_getaffinity(0))
        return max(1, min([cores, *(ceil(quota) for quota in quotas if quota is not None)]))

    def machine_cpu(self) -> float:
        """Return the share of the CPU time that we may use which was used.

        Of the cores in our affinity mask, by anybody; and of our quota, by our cgroup.
        Whichever is nearer to its end counts.
        """
        shares = [self._share_of_cores(), *self._shares_of_quotas()]
        known = [share for share in shares if share is not None]
        if known:  # else it is too soon after the last call: the clock has not ticked
            self._cpu = min(1.0, max(0.0, *known, 0.0))
        return self._cpu

    def cpu_pressure(self) -> float | None:
        """Return the share of time in which a thread that could run waited for a core.

        A thread of our cgroup; it waits while others run, or while the cgroup's quota is
        used up. None if the kernel does not measure it (CONFIG_PSI, psi=1).
        """
        text = read(self._groups.pressure) if self._groups.pressure else ""
        text = text or read(f"{self._proc}/pressure/cpu")
        some, _, total_us = text.partition("\n")[0].rpartition(" total=")
        if not some.startswith("some "):
            return None
        waited_us, passed_ns = self._grown("pressure", int(total_us), self._now_ns())
        return min(1.0, 1000 * waited_us / passed_ns) if passed_ns > 0 else 0.0

    def cpu_throttled(self) -> float | None:
        """Return the share of the quota's periods that ended with everybody stopped.

        None without a quota.
        """
        worst = None
        for group in self._groups.cpu:
            periods = group.periods() if group.quota_cores() is not None else None
            if periods is not None:
                ran, stopped = self._grown(("periods", group), *periods)
                worst = max(worst or 0.0, stopped / ran if ran > 0 else 0.0)
        return worst

    def memory_available_bytes(self) -> int:
        """Return what can still be taken without swapping or meeting a cgroup's limit."""
        free = (field(read(f"{self._proc}/meminfo"), "MemAvailable:") or 0) * 1024
        allowed = (group.available_bytes() for group in self._groups.memory)
        return min([free, *(each for each in allowed if each is not None)])

    def oom_kills(self) -> int | None:
        """Return how many processes the kernel has killed for want of memory; it only grows.

        Of our cgroup, whosever limit was met, if it tells; else of the whole machine.
        """
        for group in self._groups.own_memory:
            kills = group.oom_kills()
            if kills is not None:
                return kills
        return field(read(f"{self._proc}/vmstat"), "oom_kill")

    def _share_of_cores(self) -> float | None:
        mask = os.sched_getaffinity(0)
        text = read(f"{self._proc}/stat")
        lines = text[: text.find("\nintr")].splitlines()
        # The first line is the sum of those that follow, one for each core.
        whole = len(lines) - 1 == len(mask)
        ours = lines[:1] if whole else [line for line in lines[1:] if _core(line) in mask]
        times = [list(map(int, line.split()[_TIMES])) for line in ours]
        total = sum(map(sum, times))
        idle = sum(sum(each[_IDLE]) for each in times)
        passed, idled = self._grown(("cores", frozenset(mask)), total, idle)
        return 1 - idled / passed if passed > 0 else None

    def _shares_of_quotas(self) -> list[float | None]:
        shares: list[float | None] = []
        for group in self._groups.cpu:
            quota = group.quota_cores()
            used_ns = group.used_ns() if quota is not None else None
            if quota is not None and used_ns is not None:
                used_ns, passed_ns = self._grown(("used", group), used_ns, self._now_ns())
                shares.append(used_ns / (passed_ns * quota) if passed_ns > 0 else None)
        return shares

    def _grown(self, what: Hashable, *numbers: int) -> tuple[int, ...]:
        """Return by how much each has grown since the last call; 0 at the first."""
        before = self._before.get(what, numbers)
        self._before[what] = numbers
        return tuple(now - then for now, then in zip(numbers, before, strict=True))


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
    # A megabyte and 16 ms, in every process of the server: for those only who ask.
    import psutil

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


def _core(line: str) -> int:
    return int(line.split(" ", 1)[0].removeprefix("cpu"))
