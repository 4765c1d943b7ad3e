"""The watchdog in a process of its own: an alarm belongs to the whole process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

BOUND_S = 60.0
BEGIN = """
import ctypes, faulthandler, os, sys, threading, time
from httpcore_srv import watchdog
from httpcore_srv.watchdog import Watchdog

def keep_the_lock(seconds):
    ctypes.PyDLL(None).sleep(seconds)
"""


def run(script: str, status: int = 0, **more: object) -> str:
    """Run a script that has a watchdog; return what it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(script)],
        stderr=subprocess.PIPE,
        timeout=BOUND_S,
        **more,  # type: ignore[call-overload]
    )
    errors: str = done.stderr.decode()
    assert done.returncode == status, errors
    return errors


def test_the_stacks_of_all_threads_are_written_while_c_code_keeps_the_lock() -> None:
    stacks = run("""
        def wait_elsewhere():
            threading.Event().wait()
        threading.Thread(target=wait_elsewhere, daemon=True).start()
        Watchdog(1.0).beat(0)
        keep_the_lock(2)
        print("and it goes on", file=sys.stderr)
    """)
    assert "in keep_the_lock" in stacks
    assert "in wait_elsewhere" in stacks
    assert stacks.index("in keep_the_lock") < stacks.index("and it goes on")


def test_a_loop_that_beats_is_left_alone() -> None:
    assert not run("""
        dog = Watchdog(1.0)
        for _ in range(100):
            dog.beat(time.monotonic_ns())
            time.sleep(0.02)
        dog.cancel()
        time.sleep(1)
    """)


def test_it_is_armed_again_only_after_three_eighths_of_its_time() -> None:
    run("""
        armed = []
        set_alarm = faulthandler.dump_traceback_later
        def counted(*given, **named):
            armed.append(now_s)
            set_alarm(*given, **named)
        faulthandler.dump_traceback_later = counted
        dog = Watchdog(8.0)
        for tenth in range(100, 200):
            now_s = tenth / 10
            dog.beat(int(now_s * 1e9))
        assert armed == [10, 13, 16, 19], armed
        dog.cancel()
    """)


def test_without_a_timeout_it_does_nothing() -> None:
    assert not run("""
        faulthandler.dump_traceback_later = None
        dog = Watchdog(0.0)
        dog.beat(time.monotonic_ns())
        dog.cancel()
    """)


def test_a_cancelled_one_beats_no_more() -> None:
    assert not run("""
        dog = Watchdog(0.5)
        dog.beat(0)
        dog.cancel()
        dog.beat(1 << 60)
        time.sleep(1)
    """)


def test_a_forked_process_ends_like_any_other() -> None:
    # Its copy of the alarm has locks that a thread holds which is not there.
    run("""
        dog = Watchdog(30.0)
        dog.beat(0)
        pid = os.fork()
        if pid == 0:
            faulthandler.dump_traceback_later(20)
            faulthandler.cancel_dump_traceback_later()
            dog.beat(1 << 60)
            sys.exit(7)  # through the end of the interpreter, which cancels as well
        deadline_s = time.monotonic() + 20
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline_s:
                os.kill(pid, 9)
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 7, ended
    """)


def test_after_a_fork_the_next_beat_arms_it_again() -> None:
    stacks = run("""
        dog = Watchdog(0.8)
        dog.beat(0)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        dog.beat(1)  # long before an eighth of its time is over
        keep_the_lock(1)
    """)
    assert "in keep_the_lock" in stacks


def test_without_a_standard_error_nothing_is_written_to_whoever_has_its_number() -> None:
    run("""
        os.dup2(2, 9)
        os.close(2)
        sys.stderr = sys.__stderr__ = None
        stranger, ours = os.pipe()
        assert 2 in (stranger, ours)
        os.set_blocking(stranger, False)
        dog = Watchdog(0.4)
        dog.beat(0)
        time.sleep(0.8)
        dog.cancel()
        try:
            found = os.read(stranger, 100)
        except BlockingIOError:
            found = b""
        assert not found, os.write(9, found)
    """)


def test_a_standard_error_that_is_no_file_is_passed_over() -> None:
    stacks = run("""
        import io
        sys.stderr = io.StringIO()
        dog = Watchdog(0.4)
        dog.beat(0)
        keep_the_lock(1)
    """)
    assert "in keep_the_lock" in stacks


def test_a_process_that_does_not_end_is_ended_and_says_where_it_stood() -> None:
    stacks = run(
        """
        def never_ends():
            keep_the_lock(3600)
        watchdog.end_within(0.5)
        never_ends()
    """,
        status=1,
    )
    assert "in never_ends" in stacks


def test_a_process_without_standard_error_is_ended_as_well() -> None:
    run(
        """
        os.close(2)
        sys.stderr = sys.__stderr__ = None
        watchdog.end_within(0.5)
        keep_the_lock(3600)
    """,
        status=1,
    )
