"""Store: a budget that many threads share, and files that have no name."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path
from typing import IO

import pytest

from httpcore_srv.ports import Incident
from httpcore_srv.store import Store


class Counted:
    """A store and what it has counted."""

    def __init__(self, max_bytes: int = 100, directory: str | None = None) -> None:
        self.incidents: list[Incident] = []
        self.store = Store(max_bytes, directory, self.incidents.append)


@pytest.fixture
def counted() -> Counted:
    return Counted()


# -- the budget ----------------------------------------------------------------------------


def test_what_is_taken_is_gone_until_it_is_given_back(counted: Counted) -> None:
    store = counted.store
    assert store.take(60)
    assert store.used == 60
    assert not store.take(41)
    assert store.used == 60
    assert store.take(40)
    store.give(60)
    assert store.used == 40
    assert store.take(60)
    assert counted.incidents == []


def test_a_budget_can_be_used_to_its_last_byte_and_no_further(counted: Counted) -> None:
    assert counted.store.take(100)
    assert counted.store.take(0)
    assert not counted.store.take(1)


def test_many_threads_take_no_more_than_there_is() -> None:
    store = Counted(1000).store
    together = threading.Barrier(8)
    taken: list[int] = []

    def take_and_give() -> None:
        together.wait()
        for _ in range(2000):
            if store.take(7):
                taken.append(store.used)
                store.give(7)

    threads = [threading.Thread(target=take_and_give) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert taken
    assert max(taken) <= 8 * 7
    assert store.used == 0


def test_who_has_no_room_is_told_to_come_again(counted: Counted) -> None:
    error = counted.store.full()
    assert (error.status, error.retry_after_s) == (503, 1)
    assert counted.incidents == [Incident.NO_ROOM]


# -- files ---------------------------------------------------------------------------------


def test_a_file_has_no_name_and_is_where_it_was_asked_for(tmp_path: Path) -> None:
    counted = Counted(directory=str(tmp_path))
    with counted.store.open_file() as file:
        file.write(b"content")
        file.flush()
        assert os.fstat(file.fileno()).st_dev == tmp_path.stat().st_dev
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.readlink(f"/proc/self/fd/{file.fileno()}").startswith(str(tmp_path))
        assert list(tmp_path.iterdir()) == []
    assert counted.incidents == [Incident.SPOOLED]


def test_what_is_spooled_can_be_read_by_its_descriptor(tmp_path: Path) -> None:
    counted = Counted(directory=str(tmp_path))
    fd = counted.store.spool(memoryview(b"content")[3:])
    try:
        assert os.pread(fd, 100, 0) == b"tent"
    finally:
        os.close(fd)
    assert counted.incidents == [Incident.SPOOLED]
    assert counted.store.used == 0


def test_a_descriptor_is_all_that_is_left_of_a_spooling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor(fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    store = Counted(directory=str(tmp_path)).store
    monkeypatch.setattr(os, "dup", no_descriptor)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Too many open files"):
        store.spool(memoryview(b"content"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_thread_spools_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Counted(directory=str(tmp_path)).store
    inside: list[int] = []
    most: list[int] = []
    make = store.open_file

    def open_file() -> IO[bytes]:
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.01)
        inside.pop()
        return make()

    monkeypatch.setattr(store, "open_file", open_file)
    threads = [
        threading.Thread(target=lambda: os.close(store.spool(memoryview(b"x")))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 4


def test_a_file_that_cannot_be_made_is_the_callers_to_handle(tmp_path: Path) -> None:
    counted = Counted(directory=str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        counted.store.open_file()
    assert counted.incidents == []


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, 507),
        (errno.EDQUOT, 507),
        (errno.EMFILE, 503),
        (errno.EACCES, 503),
        (errno.EIO, 503),
    ],
)
def test_a_full_disk_is_one_thing_and_any_other_trouble_another(
    counted: Counted, number: int, status: int
) -> None:
    error = counted.store.failed("a request body", OSError(number, os.strerror(number)))
    assert (error.status, error.retry_after_s) == (status, 10)
    assert counted.incidents == [Incident.NO_ROOM]


def test_a_failing_disk_is_logged_once_for_each_kind_of_thing(
    counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        counted.store.failed("a request body", OSError(errno.ENOSPC, "No space left on device"))
    counted.store.failed("a response", OSError("without a number"))
    assert [record.getMessage() for record in caplog.records] == [
        "cannot keep a request body in a temporary file: No space left on device",
        "cannot keep a response in a temporary file: without a number",
    ]
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert counted.incidents == [Incident.NO_ROOM] * 6


def test_without_a_directory_it_is_the_systems_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Counted().store
    monkeypatch.setattr(tempfile, "tempdir", "/elsewhere")  # it was asked when it was made
    with store.open_file() as file:
        assert os.readlink(f"/proc/self/fd/{file.fileno()}").startswith(str(tmp_path))


def test_a_system_without_a_place_is_noticed_when_a_file_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert Counted().store._directory == "/tmp"
