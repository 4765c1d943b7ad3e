"""System calls and context switches are counted for a whole family of processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import counting
from benchmarks.counting import CountError, switched, switches, total_calls, traced

SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           3       100           recvfrom
 40.00    0.000200           2       102        12 sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           2       202        12 total
"""
# Answers each line it reads with one system call beside the read.
ECHO = "import os\nos.write(1, b'.')\nwhile os.read(0, 1):\n    os.write(1, b'.')\n"


def test_the_total_of_a_summary_is_read() -> None:
    assert total_calls(SUMMARY) == 202
    assert total_calls(SUMMARY.replace("        12 total", "           total")) == 202


@pytest.mark.parametrize("text", ["", "strace: nothing\n"])
def test_a_summary_without_a_total_is_refused(text: str) -> None:
    with pytest.raises(CountError):
        total_calls(text)


def test_threads_that_came_meanwhile_count_from_nothing() -> None:
    assert switched({1: 10, 2: 5}, {1: 15, 3: 4}) == 9


def test_a_process_that_waits_is_switched() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.read(1)
        before = switches(child.pid)
        assert list(before) == [child.pid]
        child.stdin.write(b"x")
        child.stdout.read(1)
        assert switched(before, switches(child.pid)) >= 1
        child.stdin.close()


def test_without_strace_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting.shutil, "which", lambda name: None)
    assert "not installed" in counting.can_trace()


@pytest.mark.skipif(bool(counting.can_trace()), reason="strace does not work here")
def test_the_calls_of_a_process_are_counted() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.read(1)
        try:
            with traced(child.pid) as counted:
                for _ in range(50):
                    child.stdin.write(b"x")
                    child.stdout.read(1)
        except CountError as error:  # attaching to a process can be forbidden where starting is not
            pytest.skip(str(error))
        finally:
            child.stdin.close()
    assert 100 <= counted[0] <= 110
    assert child.returncode == os.EX_OK
