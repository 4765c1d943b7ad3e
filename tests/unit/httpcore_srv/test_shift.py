"""A part of the active connections moves to a sibling; nobody notices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv import HTTPSettings, HTTPTimeouts
from httpcore_srv.parcel import MAX_HOPS
from httpcore_srv.ports import Order
from httpcore_srv.shift import ACTIVE_NS, PATIENCE_NS
from httpcore_srv.stream import Mode
from tests.fakes.worker import FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    Client,
    Echo,
    Gate,
    WorkerInThread,
    get,
    post,
    siblings,
)

SOME_SLOT = 3


class Pair:
    """Workers a and b; a is told to shift. Their clock stands still unless a test moves it."""

    def __init__(self, a: WorkerInThread, b: WorkerInThread, clock: FakeClock, gate: Gate) -> None:
        self.a = a
        self.b = b
        self.clock = clock
        self.gate = gate
        self.targets: list[int] = []
        send = a.siblings.send

        def note(message: bytes, fd: int, *, only_free: bool, target: int = -1) -> bool:
            if target >= 0:
                self.targets.append(target)
                assert only_free, "a shift may not swamp the sibling"
            return send(message, fd, only_free=only_free, target=target)

        a.siblings.send = note  # type: ignore[method-assign]

    def clients(self, count: int) -> list[Client]:
        """Return clients that have just been answered by a."""
        clients = [self.a.connect() for _ in range(count)]
        for client in clients:
            assert client.ask().text == "a / "
        self.a.until_at_rest()
        return clients

    def shift(self, share: float) -> None:
        """Give the order and wait until a has gone round with it."""
        self.a.slot.shift_order = (SOME_SLOT, share)
        self.a.until_next_round()
        self.a.until_next_round()

    def moved(self) -> int:
        return self.a.slot.moves[1]

    def answering(self, clients: list[Client]) -> str:
        """Ask with all; return who answered, a letter each."""
        return "".join(client.ask().text[0] for client in clients)


@contextlib.contextmanager
def pair(settings: HTTPSettings | None = None) -> Iterator[Pair]:
    clock, gate = FakeClock(), Gate()

    def make_app(name: str) -> Echo:
        return Echo(name, gate)

    with siblings(make_app, settings, clock_ns=clock) as (a, b):
        yield Pair(a, b, clock, gate)


def let_time_pass(both: Pair, seconds: float) -> None:
    both.a.pass_time(both.clock, seconds)
    both.a.until_next_round()


# --- how many ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "share", "moving"),
    [
        (8, 0.5, 4),
        (8, 0.25, 2),
        (4, 0.5, 2),
        (3, 0.5, 1),
        (2, 0.5, 1),
        (2, 0.45, 1),  # the sibling does a little something of its own
        (2, 0.2, 0),
        (1, 0.5, 0),
        (8, 0.0, 0),
        (8, 1.0, 8),
    ],
)
def test_the_share_that_was_ordered_moves(count: int, share: float, moving: int) -> None:
    with pair() as both:
        clients = both.clients(count)
        both.shift(share)
        assert both.moved() == moving
        assert both.targets == [SOME_SLOT] * moving
        both.b.until_connections(moving)
        assert sorted(both.answering(clients)) == ["a"] * (count - moving) + ["b"] * moving
        assert sorted(both.answering(clients)) == ["a"] * (count - moving) + ["b"] * moving


def test_it_is_over_when_so_many_have_moved() -> None:
    with pair() as both:
        clients = both.clients(8)
        both.shift(0.5)
        both.answering(clients)
        for _ in range(5):
            both.a.until_next_round()
        assert both.moved() == 4


def test_another_order_begins_anew() -> None:
    with pair() as both:
        clients = both.clients(8)
        both.shift(0.5)
        both.shift(0.5)
        assert both.moved() == 4 + 2
        both.b.until_connections(6)
        both.answering(clients)


# --- whose ---------------------------------------------------------------------------------------


def test_idle_connections_stay() -> None:
    with pair() as both:
        idle = both.clients(6)
        let_time_pass(both, 2 * ACTIVE_NS / 1e9)
        active = both.clients(4)
        both.shift(0.5)
        assert both.moved() == 2
        both.b.until_connections(2)
        assert sorted(both.answering(active)) == ["a", "a", "b", "b"]
        assert both.answering(idle) == "aaaaaa"


def test_where_all_are_idle_nothing_moves() -> None:
    with pair() as both:
        both.clients(6)
        let_time_pass(both, 2 * ACTIVE_NS / 1e9)
        both.shift(1.0)
        assert both.moved() == 0


@pytest.mark.parametrize("begun", [b"", get("/half")[:20]], ids=["silent", "half a head"])
def test_clients_that_have_asked_for_nothing_yet_stay(begun: bytes) -> None:
    # Their deadline is that of the head, which may be long after that of an idle connection.
    with pair(HTTPSettings(timeouts=HTTPTimeouts(keep_alive_s=5, header_s=60))) as both:
        asking = both.clients(2)
        new = [both.a.connect() for _ in range(4)]
        for client in new:
            client.send(begun)
        both.a.until_connections(6)
        let_time_pass(both, 0.4)
        both.shift(0.5)
        assert both.moved() == 1
        both.b.until_connections(1)
        assert sorted(both.answering(asking)) == ["a", "b"]


def test_a_request_that_is_on_the_wire_is_read_by_the_sibling() -> None:
    with pair() as both:
        clients = both.clients(2)
        # The loop sees requests and order in one batch, or the order first.
        both.a.slot.shift_order = (SOME_SLOT, 1.0)
        both.a.wake()
        for number, client in enumerate(clients):
            client.send(post("/", b"x" * 100_000 + b"%d" % number))
        for number, client in enumerate(clients):
            assert client.response().content.endswith(b"x%d" % number)
        both.b.until_connections(2)


def test_running_ones_move_when_they_come_to_rest() -> None:
    with pair(HTTPSettings(max_threads=4)) as both:
        both.a.use_pool()
        clients = both.clients(4)
        for client in clients:
            client.send(get("/wait"))
            both.gate.entered()
        both.shift(0.5)
        assert both.moved() == 0
        both.gate.open(4)
        for client in clients:
            assert client.response().text == "a /wait "
        both.a.until_at_rest()
        both.a.until_next_round()
        assert both.moved() == 2
        both.b.until_connections(2)
        assert sorted(both.answering(clients)) == ["a", "a", "b", "b"]


def test_those_that_wait_for_a_thread_move() -> None:
    with pair(HTTPSettings(max_threads=1)) as both:
        both.a.use_pool()
        both.b.siblings.free = False
        clients = both.clients(3)
        clients[0].send(get("/wait"))
        both.gate.entered()
        for client in clients[1:]:
            client.send(get("/"))
        both.a.until_waiting(2)
        # Only the shift may take them now.
        both.a.server.line.retry_siblings = lambda: None  # type: ignore[method-assign]
        both.b.siblings.free = True
        both.shift(0.7)
        assert [client.response().text for client in clients[1:]] == ["b / ", "b / "]
        both.a.until_waiting(0)
        both.gate.open()
        assert clients[0].response().text == "a /wait "


def test_closed_ones_are_skipped() -> None:
    with pair(HTTPSettings(max_threads=4)) as both:
        both.a.use_pool()
        clients = both.clients(4)
        for client in clients:
            client.send(get("/wait", "Connection: close" if client is clients[0] else "X: y"))
            both.gate.entered()
        both.shift(1.0)
        both.gate.open(4)
        for client in clients:
            assert client.response().status == 200
        clients[0].assert_closed()
        both.b.until_connections(3)
        assert both.moved() == 3
        assert both.answering(clients[1:]) == "bbb"


def test_one_that_may_not_move_again_does_not_hold_up_the_others() -> None:
    with pair() as both:
        clients = both.clients(4)
        next(iter(both.a.server.streams.values())).hops = MAX_HOPS
        both.shift(0.5)
        assert both.moved() == 2
        both.b.until_connections(2)
        both.answering(clients)


# --- when it ends ------------------------------------------------------------------------------


def held_up(both: Pair) -> list[Client]:
    """Return four clients with running requests, half of which are to move."""
    both.a.use_pool()
    clients = both.clients(4)
    for client in clients:
        client.send(get("/wait"))
        both.gate.entered()
    both.shift(0.5)
    assert both.a.server._shift.under_way
    return clients


def finished(both: Pair, clients: list[Client]) -> int:
    """Let the held ones come to rest; return how many have moved."""
    both.gate.open(len(clients))
    for client in clients:
        assert client.response().text == "a /wait "
    both.a.until_at_rest()
    both.a.until_next_round()
    return both.moved()


@pytest.mark.parametrize(("share_of_patience", "moving"), [(0.9, 2), (1.1, 0)])
def test_an_order_holds_for_four_tenths_of_a_second(share_of_patience: float, moving: int) -> None:
    with pair(HTTPSettings(max_threads=4)) as both:
        clients = held_up(both)
        let_time_pass(both, share_of_patience * PATIENCE_NS / 1e9)
        assert finished(both, clients) == moving


def busy(both: Pair) -> None:
    both.b.siblings.free = False


def gone(both: Pair) -> None:
    both.a.siblings.target = None


@pytest.mark.parametrize("change", [busy, gone])
def test_when_the_sibling_takes_no_more_it_is_asked_again_at_the_next_look(
    change: Callable[[Pair], None],
) -> None:
    with pair(HTTPSettings(max_threads=4)) as both:
        clients = held_up(both)
        change(both)
        assert finished(both, clients) == 0
        assert set(both.targets) == {SOME_SLOT}
        both.b.siblings.free = True
        both.a.siblings.target = both.b.siblings
        both.a.until_next_round()
        assert both.moved() == 2
        assert sorted(both.answering(clients)) == list("aabb")


def test_a_refused_connection_is_served_here_as_before() -> None:
    with pair() as both:
        clients = both.clients(4)
        busy(both)
        both.shift(0.5)
        assert both.moved() == 0
        for _ in range(3):
            assert both.answering(clients) == "aaaa"


def test_a_worker_that_leaves_hands_over_everything_to_anybody() -> None:
    with pair(HTTPSettings(max_threads=4)) as both:
        clients = held_up(both)
        both.a.order(Order.DRAIN)
        both.a.slot.until(lambda: "draining" in both.a.slot.states)
        both.gate.open(4)
        for client in clients:
            assert client.response().text == "a /wait "
        both.a.until_left()
        assert both.targets == []
        both.b.until_connections(4)
        assert both.answering(clients) == "bbbb"


def test_nothing_is_moved_that_is_being_refused() -> None:
    with pair() as both:
        clients = both.clients(3)
        clients[0].send(b"rubbish\r\n\r\n")
        assert clients[0].response().status == 400
        both.a.slot.until(
            lambda: any(s.mode is Mode.LINGERING for s in list(both.a.server.streams.values()))
        )
        both.shift(1.0)
        assert both.moved() == 2
        both.b.until_connections(2)
        assert both.answering(clients[1:]) == "bb"
