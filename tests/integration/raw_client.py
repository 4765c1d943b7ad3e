"""Clients that no library has: slow, silent, rude. One socket each, written and read by hand."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from tests.integration.server_process import PATIENCE_S, Answer, ServerProcess, eventually

# So little is under way to a client that does not read that the server soon finds it slow.
SMALL_BUFFER = 4096


def request(
    target: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """Return the bytes of a request; of its body the length is declared."""
    fields = {"Host": "test", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/{version}", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class RawClient:
    """One connection; what it sends, and when it reads, the test says.

    receive_buffer: the kernel's buffer on this side (SO_RCVBUF); 0: as it comes.
    source: the address to come from.
    """

    def __init__(self, server: ServerProcess, receive_buffer: int = 0, source: str = "") -> None:
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE_S)
        self.piece_bytes = 1 << 16  # what is read at once ...
        self.pause_s = 0.0  # ... after so long
        self._received = bytearray()
        try:
            if receive_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                self.sock.bind((source, 0))
            self.sock.connect(server.address)
        except OSError:
            self.sock.close()
            raise

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, whatever is on its way."""
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def ask(
        self,
        target: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        version: str = "1.1",
    ) -> None:
        """Send a request and read nothing."""
        self.send(request(target, method, headers, body, version))

    def get(self, target: str) -> Answer:
        """Send a request and read the whole response to it."""
        self.ask(target)
        return self.response()

    def response(self) -> Answer:
        """Read one response, interim or not; EOFError if it ends too early."""
        answer = self.head()
        if answer.status < 200 or answer.status in (204, 304):
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            return Answer(answer.status, answer.headers, self._chunks())
        if "content-length" in answer.headers:
            body = self.read(int(answer.headers["content-length"]))
            return Answer(answer.status, answer.headers, body)
        return Answer(answer.status, answer.headers, self.rest())

    def head(self) -> Answer:
        """Read the head of a response."""
        lines = self._until(b"\r\n\r\n").decode().split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines
        pairs = (line.split(":", 1) for line in lines[1:] if line)
        return Answer(int(status), {k.lower(): v.strip() for k, v in pairs}, b"")

    def read(self, size: int) -> bytes:
        """Read so many bytes, no fewer."""
        while len(self._received) < size:
            self.receive()
        return self._cut(size)

    def rest(self) -> bytes:
        """Read to the end of file. Raises: ConnectionResetError if that is not how it ends."""
        with contextlib.suppress(EOFError):
            while True:
                self.receive()
        return self._cut(len(self._received))

    def received(self) -> bytes:
        """Read to the end, however the connection ends."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self.receive()
        return self._cut(len(self._received))

    def is_open(self) -> bool:
        """Whether the server has neither sent anything nor closed."""
        return not select.select([self.sock], [], [], 0)[0]

    def receive(self) -> None:
        """Read what has come, for one of the others to return."""
        if self.pause_s:
            time.sleep(self.pause_s)
        data = self.sock.recv(self.piece_bytes)
        if not data:
            raise EOFError(f"closed after {bytes(self._received[:200])!r}")
        self._received += data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self.receive()
        return self._cut(self._received.index(mark) + len(mark))

    def _chunks(self) -> bytes:
        pieces = []
        while size := int(self._until(b"\r\n"), 16):
            pieces.append(self.read(size))
            assert self.read(2) == b"\r\n"
        assert self.read(2) == b"\r\n"
        return b"".join(pieces)

    def _cut(self, size: int) -> bytes:
        data = bytes(self._received[:size])
        del self._received[:size]
        return data


def drip(client: RawClient, data: bytes, piece: int, pause_s: float) -> bool:
    """Send bytes slowly, until they are sent or the server answers; True if all were sent."""
    for start in range(0, len(data), piece):
        if not client.is_open():
            return False
        client.send(data[start : start + piece])
        time.sleep(pause_s)
    return True


def ordinary_requests_are_answered(server: ServerProcess, count: int = 10) -> None:
    """Ask one after the other, each on a new connection."""
    for _ in range(count):
        assert server.get("/ready").text == "ready\n"


def all_threads_serve(server: ServerProcess, count: int) -> None:
    """Have so many requests run at once: they meet in the application, or never end."""
    with ThreadPoolExecutor(count) as clients:
        answers = clients.map(server.get, [f"/meet?count={count}"] * count)
        assert [answer.text for answer in answers] == ["met\n"] * count


def incidents(server: ServerProcess) -> dict[str, int]:
    """Return what the readout says has happened, without what has not."""
    return {name: count for name, count in server.status()["incidents"].items() if count}


def wait_for_incident(server: ServerProcess, name: str, count: int = 1) -> None:
    """Wait until the readout says that it has happened so often."""
    eventually(lambda: server.status()["incidents"][name] >= count, 5, server.report)
