"""Spoilt requests to a live server: right answers, no crash, no hang, and nothing left behind.

Some thousands as a test; as many as you like, from any seed, by
`python -m tests.integration.test_mutations_live 100000 [SEED]`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from httpcore_srv.settings import HTTPLimits
from tests.corpus.cases import connections
from tests.corpus.mutation import mutated
from tests.corpus.reading import cut
from tests.corpus.reference import reference_read
from tests.integration.conftest import Serve
from tests.integration.conversations import Conversation, expected, hold, problems
from tests.integration.server_process import ServerProcess, eventually

TARGET = "tests.integration.apps.witness:app"
MOST_THREADS = 4
WORKERS = 2
ARGUMENTS = (
    *(TARGET, "--min-workers", str(WORKERS), "--max-workers", str(WORKERS)),
    *("--max-threads", str(MOST_THREADS)),
)
INCIDENTS = {  # as what the readout counts them
    **dict.fromkeys((400, 417, 501, 505), "bad_request"),
    **dict.fromkeys((414, 431), "head_too_large"),
    413: "body_too_large",
}
FIRST_SEED = 1
IN_A_TEST = 2500
LAST = b"GET /last HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"

# Limits, and the options of a server that has them.
SETTINGS: dict[str, tuple[HTTPLimits, tuple[str, ...]]] = {
    "default": (HTTPLimits(), ()),
    "tight": (
        HTTPLimits(
            max_request_line_bytes=64,
            max_header_bytes=256,
            max_headers=4,
            max_body_bytes=40,
            max_chunk_extension_bytes=8,
            max_chunk_overhead_bytes=64,
            max_trailer_bytes=64,
            refuse_underscores=True,
            pass_connect=True,
        ),
        (
            *("--max-request-line", "64", "--max-header-bytes", "256", "--max-headers", "4"),
            *("--max-body", "40", "--max-chunk-extension", "8", "--max-chunk-overhead", "64"),
            *("--max-trailer-bytes", "64", "--underscore-headers", "refuse", "--connect", "pass"),
            *("--body-buffer", "4"),  # nearly every body goes to a file
        ),
    ),
}


@dataclass
class Tally:
    """What came of the conversations."""

    wrong: list[str] = field(default_factory=list)
    answered: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    without_answer: int = 0

    def add(self, conversation: Conversation) -> None:
        """Judge one conversation."""
        requests, status = expected(conversation.transcript)
        self.answered += len(requests)
        if status is not None:
            self.refused[status] += 1
        elif not requests:
            self.without_answer += 1
        if problem := problems(conversation):
            self.wrong.append(problem)


@dataclass(frozen=True)
class Footprint:
    """What the workers hold: by process id, the open files; and the threads of all."""

    files: dict[int, int]
    threads: int


def footprint(server: ServerProcess) -> Footprint:
    """Count what the workers have open, once they are there and at rest."""
    server.eventually(lambda s: s["idle"] == WORKERS)
    pids = sorted(server.workers())
    return Footprint(
        {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids},
        sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
    )


def spoilt(seeds: range, limits: HTTPLimits) -> Iterator[Conversation]:
    """Make a conversation of each seed.

    Half of them are sent in pieces; behind half of them comes a good request, after which
    (if that is what it still is) the server has to close.
    """
    everything = connections()
    for seed in seeds:
        random = Random(seed)
        data = mutated(random, everything) + random.choice((b"", LAST))
        places = [random.randint(0, len(data)) for _ in range(random.choice((0, 0, 1, 6)))]
        yield Conversation(f"seed {seed}", cut(data, places), reference_read(data, limits))


def run(server: ServerProcess, seeds: range, limits: HTTPLimits) -> Tally:
    """Hold a conversation for each seed."""
    tally = Tally()
    for conversation in hold(server.address, spoilt(seeds, limits)):
        tally.add(conversation)
    return tally


def assert_nothing_left(server: ServerProcess, before: Footprint, *tallies: Tally) -> None:
    """The same workers, with the same files open; every request and every refusal counted."""
    status = server.eventually(lambda s: s["connections"] == s["busy"] == s["waiting"] == 0)
    assert (status["restarts"], status["errors"], status["lost"]) == (0, 0, 0), server.log()
    server.eventually(lambda s: s["requests"] == sum(tally.answered for tally in tallies))
    refused = sum((tally.refused for tally in tallies), Counter[int]())
    counted = dict.fromkeys(status["incidents"], 0)
    for code, number in refused.items():
        counted[INCIDENTS[code]] += number
    server.eventually(lambda s: {**s["incidents"], "spooled": 0} == counted)
    eventually(lambda: footprint(server).files == before.files, hint=lambda: f"{before}")
    # A thread that was added for a busy moment leaves after ten idle seconds.
    assert footprint(server).threads <= before.threads + WORKERS * MOST_THREADS
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", SETTINGS)
def test_spoilt_requests_are_answered_as_the_reference_reads_them(serve: Serve, name: str) -> None:
    limits, options = SETTINGS[name]
    server = serve(*ARGUMENTS, *options)
    before = footprint(server)
    tally = run(server, range(FIRST_SEED, FIRST_SEED + IN_A_TEST), limits)
    assert tally.wrong == []
    # Not all of one kind, or the test would prove little.
    assert tally.answered > IN_A_TEST / 10
    assert tally.refused.keys() >= ({400, 413, 414, 417, 431, 501, 505} if options else {400, 413})
    assert tally.without_answer > IN_A_TEST / 100
    assert_nothing_left(server, before, tally)


def main(count: int, first_seed: int) -> int:
    """Run as many as asked against each server; say what came of it."""
    wrong = 0
    for name, (limits, options) in SETTINGS.items():
        with tempfile.TemporaryDirectory() as directory:
            server = ServerProcess(Path(directory), (*ARGUMENTS, *options)).start()
            try:
                tally = report(server, range(first_seed, first_seed + count), limits, name)
            finally:
                server.end()
            wrong += len(tally.wrong)
            first_seed += count
    return 1 if wrong else 0


def report(server: ServerProcess, seeds: range, limits: HTTPLimits, name: str) -> Tally:
    """Hold a conversation for each seed and print what came of it."""
    before = footprint(server)
    warming = run(server, seeds[:IN_A_TEST], limits)  # caches fill, threads come
    memory = sum(worker["uss"] for worker in server.status()["workers"])
    begun_s = time.monotonic()
    tally = run(server, seeds, limits)
    took_s = time.monotonic() - begun_s
    print("\n".join(tally.wrong[:20]))
    print(f"{name} limits: {len(seeds)} connections, seeds from {seeds.start}, {took_s:.0f} s")
    print(f"  {tally.answered} requests answered, refused: {dict(tally.refused)},")
    print(f"  {tally.without_answer} connections without an answer, {len(tally.wrong)} wrong")
    assert_nothing_left(server, before, warming, tally)
    # Of those that were added, one a worker stays: --min-threads.
    most = before.threads + WORKERS
    eventually(lambda: footprint(server).threads <= most, hint=lambda: f"{before}")
    growth = sum(worker["uss"] for worker in server.status()["workers"]) - memory
    print(f"  descriptors as before, threads too or one more each, memory {growth / 1024:+.0f} KiB")
    return tally


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(numbers + [IN_A_TEST, FIRST_SEED][len(numbers) :])))
