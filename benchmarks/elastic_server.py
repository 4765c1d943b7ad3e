"""This server as `elastic` drives it: with a pid file, and looked at many times a second."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

import spm
from benchmarks import family
from benchmarks.elastic_app import BODY
from benchmarks.processes import Running, running
from benchmarks.scenarios import Scenario
from benchmarks.servers import OURS, ROOT, Server

APP: Final = "benchmarks.elastic_app:app"
PERIOD_S: Final = 0.025
_END_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How many workers and threads a server may have; further options."""

    min_workers: int
    max_workers: int
    threads: int
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.min_workers == self.max_workers:
            return f"{self.max_workers} x {self.threads}"
        return f"{self.min_workers}..{self.max_workers} x {self.threads}"


@dataclass(frozen=True, slots=True)
class Moment:
    """What the server said of itself at one moment, by the wall clock.

    workers: pid -> state, in the words of the readout.
    """

    at_ns: int
    total: int
    ready: int  # Busy and Idle
    starting: int
    kill_pending: int
    threads: int
    busy_threads: int
    connections: int
    requests: int
    workers: dict[int, str]

    @classmethod
    def of(cls, values: dict[str, Any], at_ns: int) -> Moment:
        """Return the moment of a readout."""
        return cls(
            at_ns,
            total=values["total"],
            ready=values["busy"] + values["idle"],
            starting=values["starting"],
            kill_pending=values["kill_pending"],
            threads=values["threads"],
            busy_threads=values["busy_threads"],
            connections=values["connections"],
            requests=values["requests"],
            workers={worker["pid"]: worker["state"] for worker in values["workers"]},
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A running server."""

    child: Running
    pid_file: Path
    shape: Shape

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return ("127.0.0.1", self.child.port)

    @property
    def pid(self) -> int:
        """The manager's pid: another one after an upgrade."""
        return int(self.pid_file.read_text())

    def status(self) -> dict[str, Any]:
        """Return the readout. Raises: spm.ControlError."""
        values: dict[str, Any] = spm.ask(spm.find(pid_file=str(self.pid_file)))
        return values

    def signal(self, number: signal.Signals) -> None:
        """Send the manager a signal."""
        os.kill(self.pid, number)

    def pss_mb(self) -> float:
        """Return the memory of all its processes."""
        return family.of_family(self.pid).pss / 1e6

    def command(self, name: str) -> subprocess.Popen[bytes]:
        """Start `main.py NAME --pid FILE`."""
        argv = [sys.executable, "main.py", name, "--pid", str(self.pid_file)]
        return subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0
        )


@contextmanager
def serving(shape: Shape) -> Iterator[Target]:
    """Serve `elastic_app` inside the block, on all cores; nothing is left behind it.

    Raises: ServerError if the server does not start.
    """
    with tempfile.TemporaryDirectory() as directory:
        pid_file = Path(directory, "pid")
        scenario = Scenario("elastic", "", APP, BODY, threads=shape.threads)
        with running(ours(shape, pid_file), scenario, None) as child:
            try:
                yield Target(child, pid_file, shape)
            finally:
                _end_successor(child.pid, pid_file)


def ours(shape: Shape, pid_file: Path) -> Server:
    """Return this server in the given shape, as `processes.running` takes it."""

    def command(port: int, app: str, threads: int) -> tuple[str, ...]:
        workers = (
            *("--min-workers", str(shape.min_workers)),
            *("--max-workers", str(shape.max_workers)),
        )
        pool = (*workers, "--max-threads", str(threads), *shape.options)
        return ("main.py", *pool, "--port", str(port), "--pid", str(pid_file), app)

    return Server(OURS, "main", "", command)


def understands(word: str, *command: str) -> bool:
    """Whether the server's help mentions an option or a command."""
    argv = [sys.executable, "main.py", *command, "--help"]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return word in said.stdout


class Watch:
    """Looks at a server many times a second, in a thread of its own, inside its block."""

    def __init__(self, target: Target, period_s: float = PERIOD_S) -> None:
        self.moments: list[Moment] = []
        self.misses = 0  # looks that nobody answered
        self._target = target
        self._period_s = period_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin_ns: int, end_ns: int) -> Sequence[Moment]:
        """Return what was seen in a span of time."""
        return [m for m in list(self.moments) if begin_ns <= m.at_ns < end_ns]

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._over.is_set():
            try:
                values = self._target.status()
            except (spm.ControlError, OSError, ValueError):
                self.misses += 1
            else:
                self.moments.append(Moment.of(values, time.time_ns()))
            next_s = max(next_s + self._period_s, time.monotonic())
            self._over.wait(next_s - time.monotonic())


def has_ended(pid: int) -> bool:
    """Whether a child has ended, collected or not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 0)[0])
    finally:
        os.close(pidfd)


def _end_successor(pid: int, pid_file: Path) -> None:
    """End the server that took over from the one with `pid`, if there is one."""
    try:
        successor = psutil.Process(int(pid_file.read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
    if successor.pid == pid:
        return
    members = [successor, *successor.children(recursive=True)]
    successor.terminate()
    _, alive = psutil.wait_procs(members, timeout=_END_TIMEOUT_S)
    for member in alive:
        member.kill()
    psutil.wait_procs(alive, timeout=_END_TIMEOUT_S)
