"""Descriptors: the limit is raised as far as is needed and allowed."""

from __future__ import annotations

import fcntl
import logging
import os
import resource

import pytest

from httpcore_srv import descriptors


class Limit:
    """RLIMIT_NOFILE of a process that is not this one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = (1024, 4096)
        monkeypatch.setattr(resource, "getrlimit", lambda kind: self.now)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, kind: int, limit: tuple[int, int]) -> None:
        assert kind == resource.RLIMIT_NOFILE
        assert limit[1] == self.now[1], "the hard limit is not ours to change"
        self.now = limit


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    return Limit(monkeypatch)


def test_the_limit_is_raised_to_what_is_needed_and_no_further(limit: Limit) -> None:
    descriptors.raise_limit(1000, 16)
    assert limit.now == (1000 + 16 + descriptors.RESERVED, 4096)


def test_a_limit_that_suffices_is_left_alone(limit: Limit) -> None:
    descriptors.raise_limit(500, 16)
    assert limit.now == (1024, 4096)
    limit.now = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    descriptors.raise_limit(1 << 20, 16)
    assert limit.now[0] == resource.RLIM_INFINITY


def test_where_the_system_does_not_allow_enough_it_is_said_what_that_means(
    limit: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    descriptors.raise_limit(10_000, 16)
    assert limit.now == (4096, 4096)
    (record,) = caplog.records
    assert f"{descriptors.affordable(16)} connections, not 10000" in record.getMessage()
    assert "4096 (ulimit -Hn)" in record.getMessage()


def test_an_endless_hard_limit_is_not_used_up(limit: Limit) -> None:
    limit.now = (1024, resource.RLIM_INFINITY)
    descriptors.raise_limit(10_000, 16)
    assert limit.now[0] == 10_000 + 16 + descriptors.RESERVED


@pytest.mark.parametrize(
    ("soft", "connections"),
    [(1024, 1024 - 128 - 16), (200, 100), (resource.RLIM_INFINITY, 1 << 30)],
)
def test_some_descriptors_are_not_for_connections(
    limit: Limit, soft: int, connections: int
) -> None:
    limit.now = (soft, soft)
    assert descriptors.affordable(16) == connections


def test_the_table_of_descriptors_is_made_large_and_nothing_stays_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    descriptors.make_room(500)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with open("/proc/self/status") as status:
        (size,) = (int(line.split()[1]) for line in status if line.startswith("FDSize:"))
    assert size >= 500


def test_no_more_room_is_made_than_is_allowed(
    limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def duplicate(fd: int, command: int, lowest: int) -> int:
        asked.append(lowest)
        raise OSError("Too many open files")  # is no reason not to serve

    monkeypatch.setattr(fcntl, "fcntl", duplicate)
    before = sorted(os.listdir("/proc/self/fd"))
    descriptors.make_room(10_000)
    limit.now = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    descriptors.make_room(10_000)
    assert asked == [1023, 10_000 + descriptors.RESERVED]
    assert sorted(os.listdir("/proc/self/fd")) == before
