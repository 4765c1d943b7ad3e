"""Clients for the chaos test: all kinds of requests, and a note of each that has no answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import re
import threading
import time
import zlib
from typing import Final

from tests.integration.apps.chaos_target import PIECES, piece

# Longer than any process stands still; nothing is to take so long.
ANSWER_S: Final = 20.0
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Kill:
    """A SIGKILL between two moments (time.monotonic)."""

    pid: int
    before_s: float
    after_s: float


@dataclasses.dataclass(frozen=True)
class Loss:
    """A request without its answer, or a connection that the server ended. Times in seconds.

    identities: of the requests that were sent and not answered; none: it was at rest.
    worker: who answered last on this connection; None: nobody yet.
    well_s: the connection cannot have been broken before.
    """

    identities: tuple[str, ...]
    what: str
    worker: int | None
    well_s: float
    failed_s: float

    def is_explained_by(self, kill: Kill) -> bool:
        """Whether the kill fell into the time in which the connection broke."""
        return self.well_s <= kill.after_s and kill.before_s <= self.failed_s


class Clients:
    """Clients in a thread of their own; how many of them are active can be changed."""

    def __init__(self, address: tuple[str, int], count: int, seed: int) -> None:
        self.address = address
        self.active = 0
        self.answered: dict[str, int] = {}  # request -> the process that answered
        self.sent: set[str] = set()
        self.losses: list[Loss] = []
        self.announced = 0  # answers that said that their connection would end, unasked
        self.wrong: list[str] = []
        self._count = count
        self._seed = seed
        self._over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def start(self) -> None:
        """Let them begin."""
        self._thread.start()

    def finish(self) -> None:
        """Let each get its answer, then close."""
        self._over = True
        self._thread.join(2 * ANSWER_S)
        assert not self._thread.is_alive(), "clients do not end"

    async def _main(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        turn = 0
        while not self._over:
            if number >= self.active:
                await asyncio.sleep(0.02)
                continue
            well_s = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_S):
                    reader, writer = await asyncio.open_connection(*self.address)
            except OSError as error:  # TimeoutError is one
                # The manager holds the listeners, and it was not killed.
                self.wrong.append(f"no connection: {error!r}")
                continue
            turn += 1
            rounds = 1 if chance.random() < 0.25 else chance.randrange(2, 60)
            talk = Talk(self, f"{number}-{turn}", chance, reader, writer, well_s)
            with contextlib.suppress(OSError, EOFError):
                await talk.run(rounds)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def wants_more_of(self, rounds: int) -> bool:
        """Whether a conversation of so many more rounds goes on."""
        return rounds > 0 and not self._over


class Talk:
    """One connection."""

    def __init__(
        self,
        clients: Clients,
        name: str,
        chance: random.Random,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        well_s: float,
    ) -> None:
        self._clients = clients
        self._name = name
        self._chance = chance
        self._reader = reader
        self._writer = writer
        self._well_s = well_s
        self._worker: int | None = None
        self._count = 0
        self._closes = False

    async def run(self, rounds: int) -> None:
        """Ask so many times, then go."""
        while self._clients.wants_more_of(rounds):
            rounds -= 1
            if self._reader.at_eof():
                self._lose((), "ended at rest")
                return
            await self._ask(self._requests())
            if self._closes:
                self._clients.announced += 1
                return
            await asyncio.sleep(self._chance.choice((0.0, 0.002, 0.02, 0.1)))

    def _requests(self) -> list[tuple[str, bytes, bytes]]:
        """Return what is sent at once: identity, bytes and body of each request."""
        kinds = {"now": 8, "sleep": 12, "long": 1, "post": 4, "pipelined": 4, "stream": 2}
        (kind,) = self._chance.choices(list(kinds), list(kinds.values()))
        match kind:
            case "long":  # whoever leaves meanwhile takes so long for it, and may be taken back
                return [self._request(f"/sleep/{self._chance.randrange(200, 600)}")]
            case "sleep":
                return [self._request(f"/sleep/{self._chance.randrange(5, 60)}")]
            case "post":
                return [
                    self._request("/now", self._chance.randbytes(self._chance.randrange(90_000)))
                ]
            case "pipelined":
                body = self._chance.randbytes(self._chance.randrange(3_000))
                return [
                    self._request("/sleep/5"),
                    self._request("/now", body),
                    self._request("/now"),
                ]
            case "stream":
                return [self._request("/stream/2")]
        return [self._request("/now")]

    def _request(self, path: str, body: bytes = b"") -> tuple[str, bytes, bytes]:
        self._count += 1
        identity = f"{self._name}-{self._count}"
        method, length = ("POST", f"Content-Length: {len(body)}\r\n") if body else ("GET", "")
        head = f"{method} {path}?{identity} HTTP/1.1\r\nHost: test\r\n{length}\r\n"
        return identity, head.encode() + body, body

    async def _ask(self, requests: list[tuple[str, bytes, bytes]]) -> None:
        identities = [identity for identity, _, _ in requests]
        sent_s = time.monotonic()
        self._clients.sent.update(identities)
        try:
            async with asyncio.timeout(ANSWER_S):
                self._writer.write(b"".join(data for _, data, _ in requests))
                for identity, data, body in requests:
                    await self._answer(identity, data, body)
                    identities.remove(identity)
                    self._well_s = sent_s
        except TimeoutError:
            self._clients.wrong.append(f"{identities}: no answer in {ANSWER_S:g} s")
            raise
        except (OSError, EOFError) as error:
            self._lose(tuple(identities), repr(error))
            raise

    async def _answer(self, identity: str, data: bytes, body: bytes) -> None:
        head = await self._reader.readuntil(_HEAD_END)
        length = _LENGTH.search(head)
        if length is not None:
            content = await self._reader.readexactly(int(length[1]))
        else:
            content = await self._chunks()
        said, _, rest = content.partition(b"\n")
        streamed = b"/stream/" in data.partition(b"\r\n")[0]
        expected = b"".join(map(piece, range(PIECES))) if streamed else b""
        if not head.startswith(b"HTTP/1.1 200 ") or rest != expected:
            self._clients.wrong.append(f"{identity}: {head!r} {content[:200]!r}")
            raise EOFError
        answer = json.loads(said)
        if (answer["id"], answer["crc"]) != (identity, zlib.crc32(body)):
            self._clients.wrong.append(f"{identity} was asked, {answer} answered")
        self._worker = answer["pid"]
        self._clients.answered[identity] = answer["pid"]
        self._closes = self._closes or bool(_CLOSE.search(head))

    async def _chunks(self) -> bytes:
        content = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            content += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return content

    def _lose(self, identities: tuple[str, ...], what: str) -> None:
        now_s = time.monotonic()
        loss = Loss(identities, what, self._worker, self._well_s, now_s)
        self._clients.losses.append(loss)
