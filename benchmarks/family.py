"""What a server's processes hold at a moment: memory, threads, descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KB: Final = 1024
_LINE: Final = re.compile(r"^(Rss|Pss|Private_Clean|Private_Dirty): +(\d+) kB$", re.M)


@dataclass(frozen=True, slots=True)
class Holdings:
    """Sums over some processes; memory in bytes.

    pss: a page that n processes share counts 1/n for each, so that sums make sense.
    """

    processes: int = 0
    pss: int = 0
    rss: int = 0
    threads: int = 0
    descriptors: int = 0

    def __add__(self, other: Holdings) -> Holdings:
        return Holdings(
            self.processes + other.processes,
            self.pss + other.pss,
            self.rss + other.rss,
            self.threads + other.threads,
            self.descriptors + other.descriptors,
        )


def of_family(pid: int) -> Holdings:
    """Return what a process and all its descendants hold; those that end meanwhile do not count."""
    return sum((of_process(member) for member in family(pid)), Holdings())


def family(pid: int) -> list[int]:
    """Return a process and all its living descendants."""
    found = [pid]
    for member in found:  # grows while it is walked
        found.extend(_children(member))
    return found


def of_process(pid: int) -> Holdings:
    """Return what one process holds; nothing if it has ended."""
    process = Path(f"/proc/{pid}")
    try:
        memory = dict(_LINE.findall((process / "smaps_rollup").read_text()))
        threads = sum(1 for _ in (process / "task").iterdir())
        descriptors = sum(1 for _ in (process / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return Holdings()
    if not memory:  # a process that has ended and was not collected yet
        return Holdings()
    return Holdings(1, int(memory["Pss"]) * _KB, int(memory["Rss"]) * _KB, threads, descriptors)


def _children(pid: int) -> Iterator[int]:
    # A process belongs to the thread that forked it.
    for thread in _entries(Path(f"/proc/{pid}/task")):
        try:
            yield from map(int, (thread / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
