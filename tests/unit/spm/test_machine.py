from __future__ import annotations

import os
from pathlib import Path

import pytest

from spm import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup `outer/inner` below a root of our own, in which we are said to be."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.setattr(machine, "_CGROUP_ROOT", tmp_path)
    membership = tmp_path / "membership"
    membership.write_text("1:name=systemd:/elsewhere\n0::/outer/inner\n")
    monkeypatch.setattr(machine, "_CGROUP_MEMBERSHIP", membership)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    return inner


def test_without_limits_all_cores_of_the_affinity_mask_are_usable(cgroup: Path) -> None:
    assert machine.usable_cores() == 8


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 8),
        ("nonsense", 8),
        ("1 0", 8),
    ],
)
def test_a_cpu_quota_limits_the_cores(cgroup: Path, quota: str, cores: int) -> None:
    (cgroup / "cpu.max").write_text(quota)
    assert machine.usable_cores() == cores


def test_the_quota_of_a_group_above_counts_too(cgroup: Path) -> None:
    (cgroup / "cpu.max").write_text("400000 100000")
    (cgroup.parent / "cpu.max").write_text("300000 100000")
    assert machine.usable_cores() == 3


def test_memory_is_limited_by_the_group_above(cgroup: Path) -> None:
    free = machine.memory_available_bytes()
    (cgroup.parent / "memory.max").write_text(f"{100 << 20}\n")
    (cgroup.parent / "memory.current").write_text(f"{70 << 20}\n")
    assert machine.memory_available_bytes() == 30 << 20
    (cgroup.parent / "memory.current").write_text(f"{170 << 20}\n")
    assert machine.memory_available_bytes() == 0
    (cgroup.parent / "memory.max").write_text("max\n")
    assert machine.memory_available_bytes() == pytest.approx(free, rel=0.5)


def test_a_process_that_is_gone_has_no_numbers() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert machine.process_cpu_ns(pid) is None
    assert machine.process_memory(pid) == {}


def test_our_own_cpu_time_grows() -> None:
    before = machine.process_cpu_ns(os.getpid()) or 0
    sum(range(100_000))
    assert (machine.process_cpu_ns(os.getpid()) or 0) > before
