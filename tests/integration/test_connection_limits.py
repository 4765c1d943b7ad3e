"""--max-connections and --max-connections-per-address: who is let in, and who makes room."""

from __future__ import annotations

from collections.abc import Sequence

from tests.integration.raw_client import RawClient, incidents, request, wait_for_incident
from tests.integration.server_process import Hold, ServerProcess, eventually
from tests.integration.side_by_side import SideBySide, Stage

MOST = 40

play = SideBySide()
outcomes = play.outcomes


def serve(stage: Stage, *arguments: str) -> ServerProcess:
    """Start one worker."""
    return stage.serve("slow_answers:app", "--max-workers", "1", *arguments)


def idle(stage: Stage, server: ServerProcess, count: int) -> list[RawClient]:
    """Open connections that are kept; the longest idle comes first."""
    clients = [stage.client(server) for _ in range(count)]
    for client in clients:
        assert client.get("/ready").text == "ready\n"
    return clients


def still_open(clients: Sequence[RawClient]) -> list[RawClient]:
    """Return those that were not closed; the others were closed without a word, not reset."""
    closed = [client for client in clients if not client.is_open()]
    assert all(client.rest() == b"" for client in closed)
    return [client for client in clients if client not in closed]


@play
def test_those_that_are_idle_longest_make_room(stage: Stage) -> None:
    server = serve(stage, "--max-connections", str(MOST))
    hold = Hold(stage.directory / "hold")
    stage.callback(hold.close)
    busy = stage.client(server)
    half = stage.client(server)
    for client in (busy, half):
        assert client.get("/ready").text == "ready\n"
    clients = idle(stage, server, MOST - 2)
    # Used again, so that now it is the one that is idle for the shortest time.
    assert clients[0].get("/ready").text == "ready\n"
    by_idleness = [*clients[1:], clients[0]]
    busy.ask(f"/hold?fifo={hold.path}")
    hold.wait()
    half.send(b"GET /mark?token=half HTTP/1.1\r\n")
    server.eventually(lambda s: s["connections"] == MOST)
    new = stage.client(server)
    assert new.get("/ready").text == "ready\n"
    left = eventually(lambda: (kept := still_open(by_idleness)) != by_idleness and kept)
    assert left
    assert left == by_idleness[-len(left) :]
    assert incidents(server) == {"idle_closed": len(by_idleness) - len(left)}
    assert [client.get("/ready").text for client in left] == ["ready\n"] * len(left)
    # Whoever is owed something, or owes it, was let alone.
    hold.release()
    assert busy.response().status == 200
    half.send(b"Host: test\r\n\r\n")
    assert half.response().text == "half" * 100


@play
def test_as_many_as_may_be_are_all_kept(stage: Stage) -> None:
    server = serve(stage, "--max-connections", "12")
    clients = idle(stage, server, 12)
    assert [client.get("/ready").text for client in clients] == ["ready\n"] * 12
    assert incidents(server) == {}


@play
def test_a_connection_that_never_asked_anything_makes_room_too(stage: Stage) -> None:
    server = serve(stage, "--max-connections", "4", "--keep-alive", "30")
    silent = [stage.client(server) for _ in range(4)]
    server.eventually(lambda s: s["connections"] == 4)
    # New ones are spared for a second; by then these are new no more.
    later = stage.client(server)
    assert later.get("/ready").text == "ready\n"
    assert len(still_open(silent)) < 4
    assert incidents(server)["idle_closed"] >= 1


@play
def test_while_all_are_busy_a_new_one_waits_and_is_served_when_one_ends(stage: Stage) -> None:
    server = serve(stage, "--max-connections", "4")
    busy = [stage.client(server) for _ in range(4)]
    for client in busy:
        client.send(b"GET /mark?token=busy HTTP/1.1\r\n")
    server.eventually(lambda s: s["connections"] == 4)
    new = [stage.begin(server, f"/mark?token={number}") for number in range(3)]
    wait_for_incident(server, "accept_paused")
    server.eventually(lambda s: s["accept_queue"] == 3)
    assert all(client.is_open() for client in new)
    busy[0].close()
    assert new[0].response().text == "0" * 100
    for client in busy[1:]:
        client.send(b"Host: test\r\n\r\n")
        assert client.response().text == "busy" * 100
    assert [client.response().text for client in new[1:]] == ["1" * 100, "2" * 100]
    assert server.log().count("accepting no connections for now") == 1


@play
def test_too_many_from_one_address_are_turned_away(stage: Stage) -> None:
    server = serve(stage, "--max-connections-per-address", "3", "--linger-timeout", "0.5")
    kept = idle(stage, server, 3)
    for _ in range(2):
        with RawClient(server) as surplus:
            surplus.ask("/ready")
            answer = surplus.response()
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["connection"] == "close"
            assert surplus.rest() == b""
    assert incidents(server) == {"turned_away": 2}
    assert stage.client(server, source="127.0.0.2").get("/ready").text == "ready\n"
    assert [client.get("/ready").text for client in kept] == ["ready\n"] * 3
    kept.pop().close()
    server.eventually(lambda s: s["connections"] == 3)
    assert stage.client(server).get("/ready").text == "ready\n"
    assert incidents(server) == {"turned_away": 2}


@play
def test_who_is_turned_away_and_stays_does_not_count_for_long(stage: Stage) -> None:
    server = serve(stage, "--max-connections-per-address", "2", "--linger-timeout", "0.5")
    kept = idle(stage, server, 2)
    stubborn = stage.client(server)
    stubborn.send(request("/ready"))
    assert stubborn.response().status == 503
    kept.pop().close()
    server.eventually(lambda s: s["connections"] == 1)  # without a word from `stubborn`
    assert stage.client(server).get("/ready").text == "ready\n"
