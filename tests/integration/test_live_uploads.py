"""Large uploads to a real server: read while they come, and never at the cost of others."""

from __future__ import annotations

import hashlib
import json

from tests.integration.raw_client import (
    RawClient,
    incidents,
    ordinary_requests_are_answered,
    request,
)
from tests.integration.server_process import ServerProcess, eventually
from tests.integration.side_by_side import SideBySide, Stage

LARGE = b"".join(b"%015d\n" % number for number in range(1 << 18))  # 4 MiB, no two pieces alike

play = SideBySide()
outcomes = play.outcomes


def serve(stage: Stage, *arguments: str) -> ServerProcess:
    """Start one worker of two threads."""
    limits = ("--max-workers", "1", "--max-threads", "2")
    return stage.serve("slow_bodies:app", *limits, *arguments)


def begin(stage: Stage, server: ServerProcess, path: str = "/upload") -> RawClient:
    """Send half of an upload."""
    client = stage.client(server)
    client.send(request(path, "POST", {"Content-Length": str(len(LARGE))}))
    client.send(LARGE[: len(LARGE) // 2])
    return client


def begin_some(stage: Stage, server: ServerProcess, count: int) -> list[RawClient]:
    """Send halves of uploads, each when the thread of the one before has stepped aside."""
    clients = []
    for number in range(1, count + 1):
        clients.append(begin(stage, server))
        server.eventually(lambda status, number=number: status["streams"] == number)
    return clients


def assert_uploaded(client: RawClient) -> None:
    """The answer to an upload says that every byte of it was read."""
    answer = client.response()
    assert answer.status == 200, answer
    assert json.loads(answer.body) == [len(LARGE), hashlib.sha256(LARGE).hexdigest()]


@play
def test_large_uploads_arrive_to_the_byte_and_the_connection_is_kept(stage: Stage) -> None:
    server = serve(stage)
    client = stage.client(server)
    for method in ("POST", "PUT", "POST"):
        client.send(request("/upload", method, body=LARGE))
        assert_uploaded(client)
        assert client.get("/ready").text == "ready\n"
    # The next request behind a large body is not a part of it.
    client.send(request("/upload", "POST", body=LARGE) + request("/ready") + request("/ready"))
    assert_uploaded(client)
    assert client.response().text == client.response().text == "ready\n"
    assert incidents(server) == {}, "a temporary file was made"


@play
def test_many_slow_uploads_leave_the_threads_to_quick_requests(stage: Stage) -> None:
    server = serve(stage)
    slow = begin_some(stage, server, 8)
    ordinary_requests_are_answered(server)
    assert server.status()["busy_threads"] == 0
    for client in slow:
        client.send(LARGE[len(LARGE) // 2 :])
    for client in slow:
        assert_uploaded(client)
    server.eventually(lambda status: status["streams"] == status["busy_threads"] == 0)
    assert incidents(server) == {}


@play
def test_without_a_place_aside_an_upload_waits_in_a_file(stage: Stage) -> None:
    server = serve(stage, "--max-streams", "1")
    first, second = begin(stage, server), begin(stage, server)
    eventually(lambda: incidents(server) == {"spooled": 1})
    for client in (first, second):
        client.send(LARGE[len(LARGE) // 2 :])
        assert_uploaded(client)


@play
def test_an_early_answer_can_be_read(stage: Stage) -> None:
    server = serve(stage)
    client = begin(stage, server, "/ready")
    client.send(LARGE[len(LARGE) // 2 :] + request("/ready"))
    answer = client.response()
    assert (answer.status, answer.text) == (200, "ready\n")
    assert answer.headers["connection"] == "close"
    assert client.rest() == b"", "what followed the body was answered"


@play
def test_a_client_that_goes_frees_its_thread_and_is_no_error(stage: Stage) -> None:
    server = serve(stage)
    clients = begin_some(stage, server, 4)
    for client in clients:
        client.close()
    server.eventually(lambda status: status["streams"] == status["connections"] == 0)
    assert "error" not in server.log()
    ordinary_requests_are_answered(server)


@play
def test_an_upload_that_stops_is_answered_408(stage: Stage) -> None:
    server = serve(stage, "--body-timeout", "0.3")
    client = begin(stage, server)
    answer = client.response()
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert client.rest() == b""
    assert incidents(server) == {"too_late": 1}
    assert "error" not in server.log()
