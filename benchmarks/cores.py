"""Which processor core runs what: the server on one, the load generator on another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of one run; None means wherever the kernel likes."""

    server: int | None
    load: int | None


def choose_cores() -> Cores:
    """Take the first two cores this process may use; pin nothing where there is only one.

    On a single core pinning would change nothing: both would share it either way.
    """
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[1]) if len(usable) > 1 else Cores(None, None)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Run the block on `core`; a process that is started inside stays there for its life.

    Affinity is inherited (sched_setaffinity(2)), so no code runs between fork and exec.
    """
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
