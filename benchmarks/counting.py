"""What the kernel did for a server: context switches, and system calls by `strace -c`."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks.family import family

ATTACH_TIMEOUT_S: Final = 10.0
_SWITCHES: Final = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)$", re.M)
_TOTAL: Final = re.compile(r"^\s*100\.00\s+(.*)\btotal$", re.M)


class CountError(Exception):
    """System calls cannot be counted here."""


def switches(pid: int) -> dict[int, int]:
    """Return thread -> context switches so far, for a process and all its descendants."""
    found = {}
    for member in family(pid):
        for task in _entries(Path(f"/proc/{member}/task")):
            with contextlib.suppress(OSError):  # it has just ended
                status = (task / "status").read_text(encoding="ascii", errors="replace")
                found[int(task.name)] = sum(map(int, _SWITCHES.findall(status)))
    return found


def switched(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """Return how many switches lie between two looks; threads that have ended do not count."""
    return sum(count - before.get(thread, 0) for thread, count in after.items())


def can_trace() -> str:
    """Return why strace does not work here; empty if it does."""
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-c", "-o", os.devnull, "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"strace does not work: {tried.stderr.strip().splitlines()[-1:]}"
    return ""


@contextlib.contextmanager
def traced(pid: int) -> Iterator[list[int]]:
    """Count the system calls of a process and all its descendants inside the block.

    Behind the block the list that it was given holds the number.
    Raises: CountError if strace does not get hold of them.
    """
    counted: list[int] = []
    with tempfile.TemporaryDirectory() as directory:
        summary = Path(directory, "summary")
        pids = [word for member in family(pid) for word in ("-p", str(member))]
        strace = subprocess.Popen(
            ["strace", "-f", "-c", "-o", str(summary), *pids],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        try:
            _wait_until_attached(strace, len(pids) // 2)
            yield counted
        finally:
            # On SIGINT it lets go of the processes, which go on, and writes its summary.
            strace.send_signal(signal.SIGINT)
            try:
                strace.communicate(timeout=ATTACH_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                strace.kill()
                strace.communicate()
        text = summary.read_text(encoding="ascii", errors="replace") if summary.exists() else ""
    counted.append(total_calls(text))


def total_calls(summary: str) -> int:
    """Return the number of calls in what `strace -c` wrote.

    Raises: CountError if there is none.
    """
    found = _TOTAL.search(summary)
    if found is None:
        raise CountError(f"strace's summary has no total: {summary[:200]!r}")
    # "% time", taken off by the pattern, seconds, usecs/call, calls, and errors if there were any
    return int(found[1].split()[2])


def _wait_until_attached(strace: subprocess.Popen[bytes], processes: int) -> None:
    """Wait until strace has said of each process that it is attached."""
    assert strace.stderr is not None
    descriptor = strace.stderr.fileno()
    said, deadline = b"", time.monotonic() + ATTACH_TIMEOUT_S
    while said.count(b" attached") < processes:
        wait_s = max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([descriptor], [], [], wait_s)
        more = os.read(descriptor, 65536) if readable else b""
        if not more:
            raise CountError(f"strace is not attached: {said[-200:]!r}")
        said += more


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
