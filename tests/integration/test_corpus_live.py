"""Every file of tests/corpus, sent to a live server: whole, octet by octet, and in pieces."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from httpcore_srv.settings import HTTPLimits, HTTPSettings
from tests.corpus.cases import Case, invalid_cases, valid_cases
from tests.corpus.reading import Seen, Transcript, cut
from tests.corpus.reference import reference_read
from tests.integration.apps.witness import app
from tests.integration.conversations import Conversation, expected, hold, problems
from tests.integration.server_process import ServerProcess
from tests.unit.httpcore_srv.worker_in_thread import WorkerInThread, running

DEFAULT = HTTPLimits()
MANY_PIECES = 400  # a case is not sent in more: the largest ones would take as long as all others
WAYS = ("whole", "octets", "pieces")

# A request that shows that a connection is still good, and is the last one on it.
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LAST_SEEN = Seen(
    "GET",
    "/last",
    "/last",
    "",
    1,
    None,
    keep_alive=False,
    expects_continue=False,
    environ={"HTTP_HOST": "a", "HTTP_CONNECTION": "close"},
    whole=True,
)

# The option for each limit, and the smallest number that it takes.
OPTIONS = {
    "max_request_line_bytes": ("--max-request-line", 64),
    "max_header_bytes": ("--max-header-bytes", 256),
    "max_headers": ("--max-headers", 1),
    "max_body_bytes": ("--max-body", 1),
    "max_chunk_extension_bytes": ("--max-chunk-extension", 1),
    "max_chunk_overhead_bytes": ("--max-chunk-overhead", 64),
    "max_trailer_bytes": ("--max-trailer-bytes", 64),
}


def options(limits: HTTPLimits) -> list[str] | None:
    """Return the options of a server with these limits; None if there are none such."""
    arguments = []
    for item in dataclasses.fields(limits):
        value = getattr(limits, item.name)
        if value == getattr(DEFAULT, item.name):
            continue
        if item.name == "refuse_underscores":
            arguments += ["--underscore-headers", "refuse"]
        elif item.name == "pass_connect":
            arguments += ["--connect", "pass"]
        else:
            option, least = OPTIONS[item.name]
            if value < least:
                return None
            arguments += [option, str(value)]
    return arguments


Addresses = dict[HTTPLimits, tuple[str, int]]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A server for each set of limits: of its own process if options can say them."""
    found: Addresses = {}
    with contextlib.ExitStack() as ending:
        processes = {}
        for limits in {case.limits for case in valid_cases() + invalid_cases()}:
            arguments = options(limits)
            if arguments is None:
                worker = WorkerInThread(app, HTTPSettings(limits))
                ending.enter_context(running(worker))
                found[limits] = worker.listener.getsockname()
            else:
                directory = tmp_path_factory.mktemp("server")
                processes[limits] = start(directory, arguments)
                ending.callback(processes[limits].end)
        for limits, server in processes.items():
            server.wait_until_ready()
            found[limits] = server.address
        workers = {limits: server.workers() for limits, server in processes.items()}
        yield found
        for limits, server in processes.items():
            assert server.workers() == workers[limits], "a worker has died"
            assert server.status()["errors"] == 0, server.log()


def start(directory: Path, arguments: list[str]) -> ServerProcess:
    """Start a server without waiting for it."""
    target = "tests.integration.apps.witness:app"
    return ServerProcess(directory, (target, "--max-workers", "1", *arguments)).launch()


def pieces_of(case: Case, way: str) -> list[bytes]:
    """Cut what is sent for a case; at random places the same way in every run."""
    if way == "whole":
        return [case.data + LAST] if follows(case) else [case.data]
    if way == "octets":
        size = -(-len(case.data) // MANY_PIECES)
        pieces = [case.data[begin : begin + size] for begin in range(0, len(case.data), size)]
        return [*pieces, LAST] if follows(case) else pieces
    data = case.data + LAST if follows(case) else case.data
    seeded = random.Random(f"{case.name} 1")
    return cut(data, seeded.sample(range(1, len(data)), seeded.randint(1, min(len(data) - 1, 8))))


def follows(case: Case) -> bool:
    """Whether another request can be sent behind a case and means the same whatever that is."""
    return not case.truncated


def talk(addresses: Addresses, conversations: dict[HTTPLimits, list[Conversation]]) -> list[str]:
    """Hold all conversations; return what was wrong."""
    return [
        problem
        for limits, these in conversations.items()
        for conversation in hold(addresses[limits], these)
        if (problem := problems(conversation))
    ]


@pytest.mark.parametrize("way", WAYS)
def test_valid_requests_reach_the_application_as_they_were_meant(
    addresses: Addresses, way: str
) -> None:
    conversations: dict[HTTPLimits, list[Conversation]] = {}
    for case in valid_cases():
        requests = [*case.requests, LAST_SEEN] if follows(case) else [*case.requests]
        one = Conversation(case.name, pieces_of(case, way), Transcript(requests))
        conversations.setdefault(case.limits, []).append(one)
    assert talk(addresses, conversations) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_fault_is_answered_and_nothing_behind_it(addresses: Addresses, way: str) -> None:
    conversations: dict[HTTPLimits, list[Conversation]] = {}
    for case in invalid_cases():
        transcript = reference_read(case.data, case.limits)
        assert transcript.status == case.status
        assert len(expected(transcript)[0]) <= case.after
        one = Conversation(case.name, pieces_of(case, way), transcript)
        conversations.setdefault(case.limits, []).append(one)
    assert talk(addresses, conversations) == []
