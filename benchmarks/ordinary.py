"""Clients as a server wishes them, that check every byte of every answer: for `crowd`.

None of their connections may end otherwise than they want it or were told.
"""

from __future__ import annotations

import random
import time
import zlib
from typing import Final

from benchmarks.answer import Answer
from benchmarks.crowd import Kind, Receive, Rest, Script, Send, Wrong
from benchmarks.hostile import get, post
from benchmarks.stress_app import crc_of_pieces

REQUESTS: Final = 20  # over one kept connection
STREAM_BYTES: Final = 1 << 20
_STREAM_CRC: Final = crc_of_pieces(STREAM_BYTES)
_PAUSE_S: Final = 0.05
_MOST_BODY_BYTES: Final = 200_000
_MOST_CHUNKS: Final = 12
_MOST_CHUNK_BYTES: Final = 100_000


def kept(number: int, chance: random.Random) -> Script:
    """Ask again and again over one connection; every answer names its question."""
    for turn in range(REQUESTS):
        said = f"{number}-{turn}-{chance.random()}"
        yield Send(get(f"/echo?{said}"), requests=1)
        answer = yield Receive()
        if _checked(answer).start != said.encode():
            raise Wrong(f"asked {said}, answered {answer.start!r}")
        if answer.closes:
            return
        yield Rest(_PAUSE_S)


def fresh(number: int, chance: random.Random) -> Script:
    """Ask once, and say so."""
    said = f"{number}-{chance.random()}"
    yield Send(get(f"/echo?{said}", "Connection: close"), requests=1)
    answer = yield Receive()
    if _checked(answer).start != said.encode():
        raise Wrong(f"asked {said}, answered {answer.start!r}")
    if not answer.closes:
        raise Wrong("the answer does not say that the connection ends")


def poster(number: int, chance: random.Random) -> Script:
    """Send bodies of a known length."""
    for _ in range(REQUESTS):
        body = chance.randbytes(chance.randrange(_MOST_BODY_BYTES))
        yield Send(post("/upload", body), requests=1)
        answer = yield Receive()
        _check_upload(answer, body)
        if answer.closes:
            return
        yield Rest(_PAUSE_S)


def chunker(number: int, chance: random.Random) -> Script:
    """Send bodies in chunks, with pauses between them; some do not fit into memory."""
    for _ in range(REQUESTS // 4):
        body = b""
        yield Send(b"POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(chance.randrange(_MOST_CHUNKS)):
            piece = chance.randbytes(chance.randrange(1, _MOST_CHUNK_BYTES))
            body += piece
            yield Send(b"%x\r\n%b\r\n" % (len(piece), piece))
            yield Rest(_PAUSE_S / 2)
        yield Send(b"0\r\n\r\n", requests=1)
        answer = yield Receive()
        _check_upload(answer, body)
        if answer.closes:
            return


def streamer(number: int, chance: random.Random) -> Script:
    """Ask for an answer from a generator."""
    for _ in range(REQUESTS // 4):
        yield Send(get(f"/stream?bytes={STREAM_BYTES}"), requests=1)
        answer = yield Receive()
        if (_checked(answer).length, answer.crc) != (STREAM_BYTES, _STREAM_CRC):
            raise Wrong(f"{answer.length} bytes of a stream, CRC {answer.crc:#x}")
        if answer.closes:
            return
        yield Rest(_PAUSE_S)


def file_reader(length: int, crc: int) -> Kind:
    """Return the kind that asks for a file of this length and CRC-32."""

    def script(number: int, chance: random.Random) -> Script:
        for _ in range(REQUESTS // 4):
            yield Send(get("/file"), requests=1)
            answer = yield Receive()
            if (_checked(answer).length, answer.crc) != (length, crc):
                raise Wrong(f"{answer.length} bytes of a file, CRC {answer.crc:#x}")
            if answer.closes:
                return
            yield Rest(_PAUSE_S)

    return Kind("file-reader", script, is_good=True)


def sleeper(wave_s: float) -> Kind:
    """Return the kind that asks for what takes its time, all at once every `wave_s` seconds.

    So threads and workers are needed, and then they are not.
    """

    def script(number: int, chance: random.Random) -> Script:
        for _ in range(REQUESTS):
            yield Send(get(f"/sleep?ms={chance.randrange(5, 60)}"), requests=1)
            answer = yield Receive()
            if _checked(answer).start != b"slept":
                raise Wrong(f"asked to sleep, answered {answer.start!r}")
            if answer.closes:
                return

    def waves(number: int, chance: random.Random) -> Script:
        yield Send(get("/"), requests=1)  # a connection that never asks is closed soon
        answer = yield Receive()
        if not _checked(answer).closes:
            yield Rest(wave_s - time.monotonic() % wave_s)
            yield from script(number, chance)

    return Kind("sleeper", waves, pause_s=0.1, is_good=True)


def _check_upload(answer: Answer, body: bytes) -> None:
    if _checked(answer).start != b"%d %d" % (len(body), zlib.crc32(body)):
        raise Wrong(f"sent {len(body)} bytes, arrived: {answer.start!r}")


def _checked(answer: Answer) -> Answer:
    if answer.status != 200:
        raise Wrong(f"status {answer.status}")
    return answer


ORDINARY: Final = {
    kind.name: kind
    for kind in (
        Kind("kept", kept, is_good=True),
        Kind("fresh", fresh, pause_s=0.1, is_good=True),
        Kind("poster", poster, is_good=True),
        Kind("chunker", chunker, is_good=True),
        Kind("streamer", streamer, is_good=True),
    )
}
