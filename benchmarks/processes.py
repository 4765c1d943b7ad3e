"""One server as a child process: started, probed, looked at, ended in any case."""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

from benchmarks import payload
from benchmarks.apps import CHECK_PATH, content
from benchmarks.cores import pinned
from benchmarks.scenarios import Scenario
from benchmarks.servers import ROOT, Server

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
_PROBE_PAUSE_S: Final = 0.02
_BATCH_TIMEOUT_S: Final = 2.0
_LOG_TAIL_BYTES: Final = 2000


class ServerError(Exception):
    """A server did not start, or answered something else than it should."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has answered its first request as it should."""

    pid: int
    port: int

    def cpu_s(self) -> float:
        """Return the processor seconds that its processes have used so far."""
        times = [process.cpu_times() for process in _family(self.pid)]
        return float(sum(used.user + used.system for used in times))

    def memory_mb(self) -> float:
        """Return its memory in MB (PSS: a page shared by n processes counts 1/n for each)."""
        return float(sum(process.memory_full_info().pss for process in _family(self.pid))) / 1e6


@contextmanager
def running(server: Server, scenario: Scenario, core: int | None) -> Iterator[Running]:
    """Serve `scenario` on `core` inside the block; nothing of the server is left behind it.

    Raises: ServerError if it ends, stays silent or answers wrongly.
    """
    port = free_port()
    if "file" in scenario.needs:
        payload.offer_file()
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as directory:
        process = _start(server.argv(port, scenario, Path(directory)), log, core)
        try:
            _wait_until_ready(process, port, scenario)
        except ServerError as error:
            raise ServerError(f"{error}{_tail(log)}") from None
        else:
            yield Running(process.pid, port)
        finally:
            stop(process)


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def probe(port: int, scenario: Scenario) -> None:
    """Send a request of the scenario and compare the answer, byte for byte or by its checksum.

    Raises: ServerError if status or body differ; OSError or http.client.HTTPException
        while nobody answers.
    """
    request = scenario.requests()[0]
    path, body, expected = request.path, iter((request.content,)), scenario.body
    headers = dict(request.headers)
    if scenario.upload_bytes:
        path, body = CHECK_PATH, content(scenario.upload_bytes)
        expected = b"%s %08x" % (expected, payload.checksum(scenario.upload_bytes))
    if length := scenario.upload_bytes or len(request.content):
        headers["Content-Length"] = str(length)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT_S)
    try:
        connection.request(request.method, path, body if length else None, headers)
        response = connection.getresponse()
        if scenario.download_bytes and response.status == 200:
            _compare(response, scenario.download_bytes)
            return
        answered = response.read()
    finally:
        connection.close()
    if (response.status, answered) != (200, expected):
        raise ServerError(f"answered {response.status} with {answered[:100]!r}")
    if scenario.pipeline > 1:
        _probe_batch(port, scenario)


def _probe_batch(port: int, scenario: Scenario) -> None:
    """Send requests together, and see that as many answers come back."""
    requests = scenario.requests()[0].as_bytes(f"127.0.0.1:{port}") * scenario.pipeline
    received = b""
    with socket.create_connection(("127.0.0.1", port), _BATCH_TIMEOUT_S) as connection:
        connection.sendall(requests)
        try:
            while received.count(scenario.body) < scenario.pipeline:
                if not (data := connection.recv(65536)):
                    break
                received += data
        except TimeoutError:
            pass
    answers = received.count(scenario.body)
    if answers != scenario.pipeline:
        raise ServerError(f"answered {answers} of {scenario.pipeline} requests sent together")


def _compare(response: http.client.HTTPResponse, length: int) -> None:
    received = checksum = 0
    while block := response.read(1 << 18):
        received += len(block)
        checksum = zlib.crc32(block, checksum)
    if (received, checksum) != (length, payload.checksum(length)):
        raise ServerError(f"answered {received} bytes with the checksum {checksum:08x}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and all of its group: politely first, for a bounded time.

    SIGTERM goes to the leader alone: how its workers end is its own business.
    """
    # The leader, dead or alive, is not waited for before the end: until then its number, and so
    # that of the group, cannot be given to a stranger. (Popen's terminate() and poll() would.)
    os.kill(process.pid, signal.SIGTERM)
    _ended(process.pid, STOP_TIMEOUT_S)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start(argv: list[str], log: IO[bytes], core: int | None) -> subprocess.Popen[bytes]:
    with pinned(core):
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,  # Ctrl+C reaches the benchmark alone, which then ends the server
        )


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, scenario: Scenario) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return probe(port, scenario)
        except (OSError, http.client.HTTPException) as error:
            if _ended(process.pid, _PROBE_PAUSE_S):
                raise ServerError("ended before it answered") from None
            if time.monotonic() > deadline:
                raise ServerError(f"no answer in {START_TIMEOUT_S:.0f} s ({error})") from None


def _ended(pid: int, timeout_s: float) -> bool:
    """Wait up to `timeout_s` for the end of a child, without collecting its status."""
    pidfd = os.pidfd_open(pid)
    try:
        readable, _, _ = select.select([pidfd], [], [], timeout_s)
    finally:
        os.close(pidfd)
    return bool(readable)


def _family(pid: int) -> list[psutil.Process]:
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG_TAIL_BYTES))
    text = log.read().decode(errors="replace").strip()
    return f"; its last words:\n{text}" if text else ""
