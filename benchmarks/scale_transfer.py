"""A client for large bodies: whole requests, one after another, on a few connections.

What a server has done is then known to the byte: nothing is cut off where the time is over.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Final

_BLOCK_BYTES: Final = 1 << 18
_MOST_HEAD_BYTES: Final = 65536
_PATIENCE_S: Final = 60.0
_BLOCK: Final = memoryview(bytes(_BLOCK_BYTES))


class TransferError(Exception):
    """An answer was not as it should be."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request and what is expected of the answer.

    sends, answers: bytes of the two bodies.
    """

    path: str
    sends: int = 0
    answers: int = 0
    expected: bytes | None = None  # the answer's body; None: only its length counts

    def head(self) -> bytes:
        """Return the head of the request."""
        if not self.sends:
            return f"GET {self.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        length = f"Content-Length: {self.sends}"
        return f"POST {self.path} HTTP/1.1\r\nHost: test\r\n{length}\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Done:
    """How many requests were answered, in how many seconds."""

    requests: int
    seconds: float


def transfer(port: int, ask: Ask, seconds: float, connections: int) -> Done:
    """Repeat `ask` on each connection until the time is over and the last one is answered.

    Raises: TransferError or OSError as soon as one connection saw it.
    """
    counts: list[int] = []
    errors: list[Exception] = []
    began_s = time.monotonic()

    def run() -> None:
        try:
            counts.append(_repeat(port, ask, began_s + seconds))
        except (TransferError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Done(sum(counts), time.monotonic() - began_s)


def _repeat(port: int, ask: Ask, end_s: float) -> int:
    """Make requests on one connection until `end_s`, one at least; return how many."""
    head, count = ask.head(), 0
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not count or time.monotonic() < end_s:
            _send(sock, head, ask.sends)
            _receive(sock, ask, buffer)
            count += 1
    return count


def _send(sock: socket.socket, head: bytes, size: int) -> None:
    sock.sendall(head)
    while size > 0:
        piece = _BLOCK[:size]
        sock.sendall(piece)
        size -= len(piece)


def _receive(sock: socket.socket, ask: Ask, buffer: memoryview) -> None:
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > _MOST_HEAD_BYTES:
            raise TransferError("an endless head")
        received += _some(sock, buffer)
    head, body = bytes(received[:end]), bytes(received[end + 4 :])
    status, length = _read_head(head)
    if (status, length) != (200, ask.answers):
        raise TransferError(f"status {status}, {length} bytes instead of {ask.answers}")
    left = length - len(body)
    while left > 0:
        piece = _some(sock, buffer)
        left -= len(piece)
        if ask.expected is not None:
            body += piece
    if left or (ask.expected is not None and body != ask.expected):
        raise TransferError(f"answered {body[:100]!r}")


def _some(sock: socket.socket, buffer: memoryview) -> memoryview:
    size = sock.recv_into(buffer)
    if not size:
        raise TransferError("closed before the end of the answer")
    return buffer[:size]


def _read_head(head: bytes) -> tuple[int, int]:
    """Return status and Content-Length. Raises: TransferError if one is missing."""
    first, *lines = head.split(b"\r\n")
    words = first.split()
    fields = dict(line.lower().partition(b":")[::2] for line in lines)
    length = fields.get(b"content-length", b"").strip()
    if len(words) < 2 or not words[1].isdigit() or not length.isdigit():
        raise TransferError(f"cannot be read: {head[:100]!r}")
    return int(words[1]), int(length)
