"""Memory is watched while something happens, and told as what it rose by."""

from __future__ import annotations

import mmap
import os
import threading

import pytest

from benchmarks import memory
from benchmarks.family import Holdings, of_process
from benchmarks.memory import MB, IdleCost, Rise, rise_during

PATIENCE_S = 20.0


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released at every look at a process, which is a real one."""
    looks = threading.Semaphore(0)

    def look(pid: int) -> Holdings:
        found = of_process(pid)
        looks.release()
        return found

    monkeypatch.setattr(memory, "of_process", look)
    return looks


def test_memory_that_is_taken_for_a_moment_is_seen(looked: threading.Semaphore) -> None:
    def take() -> None:
        # Mapped: what malloc gives may be memory that the process has had all along.
        block = mmap.mmap(-1, 20 * MB)
        block.write(b"x" * (20 * MB))
        while looked.acquire(blocking=False):
            pass
        for _ in range(2):  # the first may have begun before
            assert looked.acquire(timeout=PATIENCE_S)
        block.close()

    rise = rise_during(os.getpid(), take)
    assert rise.pss > 15 * MB
    assert rise.rss > 15 * MB
    assert rise.looks >= 2


def test_what_goes_wrong_meanwhile_is_raised() -> None:
    def fail() -> None:
        raise memory.Failed("no answer")

    with pytest.raises(memory.Failed, match="no answer"):
        rise_during(os.getpid(), fail)


def test_memory_is_told_as_what_it_rose_by() -> None:
    rise = Rise(Holdings(1, pss=100, rss=200), peak_pss=150, peak_rss=190, seconds=1.0, looks=3)
    assert (rise.pss, rise.rss) == (50, 0)
    cost = IdleCost("plain", few=10, many=110, pss_few=1000, pss_many=6000, pss_after=2000)
    assert cost.bytes_each == 50.0
