"""Streamed responses: on lanes of their own, so that ordinary requests never wait for them."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from tests.integration.raw_client import (
    SMALL_BUFFER,
    RawClient,
    all_threads_serve,
    incidents,
    ordinary_requests_are_answered,
)
from tests.integration.server_process import ServerProcess, ask, eventually
from tests.integration.side_by_side import SideBySide, Stage

PIECE_BYTES = 1 << 16
BIG = 128  # pieces: more than all the kernel's buffers on the way to a receiver that rests
ONE_WORKER = ("--max-workers", "1", "--max-threads", "2")

play = SideBySide()
outcomes = play.outcomes


def content(pieces: int) -> bytes:
    """Return what /big sends."""
    return b"".join(b"%08d" % number + bytes(PIECE_BYTES - 8) for number in range(pieces))


def events(count: int) -> bytes:
    """Return what /events and /ticks send."""
    return b"".join(b"data: %d\n\n" % number for number in range(count))


def serve(stage: Stage, *arguments: str) -> ServerProcess:
    """Start a server of streams that write down, when they are closed, how they went."""
    record = str(stage.directory / "record")
    return stage.serve("slow_streams:app", *ONE_WORKER, *arguments, RECORD=record)


def noted(stage: Stage) -> list[dict[str, Any]]:
    """Return what the streams that have been closed wrote down."""
    record = stage.directory / "record"
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def notes(stage: Stage, count: int) -> list[dict[str, Any]]:
    """Wait until so many streams have been closed; return what they wrote down."""
    return eventually(lambda: found if len(found := noted(stage)) >= count else [])


def streams_do_not_starve_ordinary_requests(stage: Stage, server: ServerProcess) -> None:
    """Fill the server with streams of every kind, ask for something else, and end them."""
    stalled = [stage.begin(server, f"/big?count={BIG}", SMALL_BUFFER) for _ in range(10)]
    server.eventually(lambda s: s["streams"] == 10)
    ordinary_requests_are_answered(server)
    late = [stage.begin(server, "/events?first=1500&count=2") for _ in range(3)]
    steady = [stage.begin(server, "/events?ms=100&count=20") for _ in range(2)]
    server.eventually(lambda s: s["streams"] == 15)
    ordinary_requests_are_answered(server)

    status = json.loads(server.command("status", "--json").stdout)
    assert status["busy_threads"] == status["waiting"] == 0
    assert 10 <= status["streams"] <= 15
    assert status["streams"] == status["workers"][0]["streams"]
    for stream, count in [*((each, 2) for each in late), *((each, 20) for each in steady)]:
        answer = stream.response()
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.body == events(count)

    for stream in stalled[:3]:
        assert stream.response().body == content(BIG)
    for stream in stalled[3:]:
        stream.close()
    closed = notes(stage, 15)
    assert {note["threads"] for note in closed} == {1}
    assert [note["pieces"] for note in closed if note["path"] == "events"].count(20) == 2
    assert [note["pieces"] for note in closed if note["path"] == "big"].count(BIG) == 3
    status = server.eventually(lambda s: s["streams"] == 0)
    assert status["errors"] == 0
    all_threads_serve(server, 2)


@play
def test_streams_of_a_quick_application_do_not_starve_ordinary_requests(stage: Stage) -> None:
    streams_do_not_starve_ordinary_requests(stage, serve(stage))


@play
def test_streams_in_the_pool_do_not_starve_ordinary_requests(stage: Stage) -> None:
    server = serve(stage)
    assert server.get("/nap").status == 200
    streams_do_not_starve_ordinary_requests(stage, server)


@play
def test_a_response_that_lasts_is_a_stream_whatever_its_head_says(stage: Stage) -> None:
    server = serve(stage)
    # As many as there are threads: until they count as streams, nobody else is served.
    ticks = [stage.begin(server, "/ticks?ms=100&count=35") for _ in range(2)]
    ordinary_requests_are_answered(server)
    server.eventually(lambda s: s["streams"] == 2 and s["busy_threads"] == 0)
    all_threads_serve(server, 2)
    assert [each.response().body for each in ticks] == [events(35)] * 2
    assert [note["threads"] for note in notes(stage, 2)] == [1, 1]
    server.eventually(lambda s: s["streams"] == 0)


def who_has_no_lane_is_cut_when_it_takes_nothing(stage: Stage, *limits: str, lanes: int) -> None:
    """Have one client that reads slowly and two that do not read at all."""
    server = serve(stage, "--max-streams", str(lanes), *limits)
    slow = stage.begin(server, f"/big?count={BIG}", 1 << 16)
    slow.pause_s = 0.02
    if lanes:
        server.eventually(lambda s: s["streams"] == 1)
    with ThreadPoolExecutor(1) as reader:
        answer = reader.submit(slow.response)
        stalled = [stage.begin(server, f"/big?count={BIG}", SMALL_BUFFER) for _ in range(2)]
        ordinary_requests_are_answered(server)
        # It was slow, and never stood still: with a lane or without, it gets all of it.
        assert answer.result().body == content(BIG)
    assert sorted(note["pieces"] == BIG for note in notes(stage, 3)) == [False, False, True]
    for each in stalled:
        assert len(each.received()) < len(content(BIG))
    server.eventually(lambda s: s["streams"] == s["busy_threads"] == 0)
    all_threads_serve(server, 2)
    assert incidents(server) == {"stalled": 2}


@play
def test_who_has_no_lane_is_cut_when_it_takes_nothing(stage: Stage) -> None:
    who_has_no_lane_is_cut_when_it_takes_nothing(stage, lanes=1)


@play
def test_without_lanes_whoever_takes_nothing_is_cut_after_the_write_timeout(stage: Stage) -> None:
    who_has_no_lane_is_cut_when_it_takes_nothing(stage, "--write-timeout", "0.7", lanes=0)


@play
def test_with_one_thread_there_is_none_beside_it(stage: Stage) -> None:
    record = str(stage.directory / "record")
    one = ("--max-workers", "1", "--max-threads", "1")
    server = stage.serve("slow_streams:app", *one, RECORD=record)
    stream = stage.begin(server, "/events?ms=100&count=12")
    assert stream.head().status == 200
    server.eventually(lambda s: s["busy_threads"] == 1)
    assert server.get("/ready").text == "ready\n"
    # Lanes are threads: an application that can have but one has been left alone with it.
    assert len(noted(stage)) == 1
    assert server.status()["streams"] == 0


@play
def test_streams_end_in_their_own_time_on_reload_and_on_stop(stage: Stage) -> None:
    server = serve(stage)

    def begin(generation: int) -> list[RawClient]:
        reading = [stage.begin(server, "/events?ms=100&count=20") for _ in range(2)]
        resting = stage.begin(server, f"/big?count={BIG}", SMALL_BUFFER)
        server.eventually(
            lambda s: (
                {"generation": generation, "streams": 3}.items()
                <= {key: s["workers"][-1][key] for key in ("generation", "streams")}.items()
            )
        )
        return [*reading, resting]

    first = begin(1)
    before = server.workers()
    with closing(server.connection()) as connection:
        server.send(signal.SIGHUP)
        server.eventually(lambda s: s["kill_pending"] == s["busy"] + s["idle"] == 1)
        assert ask(connection, "/ready").text == "ready\n"
    assert set(before) < set(server.workers())
    second = begin(2)
    server.send(signal.SIGTERM)
    server.wait_for_log("stopping gracefully")
    bodies = [each.response().body for each in (*first, *second)]
    assert bodies == [events(20), events(20), content(BIG)] * 2
    assert server.wait() == 0
    assert {note["threads"] for note in notes(stage, 6)} == {1}
    assert "in time" not in server.log()


@play
def test_a_stream_without_end_is_not_waited_for_beyond_the_graceful_timeout(stage: Stage) -> None:
    server = serve(stage, "--graceful-timeout", "0.5")
    stream = stage.begin(server, "/events?ms=100&count=10000")
    server.eventually(lambda s: s["streams"] == 1)
    assert server.stop(within_s=10) == 0
    assert len(stream.received()) < len(events(1000))
