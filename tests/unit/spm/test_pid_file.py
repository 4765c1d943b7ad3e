from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spm import BootFailed
from spm.pid_file import PidFile, is_alive, read_pid


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    return process.pid


def test_it_holds_our_pid_between_claim_and_release(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    file = PidFile(str(path))
    file.claim()
    assert path.read_text() == f"{os.getpid()}\n"
    assert path.stat().st_mode & 0o777 == 0o644
    file.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "rubbish\n", "-5\n", "0\n"])
def test_a_file_without_a_pid_is_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.pid"
    path.write_text(content)
    PidFile(str(path)).claim()
    assert read_pid(path) == os.getpid()


def test_a_dead_servers_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    path.write_text(f"{dead_pid()}\n")
    PidFile(str(path)).claim()
    assert read_pid(path) == os.getpid()


def test_a_living_servers_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    path.write_text("1\n")
    with pytest.raises(BootFailed, match="process 1 is running"):
        PidFile(str(path)).claim()
    assert path.read_text() == "1\n"


def test_a_predecessors_file_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    path.write_text(f"{os.getppid()}\n")
    PidFile(str(path)).claim(os.getppid())
    assert read_pid(path) == os.getpid()
    path.write_text("1\n")
    with pytest.raises(BootFailed, match="process 1 is running"):
        PidFile(str(path)).claim(os.getppid())


def test_what_a_failed_successor_did_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    file = PidFile(str(path))
    file.claim()
    path.write_text(f"{dead_pid()}\n")
    file.restore()
    assert read_pid(path) == os.getpid()
    path.unlink()
    file.restore()
    assert read_pid(path) == os.getpid()


def test_nobody_elses_file_is_taken_then(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.pid"
    path.write_text("1\n")
    PidFile(str(path)).restore()
    assert read_pid(path) == 1
    assert "process 1 is running" in caplog.text


def test_a_place_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(BootFailed, match="No such file or directory") as caught:
        PidFile(str(tmp_path / "nowhere" / "a.pid")).claim()
    assert caught.value.exit_status == 2


def test_only_our_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    file = PidFile(str(path))
    file.claim()
    path.write_text("1\n")
    file.release()
    assert path.exists()


def test_releasing_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    PidFile(str(tmp_path / "a.pid")).release()


def test_alive_is_who_has_a_process() -> None:
    assert is_alive(os.getpid())
    assert is_alive(1)
    assert not is_alive(dead_pid())
    assert is_alive(1 << 80)  # no pid at all; better not to overwrite
