"""Large bodies, both ways: in memory within bounds, else in files that have no name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tests.integration.raw_client import (
    SMALL_BUFFER,
    RawClient,
    incidents,
    ordinary_requests_are_answered,
    request,
    wait_for_incident,
)
from tests.integration.server_process import ServerProcess, eventually
from tests.integration.side_by_side import SideBySide, Stage

PIECE_BYTES = 1 << 16
CHUNKED = {"Transfer-Encoding": "chunked"}

play = SideBySide()
outcomes = play.outcomes


def serve(stage: Stage, *arguments: str) -> ServerProcess:
    """Start one worker with a directory for its temporary files."""
    place = stage.directory / "bodies"
    place.mkdir()
    limits = ("--max-workers", "1", "--max-threads", "4", "--temp-dir", str(place))
    return stage.serve("slow_bodies:app", *limits, *arguments)


def spooled(stage: Stage, server: ServerProcess) -> list[str]:
    """Return the temporary files that the worker has open; none of them has a name."""
    place = stage.directory / "bodies"
    assert os.listdir(place) == []
    links = json.loads(server.get("/files").body)[0]
    found = [link for link in links if link.startswith(f"{place}/")]
    assert all(link.endswith(" (deleted)") for link in found)
    return found


def pieces(mark: int, count: int) -> Iterator[bytes]:
    """Yield what /large and /generated send."""
    for number in range(count):
        yield b"%08d%08d" % (mark, number) + bytes(PIECE_BYTES - 16)


def checksum(content: bytes) -> list[object]:
    """Return what /upload says of this content."""
    return [len(content), hashlib.sha256(content).hexdigest()]


def uploaded(client: RawClient) -> object:
    """Read the answer to an upload."""
    answer = client.response()
    assert answer.status == 200, answer
    return json.loads(answer.body)


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had (VmHWM of proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


@play
def test_many_unfinished_uploads_share_the_memory_and_spill_into_files(stage: Stage) -> None:
    server = serve(stage, "--body-buffer", "64k", "--max-buffered", "64k")
    contents = [bytes([65 + number]) * 40_000 for number in range(12)]
    clients = [stage.client(server) for _ in contents]
    for number, (client, content) in enumerate(zip(clients, contents, strict=True)):
        if number % 2:
            client.send(request("/upload", "POST", {"Content-Length": "40000"}) + content[:20_000])
        else:
            client.send(request("/upload", "POST", CHUNKED) + b"9c40\r\n" + content[:20_000])
    wait_for_incident(server, "spooled", 9)
    assert 9 <= len(spooled(stage, server)) <= 12
    ordinary_requests_are_answered(server)
    for number, (client, content) in enumerate(zip(clients, contents, strict=True)):
        client.send(content[20_000:] + (b"" if number % 2 else b"\r\n0\r\n\r\n"))
        assert uploaded(client) == checksum(content)
    assert spooled(stage, server) == []
    # What was taken is there again: this one stays in memory while it is incomplete.
    before = incidents(server)["spooled"]
    content = b"x" * 50_000
    clients[0].send(request("/upload", "POST", {"Content-Length": "50000"}) + content[:40_000])
    assert spooled(stage, server) == []
    clients[0].send(content[40_000:])
    assert uploaded(clients[0]) == checksum(content)
    assert incidents(server) == {"spooled": before}


@play
def test_a_body_beyond_the_buffer_waits_in_a_file(stage: Stage) -> None:
    server = serve(stage, "--body-buffer", "64k", "--max-streams", "0")
    client, aborted = stage.client(server), stage.client(server)
    for content in (b"a" * 65_536, b"b" * 65_537, b"c" * 1_000_000):
        client.send(request("/upload", "POST", body=content))
        assert uploaded(client) == checksum(content)
    assert incidents(server) == {"spooled": 2}
    aborted.send(request("/upload", "POST", {"Content-Length": "1000000"}) + b"d" * 100_000)
    wait_for_incident(server, "spooled", 3)
    assert len(spooled(stage, server)) == 1
    aborted.close()
    eventually(lambda: not spooled(stage, server))
    assert client.get("/ready").text == "ready\n"


@play
def test_what_is_very_large_goes_both_ways_in_little_memory(stage: Stage) -> None:
    server = serve(stage)
    assert server.get("/ready").status == 200
    (pid,) = server.workers()
    before = peak_bytes(pid)
    client, received = stage.client(server), hashlib.sha256()
    sent, count = hashlib.sha256(), 1024  # 64 MiB
    client.send(request("/upload", "PUT", CHUNKED))
    for piece in pieces(1, count):
        client.send(b"10000\r\n" + piece + b"\r\n")
        sent.update(piece)
    client.send(b"0\r\n\r\n")
    assert uploaded(client) == [count * PIECE_BYTES, sent.hexdigest()]
    client.ask(f"/generated?mark=1&count={count}")
    assert client.head().headers["transfer-encoding"] == "chunked"
    for _ in range(count):
        assert client.read(7) == b"10000\r\n"
        received.update(client.read(PIECE_BYTES))
        assert client.read(2) == b"\r\n"
    assert client.read(5) == b"0\r\n\r\n"
    assert received.digest() == sent.digest()
    assert peak_bytes(pid) - before < 32 << 20
    assert spooled(stage, server) == []


@play
def test_responses_that_nobody_reads_spill_into_files_and_arrive_whole(stage: Stage) -> None:
    server = serve(stage, "--max-buffered", "14m")
    readers = [
        stage.begin(server, f"/large?mark={mark}&count=128", SMALL_BUFFER) for mark in range(7)
    ]
    server.eventually(lambda s: s["requests"] == 7)
    files = spooled(stage, server)
    # Some of it was taken by the sockets; of the rest at most three fit into memory.
    assert 4 <= len(files) < 7
    assert incidents(server) == {"spooled": len(files)}
    status = server.status()
    assert status["busy_threads"] == status["streams"] == 0
    for mark, reader in enumerate(readers[:5]):
        assert reader.response().body == b"".join(pieces(mark, 128))
        assert reader.get("/ready").text == "ready\n"
    for reader in readers[5:]:
        reader.close()
    eventually(lambda: not spooled(stage, server))


@play
def test_without_a_place_for_files_only_who_needs_one_is_refused(stage: Stage) -> None:
    server = serve(stage, "--body-buffer", "64k", "--max-buffered", "1m", "--max-streams", "0")
    place = stage.directory / "bodies"
    place.rmdir()
    for _ in range(3):
        client = stage.client(server)
        client.send(request("/upload", "POST", {"Content-Length": "200000"}) + bytes(100_000))
        answer = client.response()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["connection"] == "close"
        assert client.rest() == b""
        small = stage.client(server)
        small.send(request("/upload", "POST", body=bytes(1000)))
        assert uploaded(small) == checksum(bytes(1000))
    reader = stage.begin(server, "/large?mark=1&count=256", SMALL_BUFFER)
    wait_for_incident(server, "no_room", 4)
    assert len(reader.received()) < 256 * PIECE_BYTES
    log = server.log()
    assert log.count("cannot keep a request body in a temporary file") == 1
    assert log.count("cannot keep a response in a temporary file") == 1
    assert "Traceback" not in log
    place.mkdir()
    content = b"x" * 200_000
    client = stage.client(server)
    client.send(request("/upload", "POST", body=content))
    assert uploaded(client) == checksum(content)


@play
def test_heads_beyond_the_memory_are_refused_and_the_others_served(stage: Stage) -> None:
    server = serve(stage, "--max-buffered", "64k")
    half = b"GET /ready HTTP/1.1\r\nHost: test\r\nX-Long: " + b"x" * 10_000
    clients = [stage.client(server) for _ in range(12)]
    for client in clients:
        client.send(half)
    wait_for_incident(server, "no_room", 6)
    refused = 0
    for client in clients:
        if client.is_open():
            client.send(b"\r\n\r\n")
            assert client.response().text == "ready\n"
        else:
            answer = client.response()
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            assert int(answer.headers["retry-after"]) > 0
            refused += 1
    assert refused == 6
    ordinary_requests_are_answered(server)
    assert incidents(server) == {"no_room": 6}
