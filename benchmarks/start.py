"""The kind `start`: how long it takes from starting a server to its first right answer.

The server is asked for a connection once in a millisecond from the moment in which its process
is started; a refusal costs the poller some microseconds on the load generator's core. One
start that is not measured comes first, so that compiled files and the page cache are there.

For this project's server, the time to replace a worker as well: from its SIGKILL until another
process answers a connection that was made at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Final

from benchmarks.answer import Answer, AnswerReader, BadAnswer
from benchmarks.cores import Cores, pinned
from benchmarks.hostile import get
from benchmarks.processes import START_TIMEOUT_S, ServerError, free_port, stop
from benchmarks.sample import Outcome
from benchmarks.scenarios import Scenario
from benchmarks.server import ROOT, Server

STARTS: Final = 3
PATH: Final = "/sleep?ms=0"  # a route of the demo application whose answer is always the same
BODY: Final = b"slept 0 ms\n"
PROCESS_PATH: Final = "/whoami"  # JSON with the worker's pid
_PAUSE_S: Final = 0.001
_LOG_TAIL_BYTES: Final = 2000
_RECEIVE_BYTES: Final = 65536


def measure(
    server: Server, scenario: Scenario, cores: Cores, seconds: float, warm_up_s: float
) -> Outcome:
    """Start one server STARTS + 1 times; `seconds` and `warm_up_s` do not matter here.

    Raises: ServerError if it does not start, or answers something else than it should.
    """
    starts_ms, forks_ms = [], []
    with pinned(cores.load):
        for number in range(STARTS + 1):
            with _started(server, scenario, cores) as (port, took_s):
                if number == 0:
                    continue
                starts_ms.append(took_s * 1e3)
                if server.needs == "main":  # this project's, of whatever revision
                    forks_ms.append(replacement_s(port) * 1e3)
    figures = {"start_ms": median(starts_ms)}
    if forks_ms:
        figures["fork_ms"] = median(forks_ms)
    return Outcome(figures)


@contextmanager
def _started(server: Server, scenario: Scenario, cores: Cores) -> Iterator[tuple[int, float]]:
    """Start a server; give its port and how long it took to answer, seconds."""
    port = free_port()
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as directory:
        argv = server.argv(port, scenario, Path(directory))
        began_s = time.monotonic()
        with pinned(cores.server):
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            answer = first_answer(port, process)
            took_s = time.monotonic() - began_s
            if (answer.status, answer.start) != (200, BODY):
                raise ServerError(f"answered {answer.status} with {answer.start[:100]!r}")
            yield port, took_s
        except ServerError as error:
            raise ServerError(f"{error}{_tail(log)}") from None
        finally:
            stop(process)


def first_answer(port: int, process: subprocess.Popen[bytes]) -> Answer:
    """Try to connect until it succeeds, ask, and return the answer.

    Raises: ServerError if the server is silent for START_TIMEOUT_S.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), START_TIMEOUT_S) as sock:
                return _ask(sock, PATH)
        except ConnectionError:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise ServerError("ended before it answered") from None
        except (OSError, BadAnswer) as error:
            raise ServerError(f"no answer: {error}") from error
        if time.monotonic() > deadline_s:
            raise ServerError(f"no connection within {START_TIMEOUT_S:g} s")
        time.sleep(_PAUSE_S)


def replacement_s(port: int) -> float:
    """Kill the one worker of a server; return how long it takes until another one answers.

    Raises: ServerError if none does.
    """
    killed = _process(port)
    began_s = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    try:
        while _process(port) == killed:  # it took the connection in its last moment
            pass
    except (OSError, BadAnswer) as error:
        raise ServerError(f"no other worker: {error}") from error
    return time.monotonic() - began_s


def _process(port: int) -> int:
    """Return which process answers."""
    with socket.create_connection(("127.0.0.1", port), START_TIMEOUT_S) as sock:
        return int(json.loads(_ask(sock, PROCESS_PATH).start)["pid"])


def _ask(sock: socket.socket, path: str) -> Answer:
    sock.sendall(get(path, "Connection: close"))
    reader = AnswerReader()
    while data := sock.recv(_RECEIVE_BYTES):
        reader.feed(data)
        if (answer := reader.take()) is not None:
            return answer
    answer = reader.end()
    if answer is None:
        raise ConnectionResetError("closed without an answer")
    return answer


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG_TAIL_BYTES))
    text = log.read().decode(errors="replace").strip()
    return f"; its last words:\n{text}" if text else ""
