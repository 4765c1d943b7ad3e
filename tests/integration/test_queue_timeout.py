"""--queue-timeout: who has waited too long for a thread is told so, and not run any more."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.raw_client import RawClient, incidents, request
from tests.integration.server_process import Answer, Background, Hold, ServerProcess
from tests.integration.side_by_side import SideBySide, Stage

play = SideBySide()
outcomes = play.outcomes


def serve(stage: Stage, workers: int, timeout_s: float) -> ServerProcess:
    """Start workers that run one request at a time."""
    limits = ("--min-workers", str(workers), "--max-workers", str(workers), "--max-threads", "1")
    return stage.serve("slow_answers:app", *limits, "--queue-timeout", str(timeout_s))


def make_hold(stage: Stage, name: str = "hold") -> Hold:
    """Return a place where a request stands until the test lets it go."""
    hold = Hold(stage.directory / name)
    stage.callback(hold.close)
    return hold


def held_at(path: Path) -> str:
    """Return the target of a request that stands there."""
    return f"/hold?fifo={path}"


def assert_turned_away(client: RawClient) -> None:
    """It was told to come again, and that the connection ends."""
    answer = client.response()
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["connection"] == "close"
    assert client.rest() == b""


@play
def test_who_waits_too_long_for_a_thread_is_answered_503(stage: Stage) -> None:
    server = serve(stage, 1, 0.4)
    hold = make_hold(stage)
    half, full = b"GET /mark?token=half HTTP/1.1\r\n", b"Host: test\r\n\r\n"
    begun = stage.client(server)
    begun.send(half)  # so this one will have been read, while the others wait unread
    kept = stage.client(server)
    assert kept.get("/ready").text == "ready\n"
    server.eventually(lambda s: s["connections"] == 2)
    running = Background(server, held_at(hold.path))
    hold.wait()
    begun.send(full)
    kept.ask("/mark?token=kept")
    upload = stage.client(server)
    upload.send(request("/mark?token=upload", "POST", body=b"x" * 10_000))
    pipelined = stage.client(server)
    pipelined.send(request("/mark?token=a") + request("/mark?token=b"))
    for client in (begun, kept):
        assert_turned_away(client)
    # Not accepted while there is no thread, so their time begins when they are.
    assert upload.is_open() == pipelined.is_open() == True  # noqa: E712
    hold.release()
    assert isinstance(running.result(), Answer)
    assert upload.response().text == "upload" * 100
    assert [pipelined.response().text for _ in "ab"] == ["a" * 100, "b" * 100]
    assert incidents(server) == {"queue_timeout": 2}
    assert server.status()["requests"] == 1 + 1 + 3


@play
def test_who_gets_a_thread_in_time_is_run(stage: Stage) -> None:
    server = serve(stage, 1, 20)
    hold = make_hold(stage)
    kept = [stage.client(server) for _ in range(3)]
    for client in kept:
        assert client.get("/ready").status == 200
    running = Background(server, held_at(hold.path))
    hold.wait()
    for number, client in enumerate(kept):
        client.ask(f"/mark?token={number}")
    server.eventually(lambda s: s["waiting"] == 3)
    hold.release()
    assert isinstance(running.result(), Answer)
    assert [client.response().text for client in kept] == [f"{n}" * 100 for n in range(3)]
    # That they have waited is forgotten: the next request has its own time.
    assert [client.get("/ready").text for client in kept] == ["ready\n"] * 3
    assert incidents(server) == {}


@play
def test_a_connection_is_not_held_to_a_wait_that_is_over(stage: Stage) -> None:
    server = serve(stage, 1, 1)
    hold = make_hold(stage)
    kept = stage.client(server)
    assert kept.get("/ready").status == 200
    running = Background(server, held_at(hold.path))
    hold.wait()
    kept.ask("/mark?token=kept")
    server.eventually(lambda s: s["waiting"] == 1)
    hold.release()
    assert isinstance(running.result(), Answer)
    assert kept.response().text == "kept" * 100
    kept.ask("/late?ms=1500")
    assert kept.response().body == b"late" * 2000
    assert kept.get("/ready").text == "ready\n"
    assert incidents(server) == {}


@play
def test_an_unread_request_moves_to_a_sibling_that_has_a_thread(stage: Stage) -> None:
    server = serve(stage, 2, 20)
    first, second = make_hold(stage, "first"), make_hold(stage, "second")
    running = Background(server, held_at(first.path))
    first.wait()
    kept = stage.client(server)
    here = json.loads(kept.get("/whoami").body)["pid"]  # the other worker, the only one free
    other = stage.begin(server, held_at(second.path))
    second.wait()
    kept.ask("/whoami")
    server.eventually(lambda s: s["waiting"] == 1)
    first.release()
    answer = running.result()
    assert isinstance(answer, Answer)
    there = json.loads(answer.body)["pid"]
    assert there != here
    assert json.loads(kept.response().body)["pid"] == there
    assert server.eventually(lambda s: s["waiting"] == 0)["handed_over"] >= 1
    second.release()
    assert json.loads(other.response().body)["pid"] == here
    assert incidents(server) == {}
