from __future__ import annotations

import os
from pathlib import Path

import pytest

from loader import cores


def quota(tmp_path: Path, group: str, **limits: str) -> int:
    """Return what is seen of a made-up cgroup tree: limits by directory (`top` is the root)."""
    membership = tmp_path / "membership"
    membership.write_text(group)
    for directory, text in limits.items():
        place = tmp_path / "tree" / ("" if directory == "top" else directory.replace("_", "/"))
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpu.max").write_text(text)
    return cores._quota_cores(str(tmp_path / "tree"), str(membership))


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("0::/\n", {"top": "150000 100000\n"}, 2),
        ("0::/a/b\n", {"a": "100000 100000\n", "a_b": "max 100000\n"}, 1),
        ("0::/a/b\n", {"a": "300000 100000\n", "a_b": "200000 100000\n"}, 2),
        ("1:cpu:/x\n0::/a\n", {"a": "50000 100000\n"}, 1),
    ],
)
def test_the_smallest_quota_on_the_way_to_the_root_counts(
    tmp_path: Path, group: str, limits: dict[str, str], expected: int
) -> None:
    assert quota(tmp_path, group, **limits) == expected


@pytest.mark.parametrize(
    ("place", "quota_us", "expected"),
    [
        ("cpu,cpuacct/docker/x", "150000", 2),
        ("cpu,cpuacct", "50000", 1),  # a container sees its own group as the root
        ("cpu,cpuacct/docker/x", "-1", 1 << 20),
        ("memory/docker/x", "50000", 1 << 20),
    ],
)
def test_a_quota_of_version_1(tmp_path: Path, place: str, quota_us: str, expected: int) -> None:
    directory = tmp_path / place
    directory.mkdir(parents=True)
    (directory / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")
    (directory / "cpu.cfs_period_us").write_text("100000\n")
    membership = tmp_path / "membership"
    membership.write_text("9:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n")
    assert cores._quota_cores(str(tmp_path), str(membership)) == expected


@pytest.mark.parametrize("text", ["max 100000\n", "", "garbage\n", "1 0\n", "-1 100000\n"])
def test_what_is_no_quota_does_not_limit(tmp_path: Path, text: str) -> None:
    assert quota(tmp_path, "0::/\n", top=text) >= 1 << 20


def test_without_cgroups_nothing_limits(tmp_path: Path) -> None:
    assert cores._quota_cores(str(tmp_path), str(tmp_path / "none")) >= 1 << 20


def test_never_more_than_the_affinity_mask_and_never_none() -> None:
    assert 1 <= cores.usable_cores() <= len(os.sched_getaffinity(0))
