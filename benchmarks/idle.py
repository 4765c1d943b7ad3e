"""The kind `idle`: what thousands of idle keep-alive connections cost.

The rate of a load is measured without them, beside them, and without them again, in one server
process. Each has made one request. They are kept by this process, which sleeps while the load
generator runs, so that they cost nothing on the client's side.

Whatever would make a server close them or take no more is set to a value at which it does not:
by OPTIONS and by the server's own options for a crowd; all others stay as shipped. A server
that cannot hold them all has no figures: its failure says how far it came.
"""

from __future__ import annotations

import dataclasses
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from benchmarks.answer import Answer, AnswerReader, BadAnswer
from benchmarks.cores import Cores, pinned
from benchmarks.crowd import raise_descriptor_limit
from benchmarks.family import of_family
from benchmarks.hostile import get
from benchmarks.load import choose_generator
from benchmarks.processes import ServerError, running
from benchmarks.sample import Outcome
from benchmarks.scenarios import Scenario
from benchmarks.server import Server

CROWD: Final = "crowd"  # what the scenario needs: see Server.options
MANY: Final = 10_000
FEW: Final = 10  # what the memory with all of them is compared with
PATIENCE_S: Final = 60.0  # for all of them to be opened, and to be closed
_BATCH: Final = 64  # opened together: less than any server's backlog
_SOURCES: Final = 8  # addresses they come from: TIME-WAIT of an earlier turn takes ports
_IP_BIND_ADDRESS_NO_PORT: Final = 24  # linux/in.h; the module socket does not have it
_RECEIVE_BYTES: Final = 65536
_REST_S: Final = 0.2  # for a server to come to rest before its memory is read
_KEEP_S: Final = 600  # longer than any turn

# Server -> what it needs beside its options for a crowd. This project's keeps idle connections
# for 75 s as it is shipped; no other has a limit of its own that can be set.
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "gunicorn": ("--keep-alive", str(_KEEP_S)),
    "waitress": (f"--channel-timeout={_KEEP_S}",),
    # It accepts no more connections than its backpressure; the timeout counts from an answer.
    "granian": ("--backpressure", str(2 * MANY), "--http1-header-read-timeout", "60000"),
    "cheroot": ("--timeout", str(_KEEP_S)),
}


def measure(
    server: Server, scenario: Scenario, cores: Cores, seconds: float, warm_up_s: float
) -> Outcome:
    """Measure one server; takes three times `seconds` and what the connections take.

    Raises: ServerError if it cannot hold MANY connections; LoadError.
    """
    raise_descriptor_limit()  # which servers inherit
    generator = choose_generator()
    with running(patient(server), scenario, cores.server) as child, pinned(cores.load):

        def rate() -> float:
            measured, _ = generator.run(child.port, scenario, seconds, cores.load)
            errors.append(measured.errors)
            return measured.rate

        errors: list[int] = []
        address = ("127.0.0.1", child.port)
        if warm_up_s:
            generator.run(child.port, scenario, warm_up_s, cores.load)
        before = rate()
        with idle_connections(address, scenario.path, FEW):
            pss_few = _pss(child.pid)
        with idle_connections(address, scenario.path, MANY) as socks:
            pss_many = _pss(child.pid)
            beside = rate()
            see_all_open(socks)
            memory_mb = child.memory_mb()
        _wait_until_closed(child.pid)
        after = rate()
    without = (before + after) / 2
    figures = {
        "rate": beside,
        "kept": beside / without if without else 0.0,
        "idle_bytes": (pss_many - pss_few) / (MANY - FEW),
        "memory_mb": memory_mb,
    }
    return Outcome(figures, errors=sum(errors))


def patient(server: Server) -> Server:
    """Return the server with its OPTIONS."""
    options = (*server.options.get(CROWD, ()), *OPTIONS.get(server.name, ()))
    return dataclasses.replace(server, options={**server.options, CROWD: options})


@contextmanager
def idle_connections(
    address: tuple[str, int], path: str, count: int
) -> Iterator[list[socket.socket]]:
    """Keep `count` connections, each of which has had one answer, open inside the block.

    Raises: ServerError if there cannot be so many.
    """
    socks: list[socket.socket] = []
    deadline_s = time.monotonic() + PATIENCE_S
    try:
        while len(socks) < count:
            begin = len(socks)
            answered = 0
            try:
                for _ in range(min(_BATCH, count - begin)):
                    socks.append(_ask(address, path, len(socks), deadline_s))
                for sock in socks[begin:]:
                    _hear(sock, deadline_s)
                    answered += 1
            except (OSError, BadAnswer) as error:
                kept = begin + answered
                raise ServerError(f"{kept} of {count} idle connections, then: {error}") from error
        yield socks
    finally:
        for sock in socks:
            sock.close()


def see_all_open(socks: list[socket.socket]) -> None:
    """Raises: ServerError if the server has closed some, or said something unasked."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    if gone := len(poll.poll(0)):
        raise ServerError(f"closed {gone} of {len(socks)} idle connections")


def _ask(address: tuple[str, int], path: str, number: int, deadline_s: float) -> socket.socket:
    """Connect and ask. Raises: OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left(deadline_s))
        # The port is chosen at connect(), when it is known that it may be in use elsewhere.
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + number % _SOURCES}", 0))
        sock.connect(address)
        sock.sendall(get(path))
    except OSError:
        sock.close()
        raise
    return sock


def _hear(sock: socket.socket, deadline_s: float) -> None:
    """Wait for an answer after which the connection stays. Raises: OSError, BadAnswer."""
    sock.settimeout(_left(deadline_s))
    answer = _receive(sock)
    if answer.status != 200:
        raise BadAnswer(f"answered {answer.status}")
    if answer.closes:
        raise BadAnswer("answered that it closes the connection")


def _receive(sock: socket.socket) -> Answer:
    reader = AnswerReader()
    while data := sock.recv(_RECEIVE_BYTES):
        reader.feed(data)
        if (answer := reader.take()) is not None:
            return answer
    raise BadAnswer("closed without an answer")


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError(f"no more within {PATIENCE_S:g} s")
    return left_s


def _pss(pid: int) -> int:
    """Return the memory of all of a server's processes, bytes.

    Not the worker's alone: a page that it no longer shares with its parent is one page more,
    of which its own share shows only a part.
    """
    time.sleep(_REST_S)
    return of_family(pid).pss


def _wait_until_closed(pid: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while of_family(pid).descriptors > MANY // 2 and time.monotonic() < deadline_s:
        time.sleep(_REST_S)
