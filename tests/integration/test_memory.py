"""Large bodies, large answers and idle connections do not live in the worker's memory.

`python -m benchmarks.memory` does the same with 500 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.answer import BadAnswer
from benchmarks.crowd import raise_descriptor_limit
from benchmarks.hostile import get
from benchmarks.memory import (
    MB,
    Address,
    Failed,
    download,
    idle_cost,
    rise_during,
    upload,
    worker_of,
    write_file,
)
from benchmarks.stress_app import FILE_VARIABLE, crc_of_pieces
from tests.integration.conftest import Serve

SIZE = 64 * MB
LIMIT = 16 * MB
PATIENT = 100 * MB  # bytes per second of a client that is slower than the server
IDLE = 500
FEW = 10  # connections: too few for the garbage collector to come by itself
IDLE_LIMIT_BYTES = 12_000  # for each connection; 3.7 KB with a small head, 6.5 KB with a browser's
APP = "benchmarks.stress_app:app"
ONE = ("--max-workers", "1", "--max-threads", "8")

Move = Callable[[Address, int], None]  # the file's CRC-32 is the number

MOVES: dict[str, Move] = {
    "upload": lambda address, crc: upload(address, SIZE),
    "patient upload": lambda address, crc: upload(address, SIZE, PATIENT),
    "generator": lambda address, crc: download(
        address, f"/stream?bytes={SIZE}", SIZE, crc_of_pieces(SIZE)
    ),
    "generator, patient client": lambda address, crc: download(
        address, f"/stream?bytes={SIZE}", SIZE, crc_of_pieces(SIZE), PATIENT
    ),
    "file": lambda address, crc: download(address, "/file", SIZE, crc),
    "file, patient client": lambda address, crc: download(address, "/file", SIZE, crc, PATIENT),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_large_transfer_does_not_raise_memory(serve: Serve, tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    crc = write_file(file, SIZE) if name.startswith("file") else 0
    server = serve(APP, *ONE, environ={FILE_VARIABLE: str(file)})
    pid = worker_of(server.address)
    rise = rise_during(pid, lambda: MOVES[name](server.address, crc))
    assert rise.looks > 0
    assert rise.before.pss > 0
    assert rise.pss < LIMIT
    assert rise.rss < LIMIT


def test_idle_connections_cost_little_and_are_all_let_go(serve: Serve) -> None:
    raise_descriptor_limit()
    server = serve(APP, *ONE)
    pid = worker_of(server.address)
    cost = idle_cost(server.address, pid, "idle", get("/"), IDLE)
    assert 0 < cost.bytes_each < IDLE_LIMIT_BYTES
    server.eventually(lambda status: status["connections"] == 0)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"408"),
        (get("/nowhere", "Connection: close"), b"404"),
        (get("/stream", "Connection: close"), b"200"),
    ],
    ids=["400", "bad chunk", "431", "408", "404", "stream, not read to its end"],
)
def test_what_a_connection_held_is_free_when_it_ends(
    serve: Serve, sent: bytes, status: bytes
) -> None:
    """Not when the garbage collector comes by: a head is 64 KB, and an attacker has many."""
    server = serve(APP, *ONE, "--header-timeout", "0.1")
    assert server.get("/unreachable").status == 200
    for _ in range(FEW):
        with server.connect() as sock:
            sock.sendall(sent)
            assert sock.recv(65536).startswith(b"HTTP/1.1 " + status)
    server.eventually(lambda state: state["connections"] == 0 and state["streams"] == 0)
    assert int(server.get("/unreachable").text) < FEW


def test_a_transfer_that_goes_wrong_is_not_taken_for_a_cheap_one(serve: Serve) -> None:
    server = serve(APP, *ONE)
    pid = worker_of(server.address)
    with pytest.raises((Failed, BadAnswer)):
        rise_during(pid, lambda: download(server.address, "/nowhere", SIZE, 0))
