"""A load generator for large contents, which costs little more than what the kernel takes.

    python -m benchmarks.transfer_load PORT CONNECTIONS SECONDS METHOD PATH UPLOAD DOWNLOAD

Each connection moves one content after the other: UPLOAD bytes to the server, DOWNLOAD bytes
from it (0: a short answer). Transfers that are under way at the end are finished and count.
What is received is thrown away inside the kernel (MSG_TRUNC, tcp(7)): only the length is
checked here, the content by the probe. Prints one line of JSON.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Final

from benchmarks.apps import content
from benchmarks.latency import quantile

PATIENCE_S: Final = 10.0  # with one transfer's content, or with an answer
_PIECE_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 65536
_NOTHING: Final = bytearray(_PIECE_BYTES)
_LENGTH: Final = re.compile(rb"^content-length: *(\d+)\r$", re.M | re.I)
_CLOSE: Final = re.compile(rb"^connection: *close\r$", re.M | re.I)


class TransferError(Exception):
    """An answer that is not as it should be."""


@dataclass(frozen=True, slots=True)
class Task:
    """What each connection does, over and over."""

    port: int
    method: str
    path: str
    upload_bytes: int
    download_bytes: int

    def head(self) -> bytes:
        """Return the request's head."""
        length = f"Content-Length: {self.upload_bytes}\r\n" if self.upload_bytes else ""
        lines = f"{self.method} {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        return f"{lines}{length}\r\n".encode()


@dataclass
class Transfers:
    """What has been seen; one instance for each connection."""

    durations_ns: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run."""

    requests: int
    rate: float  # transfers per second
    p50_us: float
    p90_us: float
    p99_us: float
    errors: dict[str, int]


def run(task: Task, connections: int, seconds: float) -> Summary:
    """Move contents for `seconds`, and finish what is under way then."""
    body = memoryview(b"".join(content(task.upload_bytes)))
    seen = [Transfers() for _ in range(connections)]
    threads = [threading.Thread(target=_repeat, args=(task, body, seconds, one)) for one in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(ns for one in seen for ns in one.durations_ns)
    errors: Counter[str] = sum((one.errors for one in seen), Counter())
    p50, p90, p99 = (quantile(ordered, q) / 1e3 for q in (0.5, 0.9, 0.99))
    # Each connection by its own time: when one has ended, the others have not.
    rate = sum(len(one.durations_ns) / one.elapsed_s for one in seen if one.elapsed_s)
    return Summary(len(ordered), rate, p50, p90, p99, dict(errors))


def _repeat(task: Task, body: memoryview, seconds: float, seen: Transfers) -> None:
    """Fill `seen`; an error costs the connection, and a moment, so that it does not spin."""
    began = time.monotonic()
    connection: socket.socket | None = None
    while time.monotonic() < began + seconds:
        start_ns = time.monotonic_ns()
        try:
            connection = connection or _connect(task.port)
            keeps = _transfer(connection, task, body)
        except (OSError, TransferError) as error:
            seen.errors[f"{type(error).__name__}: {error}"] += 1
            keeps = False
            time.sleep(0.01)
        else:
            seen.durations_ns.append(time.monotonic_ns() - start_ns)
        if connection is not None and not keeps:
            connection.close()
            connection = None
    seen.elapsed_s = time.monotonic() - began
    if connection is not None:
        connection.close()


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _transfer(connection: socket.socket, task: Task, body: memoryview) -> bool:
    """Do it once; return whether the connection can be used again."""
    connection.sendall(task.head())
    if body:
        connection.sendall(body)
    head, rest = _receive_head(connection)
    length = _LENGTH.search(head)
    if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")) or length is None:
        raise TransferError(f"answered {head[:80]!r}")
    expected = task.download_bytes or len(str(task.upload_bytes))
    if int(length[1]) != expected:
        raise TransferError(f"announced {int(length[1])} bytes")
    left = expected - rest
    while left > 0:
        # Nothing is written to the buffer; it only has to be as large as what is asked for.
        got = connection.recv_into(_NOTHING, min(left, _PIECE_BYTES), socket.MSG_TRUNC)
        if not got:
            raise TransferError(f"closed {left} bytes before the end")
        left -= got
    return head.startswith(b"HTTP/1.1") and not _CLOSE.search(head)


def _receive_head(connection: socket.socket) -> tuple[bytes, int]:
    """Return the head, and how many bytes of the content came with it."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = connection.recv(_HEAD_BYTES)
        if not more or len(data) > _HEAD_BYTES:
            raise TransferError(f"no whole head: {data[:80]!r}")
        data += more
    return data[: end + 2], len(data) - end - 4


def main() -> None:
    """Print one line of JSON."""
    port, connections, seconds, method, path, upload, download = sys.argv[1:]
    task = Task(int(port), method, path, int(upload), int(download))
    print(json.dumps(asdict(run(task, int(connections), float(seconds)))))


if __name__ == "__main__":
    main()
