"""A server with one worker that runs `fault_wire:app`, and questions to it."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from tests.integration.server_process import ServerProcess
from tests.unit.httpcore_srv.worker_in_thread import Client, Response, get

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Target:
    """The server."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.seen()

    def connect(self, receive_buffer_bytes: int = 0) -> Client:
        """Return a new client; the caller closes it."""
        return Client(self.server.address, receive_buffer_bytes)

    def send(self, request: bytes) -> bytes:
        """Send something on a connection of its own; return all that comes until the end."""
        with self.connect() as client:
            client.send(request)
            return client.until_end()

    def ask(self, request: bytes) -> Response:
        """Send one request on a connection of its own and return the response."""
        with self.connect() as client:
            return client.ask(request)

    def said(self, request: bytes) -> Any:
        """Return what the application says to a request."""
        answer = self.ask(request)
        assert answer.status == 200
        return json.loads(answer.content)["said"]

    def environ(self, request: bytes) -> dict[str, str]:
        """Return the environ of a request as the application was given it."""
        found = self.said(request)
        assert isinstance(found, dict)
        return found

    def seen(self) -> list[str]:
        """Return method and target of each request that has reached the application since."""
        found = self.said(get("/seen"))
        assert isinstance(found, list)
        return found

    def pid(self) -> int:
        """Return the worker that answers."""
        return int(json.loads(self.ask(get("/ignore")).content)["pid"])

    def assert_refused(self, bad: bytes, *, status: tuple[int, ...] = (400,)) -> None:
        """The request is answered with an error, and nothing after it is read as a request."""
        self.seen()
        raw = self.send(bad + SMUGGLED + SMUGGLED)
        assert raw.startswith(tuple(b"HTTP/1.1 %d " % code for code in status)), raw
        assert b"\r\nConnection: close\r\n" in raw
        assert len(STATUS_LINE.findall(raw)) == 1
        assert self.seen() == []
