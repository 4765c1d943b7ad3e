"""`smart_http.client_gone`: a long request can ask whether anybody waits for its answer."""

from __future__ import annotations

import json
import os
import socket
import struct
from pathlib import Path

from tests.integration.raw_client import RawClient, ordinary_requests_are_answered
from tests.integration.server_process import ServerProcess, eventually
from tests.integration.side_by_side import SideBySide, Stage

RESET = struct.pack("ii", 1, 0)  # struct linger: close() sends a reset

play = SideBySide()
outcomes = play.outcomes


def serve(stage: Stage, *arguments: str) -> ServerProcess:
    """Start one worker."""
    return stage.serve("slow_answers:app", "--max-workers", "1", *arguments)


def close(client: RawClient) -> None:
    """Go, and leave nothing."""
    client.close()


def reset(client: RawClient) -> None:
    """Go without a good-bye."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def say_no_more(client: RawClient) -> None:
    """Close the sending side; the server cannot tell that from a close."""
    client.sock.shutdown(socket.SHUT_WR)


def seen(note: Path) -> dict[str, bool]:
    """Wait for what a request wrote down."""
    eventually(note.exists, hint=lambda: f"nobody noticed: {os.listdir(note.parent)}")
    answer: dict[str, bool] = json.loads(note.read_text())
    return answer


@play
def test_a_client_that_waits_is_there(stage: Stage) -> None:
    server = serve(stage)
    client = stage.client(server)
    assert [client.get("/there").text for _ in range(3)] == ["false"] * 3
    assert client.get("/late?ms=50").status == 200  # so that the next runs in the pool
    assert [client.get("/there").text for _ in range(3)] == ["false"] * 3


@play
def test_a_client_that_goes_is_gone(stage: Stage) -> None:
    server = serve(stage)
    for where in ("inline", "pool"):
        for number, go in enumerate((close, reset, say_no_more)):
            for view in ("gone", "gone_streaming"):
                note = stage.directory / f"{where}-{number}-{view}"
                client = stage.begin(server, f"/{view}?note={note}")
                eventually(note.with_name(f"{note.name}.begun").exists)
                assert not note.exists()
                go(client)
                assert seen(note) == {"first": False, "last": True}
        # The requests above have themselves driven the server into its pool; quick ones in
        # a row bring it back.
        ordinary_requests_are_answered(server)


@play
def test_a_call_that_never_sleeps_sees_it_on_the_thread_that_leads(stage: Stage) -> None:
    server = serve(stage)
    note = stage.directory / "note"
    client = stage.begin(server, f"/gone?busy=1&note={note}")
    eventually(note.with_name("note.begun").exists)
    client.close()
    assert seen(note)["last"]
    ordinary_requests_are_answered(server)


@play
def test_a_client_that_left_at_once_is_gone_from_the_beginning(stage: Stage) -> None:
    server = serve(stage)
    kept = stage.client(server)
    for number in range(3):
        note = stage.directory / f"note{number}"
        # Bytes and end-of-file are both there when the server looks.
        client = stage.begin(server, f"/gone?note={note}")
        client.close()
        assert seen(note)["last"]
        assert kept.get("/there").text == "false"


@play
def test_a_request_that_was_answered_504_learns_that_nobody_waits(stage: Stage) -> None:
    server = serve(stage, "--request-timeout", "0.3", "--max-threads", "8")
    note = stage.directory / "note"
    client = stage.begin(server, f"/gone?note={note}")
    assert client.response().status == 504
    client.close()
    assert seen(note) == {"first": False, "last": True}
    server.eventually(lambda s: s["written_off"] == 0)
