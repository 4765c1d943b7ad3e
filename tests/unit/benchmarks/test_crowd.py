"""A crowd does what its scripts say, and tells apart who ended a connection."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from benchmarks.crowd import Crowd, Drain, Kind, Receive, Reset, Rest, Script, Send, Take, Wrong
from tests.unit.benchmarks.local_server import (
    OK,
    PATIENCE_S,
    Handler,
    answering,
    read_all,
    read_head,
    served,
)

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
Let = Callable[..., Crowd]


@pytest.fixture
def let() -> Iterator[Let]:
    """Let clients of one script loose on a handler: `let(script, handler, is_good=True)`."""
    opened: list[Crowd] = []
    servers = []

    def loose(
        steps: Callable[[], Script], handler: Handler, count: int = 1, **more: object
    ) -> Crowd:
        server = served(handler)
        servers.append(server)
        batched = bool(more.pop("batched", False))
        crowd = Crowd(server.__enter__(), batched=batched)
        opened.append(crowd)

        def script(number: int, chance: random.Random) -> Script:
            return steps()

        crowd.add(Kind("kind", script, pause_s=0.01, **more), count)  # type: ignore[arg-type]
        return crowd

    yield loose
    for crowd in opened:
        crowd.close()
    for server in servers:
        server.__exit__(None, None, None)


def ask() -> Script:
    yield Send(REQUEST, requests=1)
    answer = yield Receive()
    assert answer.status == 200


def until(crowd: Crowd, condition: Callable[[], bool]) -> None:
    assert crowd.run_for(PATIENCE_S, condition), crowd.tallies


@pytest.mark.parametrize("batched", [False, True])
def test_clients_are_answered_end_and_come_again(let: Let, batched: bool) -> None:
    crowd = let(ask, answering(OK), count=3, is_good=True, batched=batched)
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.ended >= 9)
    assert (tally.failed, tally.cut, tally.refused) == (0, 0, 0)
    assert tally.statuses == {200: tally.answers}
    assert tally.requests >= tally.answers >= tally.ended
    assert crowd.of(good=True) == [tally]
    assert crowd.of(good=False) == []


def test_who_leaves_does_not_come_again(let: Let) -> None:
    crowd = let(ask, answering(OK), count=5)
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.ended >= 5)
    crowd.is_leaving = True
    until(crowd, lambda: tally.open == 0)
    opened = tally.opened
    crowd.run_for(0.1)
    assert tally.opened == opened


@pytest.mark.parametrize("is_good", [True, False])
def test_a_connection_that_the_server_ends_is_cut(let: Let, is_good: bool) -> None:
    crowd = let(ask, read_head, is_good=is_good)  # read, then closed
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.cut >= 2)
    assert (tally.failed > 0) is is_good
    assert not tally.failures or "closed, at Receive" in tally.failures[0]


def test_an_answer_that_breaks_off_is_a_failure(let: Let) -> None:
    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(OK[:-1])

    crowd = let(ask, handler, is_good=True)
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.failed > 0)
    assert "middle of an answer" in tally.failures[0]


def test_what_a_script_finds_wrong_is_a_failure(let: Let) -> None:
    def script() -> Script:
        yield from ask()
        raise Wrong("not what I wanted")

    crowd = let(script, answering(OK), is_good=True)
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.failed > 0)
    assert "not what I wanted" in tally.failures[0]


def test_an_answer_that_does_not_come_is_a_failure(let: Let) -> None:
    def script() -> Script:
        yield Send(REQUEST)
        yield Receive(timeout_s=0.05)

    crowd = let(script, read_all, is_good=True)
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.failed > 0)
    assert "no answer within 0.05 s" in tally.failures[0]


def test_an_answer_to_half_a_request_ends_the_connection(let: Let) -> None:
    def handler(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        read_all(sock)

    def script() -> Script:
        yield Send(REQUEST[:5])
        yield Rest(PATIENCE_S)

    crowd = let(script, handler)
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.cut >= 1)
    assert 408 in tally.statuses
    assert tally.failed == 0


def test_pipelined_answers_are_received_one_by_one(let: Let) -> None:
    got = []

    def script() -> Script:
        yield Send(REQUEST * 3, requests=3)
        for _ in range(3):
            answer = yield Receive()
            got.append(answer.status)

    crowd = let(script, answering(OK), is_good=True)
    until(crowd, lambda: crowd.tallies["kind"].ended >= 1)
    assert got[:3] == [200] * 3


def test_a_slow_reader_takes_no_more_than_it_wants(let: Let) -> None:
    taken = []

    def script() -> Script:
        yield Send(REQUEST)
        for _ in range(5):
            yield Rest(0.02, unread=True)
            taken.append((yield Take(1000)))

    crowd = let(script, answering(OK + b"x" * 100_000), receive_buffer=4096)
    until(crowd, lambda: crowd.tallies["kind"].ended >= 1)
    assert max(taken) == 1000


def test_much_is_sent_however_slowly_it_is_taken(let: Let) -> None:
    length = 5_000_000
    sizes = []

    def handler(sock: socket.socket) -> None:
        left = length
        while left:
            left -= len(sock.recv(min(left, 300_000)))
        sizes.append(length)
        sock.sendall(OK)

    def script() -> Script:
        yield Send(b"x" * length)
        yield Receive()

    crowd = let(script, handler, is_good=True)
    tally = crowd.tallies["kind"]
    until(crowd, lambda: tally.ended >= 1)
    assert sizes[0] == length
    assert tally.failed == 0


def test_a_drain_ends_when_the_server_closes(let: Let) -> None:
    def handler(sock: socket.socket) -> None:
        sock.sendall(b"anything at all")

    def script() -> Script:
        yield Drain(PATIENCE_S)

    crowd = let(script, handler)
    until(crowd, lambda: crowd.tallies["kind"].ended >= 1)
    assert crowd.tallies["kind"].cut == 0


def test_a_reset_reaches_the_server_as_one() -> None:
    seen = threading.Event()

    def handler(sock: socket.socket) -> None:
        try:
            read_all(sock)
        except ConnectionResetError:
            seen.set()

    def script(number: int, chance: random.Random) -> Script:
        yield Send(b"x")
        yield Reset()

    with served(handler) as address:
        crowd = Crowd(address)
        crowd.add(Kind("kind", script), 1)
        until(crowd, lambda: crowd.tallies["kind"].ended >= 1)
        crowd.close()
        assert seen.wait(PATIENCE_S)


def test_a_refused_connection_is_counted_and_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    crowd = Crowd(address)
    crowd.add(Kind("kind", lambda number, chance: ask(), pause_s=0.01), 1)
    until(crowd, lambda: crowd.tallies["kind"].refused >= 2)
    crowd.close()
    assert crowd.tallies["kind"].opened == 0


def test_a_crowd_is_settled_when_all_are_where_they_stay(let: Let) -> None:
    def script() -> Script:
        yield from ask()
        yield Rest(PATIENCE_S)

    crowd = let(script, answering(OK), count=10)
    assert not crowd.is_settled
    until(crowd, lambda: crowd.is_settled)
    assert (crowd.tallies["kind"].open, crowd.tallies["kind"].settled) == (10, 10)


def test_no_more_come_in_a_second_than_may(let: Let) -> None:
    with served(read_all) as address:
        crowd = Crowd(address, starts_per_s=10.0)
        crowd.add(Kind("kind", lambda number, chance: ask()), 50)
        until(crowd, lambda: crowd.tallies["kind"].opened >= 1)
        assert crowd.tallies["kind"].open < 50
        crowd.close()


def test_something_else_can_be_watched_beside_the_clients() -> None:
    ours, theirs = socket.socketpair()
    heard = []
    crowd = Crowd(("127.0.0.1", 1))
    with ours, theirs:
        crowd.watch(ours.fileno(), lambda: heard.append(ours.recv(10)))
        theirs.sendall(b"hello")
        until(crowd, lambda: bool(heard))
        crowd.close()
    assert heard == [b"hello"]
