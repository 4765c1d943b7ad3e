"""Clients that keep their connections and notice everything that goes wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from tests.integration.server_process import PATIENCE_S, eventually

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Ending:
    """How a connection ended otherwise than by its client. Times in seconds.

    worker: the process that answered last on this connection; None if none has.
    well_s: when the connection cannot have been broken yet: the last request that was
        answered on it was sent then, or it was asked for then.
    sent_s: when the request was sent (the connection asked for).
    failed_s: when the client noticed.
    """

    client: int
    what: str
    worker: int | None
    well_s: float
    sent_s: float
    failed_s: float


@dataclass
class KeepAliveClients:
    """Many clients in a thread of their own, from `with` to its end.

    count: how many connections.
    target: what they ask for; a /whoami tells them which process they talk to.
    pause_s: between an answer and the next request; they are spread over it.
    reconnect: whether a client goes on after its connection has been closed or lost.
    """

    address: tuple[str, int]
    count: int
    target: str = "/whoami"
    pause_s: float = 0.05
    reconnect: bool = True
    answers: int = 0
    opened: int = 0
    announced: int = 0  # answers with `Connection: close`
    closings: list[Ending] = field(default_factory=list)  # between two requests, by the server
    failures: list[Ending] = field(default_factory=list)  # all that is not a good answer
    bodies: Counter[str] = field(default_factory=Counter)
    workers: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._going = asyncio.Event()
        self._asking = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> KeepAliveClients:
        self._thread.start()
        eventually(lambda: self._loop is not None, hint=lambda: "the clients' loop")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Let each get its answer, then close. What was counted stays."""
        if self._thread.is_alive():
            self._call(self._over.set)
            self._call(self._going.set)
            self.join()

    def join(self) -> None:
        """Wait until all clients have ended by themselves (`reconnect` False)."""
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive(), "clients do not end"

    def rest(self) -> None:
        """Let each get its answer, then be silent; the connections stay open."""
        self._call(self._going.clear)
        eventually(lambda: self._asking == 0, hint=lambda: f"{self._asking} requests unanswered")

    def go_on(self) -> None:
        """End a rest()."""
        self._call(self._going.set)

    def wait_for(self, answers: int) -> None:
        """Wait until so many more answers have come."""
        wanted = self.answers + answers
        eventually(lambda: self.answers >= wanted, hint=self.report)

    def report(self) -> str:
        """Return the counters and the first failures."""
        return (
            f"{self.answers} answers, {self.opened} connections opened, "
            f"{len(self.closings)} closed between requests, {self.announced} announced, "
            f"{len(self.failures)} failures; the first: {self.closings[:3]} {self.failures[:3]}"
        )

    def _call(self, function: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(function)  # type: ignore[arg-type]

    async def _main(self) -> None:
        self._going.set()
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        await self._pause(self.pause_s * number / self.count)
        while not self._over.is_set():
            asked_s = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    reader, writer = await asyncio.open_connection(*self.address)
            except OSError as error:  # TimeoutError is one
                self._ended(self.failures, number, repr(error), None, asked_s, asked_s)
            else:
                self.opened += 1
                await self._converse(number, reader, writer, asked_s)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            if not self.reconnect:
                return
            await self._pause(self.pause_s)

    async def _converse(
        self,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        well_s: float,
    ) -> None:
        """Ask on one connection until it or the test is over."""
        request = f"GET {self.target} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        worker: int | None = None
        while True:
            await self._going.wait()
            if self._over.is_set():
                return
            if reader.at_eof() and reader.exception() is None:
                self._ended(self.closings, number, "end of file", worker, well_s, well_s)
                return
            sent_s = time.monotonic()
            self._asking += 1
            try:
                async with asyncio.timeout(PATIENCE_S):
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = await self._body(reader, head)
            except (OSError, EOFError, ValueError) as error:
                self._ended(self.failures, number, repr(error), worker, well_s, sent_s)
                return
            finally:
                self._asking -= 1
            well_s = sent_s
            self.answers += 1
            worker = self._note(body)
            if _CLOSE.search(head):
                self.announced += 1
                return
            await self._pause(self.pause_s)

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> str:
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise ValueError(f"not what was expected: {head!r}")
        return (await reader.readexactly(int(length[1]))).decode()

    def _note(self, body: str) -> int | None:
        if not self.target.startswith("/whoami"):
            self.bodies[body] += 1
            return None
        worker = int(json.loads(body)["pid"])
        self.workers[worker] += 1
        return worker

    async def _pause(self, seconds: float) -> None:
        # Ends at once when all is over.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    def _ended(
        self,
        endings: list[Ending],
        client: int,
        what: str,
        worker: int | None,
        well_s: float,
        sent_s: float,
    ) -> None:
        endings.append(Ending(client, what, worker, well_s, sent_s, time.monotonic()))
