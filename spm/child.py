"""The first and the last steps of a forked process: template and worker alike."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NoReturn

from .lifeline import Lifeline
from .scoreboard import STATE_NONE, Scoreboard
from .siblings import Inboxes, Siblings
from .slot import Slot

Serve = Callable[[Slot, Lifeline, Siblings], None]
Boot = Callable[[], Serve]

_log = logging.getLogger("smart_http.spm")

# What an operator, a terminal or a service manager sends to the whole group. The manager
# got it as well and will tell us what to do, in the right order; so it does nothing here.
# A handler and not SIG_IGN: an ignored signal stays ignored through exec, and a program
# that the application starts must be endable.
_COORDINATED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
# In characters; six bytes each at worst, it still fits into one packet.
_MESSAGE_LIMIT: Final = 8_000


def _leave_it_to_the_manager(number: int, frame: FrameType | None) -> None:
    """Do nothing (see _COORDINATED_SIGNALS)."""


def reset_signals() -> None:
    """Forget the parent's signal handling, then let signals in (see signals_held)."""
    # The pipe behind it is the parent's: a signal to us would be told to the parent.
    signal.set_wakeup_fd(-1)
    for number in _COORDINATED_SIGNALS:
        signal.signal(number, _leave_it_to_the_manager)
    # Whoever ignores SIGCHLD lets the kernel reap, and no exit status is ever seen.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _COORDINATED_SIGNALS)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back around a fork.

    A signal that arrives in the child before it has replaced the parent's handlers would
    be written to the parent's wake-up pipe and be acted upon by the wrong process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _COORDINATED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def flush_stdio() -> None:
    """Empty the buffers of stdout and stderr; a reader that is gone is no error here."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            _log.debug("flush: %s", error)


def leave(status: int) -> NoReturn:
    """End this process without returning into the stack of the process it was forked from."""
    # os._exit, because sys.exit would unwind through the parent's frames, copied here by
    # fork, and run their `finally` clauses a second time. It skips the exit functions, and
    # those are the application's (closing pools, flushing reports), so they run here.
    # There is no public name for it.
    try:
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - the last edge of the process
        status = status or 1
        _log.exception("an exit function failed")
    flush_stdio()
    os._exit(status)


def describe_failure(error: BaseException) -> tuple[str, int | None]:
    """Return the message of a failed boot and the exit status it asks for."""
    # One that knows of exit statuses, even if it asks for none, is a message by itself.
    status = getattr(error, "exit_status", "unknown")
    if status is None or isinstance(status, int):
        return _shortened(str(error)), status
    lines = traceback.format_exception(error)
    message = f"the application could not be loaded: {error!r}\n{''.join(lines).rstrip()}"
    return _shortened(message), None


def _shortened(message: str) -> str:
    """Cut a long message in the middle: it begins with what and ends with where."""
    if len(message) <= _MESSAGE_LIMIT:
        return message
    half = _MESSAGE_LIMIT // 2
    return f"{message[:half]}\n[...]\n{message[-half:]}"


def packed(news: dict[str, Any]) -> bytes:
    """Return news as one packet. Text that is no text (lone surrogates) is told as such."""
    return json.dumps(news, ensure_ascii=False).encode(errors="backslashreplace")


def run_worker(
    boot: Boot,
    scoreboard: Scoreboard,
    inboxes: Inboxes,
    lifeline: Lifeline,
    index: int,
    incarnation: int,
    stale_ns: int,
) -> NoReturn:
    """Be a worker: boot, serve, end. Runs in the new process and never returns.

    boot: what returns the function that serves; with preload it has run already and
        this only returns its result. Whatever is raised before the worker has said that
        it is ready makes it one that could not start, and the manager is told why.
    """
    status = 1
    try:
        inboxes.keep_only_reader(index)
        scoreboard.protect(index)
        slot = Slot(scoreboard, index, incarnation)
        slot.started()
        siblings = Siblings(inboxes, scoreboard, index, stale_ns=stale_ns)
        boot()(slot, lifeline, siblings)
        status = 0
    except BaseException as error:  # noqa: BLE001 - imports may raise anything, SystemExit too
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if scoreboard.row(index).state == STATE_NONE:
            _tell_boot_failure(error, lifeline)
        elif not isinstance(error, SystemExit):
            _log.exception("worker %d (slot %d) failed", os.getpid(), index)
    finally:
        leave(status)


def _tell_boot_failure(error: BaseException, lifeline: Lifeline) -> None:
    """Tell the manager why this worker is none: it has not come to serve."""
    message, exit_status = describe_failure(error)
    lifeline.tell(packed({"boot_failed": message, "exit_status": exit_status}))
