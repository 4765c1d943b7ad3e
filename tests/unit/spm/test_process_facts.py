"""What /proc tells of real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spm import process_facts
from spm.process_facts import is_stopped, resident_bytes, run_wait_ns

BOUND_S = 20.0


def eventually(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline_s, "never came true"
        time.sleep(0.005)


@contextmanager
def program(code: str, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that ends with its standard input; it has said a line at first."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-u", "-c", f"{code}\nprint()\nimport sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.stdin.close()
        process.wait(BOUND_S)
        process.stdout.close()


def gone() -> int:
    """Return a pid that was one."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(BOUND_S)
    return process.pid


def test_a_process_that_was_stopped_and_goes_on() -> None:
    with program("") as process:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: is_stopped(process.pid))
        process.send_signal(signal.SIGCONT)
        eventually(lambda: not is_stopped(process.pid))


@pytest.mark.parametrize("name", [b"a) T (b", b"T", b") T 1 (", b"   T"])
def test_a_name_that_looks_like_a_state_deceives_nobody(name: bytes) -> None:
    with program(f"open('/proc/self/comm', 'wb').write({name!r})") as process:
        assert Path(f"/proc/{process.pid}/comm").read_bytes().strip() == name.strip()
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: is_stopped(process.pid))


def test_a_process_that_is_gone_is_not_stopped_has_no_memory_and_waits_for_nothing() -> None:
    pid = gone()
    assert not is_stopped(pid)
    assert resident_bytes(pid) == 0
    assert run_wait_ns(pid) is None


def test_a_process_that_nobody_has_buried_is_the_same() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_stopped(process.pid)
    assert resident_bytes(process.pid) == 0
    process.wait(BOUND_S)


def test_resident_memory_is_what_was_touched_and_not_what_was_reserved() -> None:
    size = 64 << 20
    with program("") as small, program(f"x = b'x' * {size}") as large:
        # 16 MB for what two interpreters may differ in.
        difference = resident_bytes(large.pid) - resident_bytes(small.pid)
        assert abs(difference - size) < 16 << 20
    with program(f"import mmap; x = mmap.mmap(-1, {size})") as reserved:
        assert resident_bytes(reserved.pid) < size


def test_it_is_the_number_that_the_kernel_calls_rss() -> None:
    with program("") as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        assert abs(resident_bytes(process.pid) - int(line.split()[1]) * 1024) < 4 << 20


def test_two_that_share_a_core_wait_for_it() -> None:
    core = min(os.sched_getaffinity(0))
    code = f"import os, time; os.sched_setaffinity(0, [{core}])"
    spin = "\nend = time.thread_time() + 0.2\nwhile time.thread_time() < end: pass"
    with program(code + spin) as alone:
        assert run_wait_ns(alone.pid) is not None
    processes = [
        subprocess.Popen([sys.executable, "-c", f"{code}{spin}\ninput()"], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        # Each computes for 0.2 s on one core, so they have waited for about as long together.
        eventually(lambda: sum(run_wait_ns(p.pid) or 0 for p in processes) > 100_000_000)
    finally:
        for process in processes:
            process.communicate(b"\n", BOUND_S)


def test_all_threads_of_a_process_count() -> None:
    code = """
import os, threading, time
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
over = threading.Event()
threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(20)]
for thread in threads: thread.start()
"""
    with program(code) as process:
        tasks = Path(f"/proc/{process.pid}/task")
        assert len(list(tasks.iterdir())) == 21
        lines = [(task / "schedstat").read_text() for task in tasks.iterdir()]
        before = sum(int(line.split()[1]) for line in lines)
        total = run_wait_ns(process.pid)
        assert total is not None
        assert (
            total >= before > int((tasks / str(process.pid) / "schedstat").read_text().split()[1])
        )


def test_where_the_kernel_does_not_tell_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_facts, "_first_line", lambda path: None)
    assert run_wait_ns(os.getpid()) is None
    monkeypatch.setattr(process_facts, "_first_line", lambda path: b"")
    assert run_wait_ns(os.getpid()) is None


def test_threads_that_come_and_go_meanwhile_do_no_harm() -> None:
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        assert all(run_wait_ns(os.getpid()) is not None for _ in range(300))
    finally:
        over.set()
        churner.join(BOUND_S)
