"""Watchdog: writes the stacks of all threads of a worker whose loop has gone silent.

    beat ... beat ... beat ........ (silence) ........ stacks, in the log ... the manager's SIGKILL
      '-- re-armed, every 3/8 of the timeout -'  '-- 4/8 to 7/8 of the timeout --'

The loop may be silent because C code of the application keeps the GIL; then no Python code
runs in this process any more, neither ours nor a signal handler. `faulthandler` waits in a
thread of the C library that needs no GIL, and it begins a new one each time it is armed:
17 us on 3.11, so it is armed seldom, and between that `beat` costs a comparison.

There is one such alarm in a process. An application that sets its own has it replaced by
the next beat. A process that was stopped (SIGSTOP) and goes on may write its stacks once,
although nothing is wrong with it: the clock has not stopped. They hurt nobody.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from typing import Final

log = logging.getLogger("smart_http.worker")

# Of the timeout. Together less than one, so that the stacks are there before the manager,
# which counts from the last beat, loses its patience.
_PAUSE: Final = 3 / 8
_ALARM: Final = 7 / 8


class Watchdog:
    """The alarm of one worker.

    timeout_s: how long the loop may be silent; 0: for ever, and nothing is done at all.
    """

    def __init__(self, timeout_s: float) -> None:
        self._alarm_s = timeout_s * _ALARM
        self._pause_ns = int(timeout_s * _PAUSE * 1e9)
        self._fd = _stderr_fd() if timeout_s else None
        self._due_ns: float = float("inf") if self._fd is None else 0
        # Held around a fork, and while the alarm is set.
        self._quiet = threading.RLock()
        if self._fd is not None:
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_here,
                after_in_child=self._after_fork_there,
            )

    def beat(self, now_ns: int) -> None:
        """The loop is alive. The leader, between two batches."""
        if now_ns >= self._due_ns:
            self._arm(now_ns)

    def cancel(self) -> None:
        """Watch no more: the loop has ended."""
        if self._fd is not None:
            self._due_ns = float("inf")
            with self._quiet:
                faulthandler.cancel_dump_traceback_later()

    def _arm(self, now_ns: int) -> None:
        assert self._fd is not None
        if not self._quiet.acquire(blocking=False):
            return  # a thread forks; the next beat comes
        try:
            faulthandler.dump_traceback_later(self._alarm_s, file=self._fd)
            self._due_ns = now_ns + self._pause_ns
        except RuntimeError as error:  # no thread can be started; the stacks are missing then
            self._due_ns = now_ns + self._pause_ns
            log.warning("the watchdog cannot be armed: %s", error)
        finally:
            self._quiet.release()

    # A forked process has the alarm's locks and not its thread: whatever touches the alarm
    # there, the end of the interpreter included, would wait for that thread for ever.

    def _before_fork(self) -> None:
        self._quiet.acquire()
        if self._due_ns != float("inf"):
            faulthandler.cancel_dump_traceback_later()

    def _after_fork_here(self) -> None:
        if self._due_ns != float("inf"):
            self._due_ns = 0  # armed again by the next beat
        self._quiet.release()

    def _after_fork_there(self) -> None:
        self._due_ns = float("inf")
        self._fd = None
        self._quiet.release()


def end_within(timeout_s: float) -> None:
    """Have this process end in so many seconds: its stacks in the log, exit status 1.

    For what a worker does after its last request. The manager would end it, too; this is
    for a worker whose manager is gone.
    """
    fd = _stderr_fd()
    if fd is None:
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # until the end, which is near
    os.register_at_fork(before=faulthandler.cancel_dump_traceback_later)  # see Watchdog
    try:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=fd)
    except RuntimeError as error:  # no thread can be started; the manager's bound remains
        log.warning("the end of this worker is not bounded: %s", error)


def _stderr_fd() -> int | None:
    """Return where stacks can be written; None if the process has no standard error.

    The number 2 alone would not do: where it was closed, it is some other file's by now.
    """
    for stream in (sys.stderr, sys.__stderr__):
        try:
            if stream is not None:
                return stream.fileno()
        except (OSError, ValueError):
            continue  # closed, or the application's own object without a descriptor
    return None
