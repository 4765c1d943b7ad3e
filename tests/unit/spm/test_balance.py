"""Who gives connections to whom; and the order on its way to the worker."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest

from spm.balance import FULL, GAP, Balance, Shift, plan_shift
from spm.observation import Observation, WorkerSeen, WorkerState
from spm.scoreboard import SHIFT, Scoreboard, unpack_shift
from spm.siblings import Inboxes, Siblings
from spm.slot import Slot
from tests.fakes.server import FakeServer, serving
from tests.fakes.system import NS, FakeWorker, publish


def ready(slot: int, cpu: float, connections: int = 8, **fields: Any) -> WorkerSeen:
    return WorkerSeen(slot, WorkerState.READY, cpu=cpu, connections=connections, **fields)


def plan(*workers: WorkerSeen, generation: int = 0) -> Shift | None:
    return plan_shift(Observation(workers, generation=generation))


# --- the plan ----------------------------------------------------------------------------------


def test_half_of_what_one_has_more_than_the_other_moves() -> None:
    assert plan(ready(0, 1.0), ready(1, 0.0)) == Shift(0, 1, 0.5)
    assert plan(ready(0, 0.5), ready(1, 1.0)) == Shift(1, 0, 0.25)


def test_the_fullest_gives_to_the_freest() -> None:
    shift = plan(ready(0, 0.9), ready(1, 0.3), ready(2, 1.0), ready(3, 0.1))
    assert shift is not None
    assert (shift.source, shift.target) == (2, 3)


def test_of_equally_free_ones_that_with_the_fewest_connections_gets_them() -> None:
    shift = plan(ready(0, 1.0), ready(1, 0.1, 5), ready(2, 0.1, 3), ready(3, 0.1, 4))
    assert shift is not None
    assert shift.target == 2


def test_time_spent_waiting_for_a_core_is_load_too() -> None:
    assert plan(ready(0, 0.5, run_wait=0.5), ready(1, 0.1)) is not None
    assert plan(ready(0, 1.0), ready(1, 0.4, run_wait=0.4)) is None


@pytest.mark.parametrize(
    "workers",
    [
        (),
        (ready(0, 1.0),),
        (ready(0, FULL - 0.01), ready(1, 0.0)),
        (ready(0, 1.0), ready(1, 1.0 - GAP + 0.01)),
        (ready(0, 1.0, connections=1), ready(1, 0.0)),
        (ready(0, 1.0), ready(1, 0.0, worn="3 s of age")),
        (ready(0, 1.0, worn="3 s of age"), ready(1, 0.0)),
        (ready(0, 1.0), WorkerSeen(1, WorkerState.STARTING)),
        (ready(0, 1.0), WorkerSeen(1, WorkerState.DRAINING)),
        (ready(0, 1.0), WorkerSeen(1, WorkerState.WEDGED)),
        (ready(0, 1.0), ready(1, 0.0, generation=7)),
    ],
    ids=[
        "nobody",
        "alone",
        "not full",
        "nearly as full",
        "one connection",
        "target is to be replaced",
        "source is to be replaced",
        "starting",
        "draining",
        "silent",
        "other generation",
    ],
)
def test_nothing_moves(workers: tuple[WorkerSeen, ...]) -> None:
    assert plan(*workers) is None


# --- one after the other -----------------------------------------------------------------------


class Measurements:
    """A measurement every half second; `moved` connections go at each shift."""

    def __init__(self, moved: int = 1) -> None:
        self.balance = Balance()
        self.moved = moved
        self.now_s = 1000.0
        self.handed_out = {0: 0, 1: 0, 2: 0}
        self.shifts: list[tuple[float, int]] = []

    def look(self, *loads: float, seconds: float = 0.5) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 0.5
            crew = tuple(ready(slot, load) for slot, load in enumerate(loads))
            seen = Observation(crew)
            shift = self.balance.next_shift(seen, self.handed_out, self.now_s)
            if shift is not None:
                self.handed_out[shift.source] += self.moved
                self.shifts.append((self.now_s, shift.source))

    def pauses(self) -> list[float]:
        return [b - a for (a, _), (b, _) in itertools.pairwise(self.shifts)]


def test_as_long_as_shifts_help_they_follow_each_other_at_every_other_measurement() -> None:
    measurements = Measurements()
    measurements.look(1.0, 0.0, seconds=10)
    assert measurements.pauses() == [1.0] * 9


def test_where_nothing_moves_it_is_tried_ever_more_seldom() -> None:
    measurements = Measurements(moved=0)
    measurements.look(1.0, 0.0, seconds=300)
    pauses = measurements.pauses()
    assert pauses[:6] == [2, 4, 8, 16, 32, 60]
    assert set(pauses[6:]) == {60}


def test_a_load_that_goes_to_and_fro_with_its_one_client_does_so_ever_more_seldom() -> None:
    measurements = Measurements()
    for _ in range(300):
        # Whoever gave last is free now, whoever got it is full.
        gave = measurements.shifts[-1][1] if measurements.shifts else 1
        measurements.look(*((0.0, 1.0) if gave == 0 else (1.0, 0.0)))
    assert len(measurements.shifts) < 10


def test_when_something_moves_again_there_is_no_pause_any_more() -> None:
    measurements = Measurements(moved=0)
    measurements.look(1.0, 0.0, seconds=60)
    measurements.moved = 1
    measurements.look(1.0, 0.0, seconds=60)
    begin_s = measurements.now_s
    measurements.look(1.0, 0.0, seconds=10)
    assert sum(at_s > begin_s for at_s, _ in measurements.shifts) == 10


def test_another_full_worker_does_not_wait_for_one_that_cannot_be_helped() -> None:
    measurements = Measurements(moved=0)
    measurements.look(1.0, 0.0, 0.1, seconds=60)
    before = len(measurements.shifts)
    measurements.look(0.1, 0.0, 1.0, seconds=1)
    assert len(measurements.shifts) == before + 1


# --- the order on its way ------------------------------------------------------------------------


@pytest.fixture
def board() -> Scoreboard:
    board = Scoreboard(4, 2)
    board.assign(2, 7, 1, 0)
    return board


@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("target", [0, 3, 1023, 65535])
def test_an_order_arrives_as_it_was_given(board: Scoreboard, target: int, share: float) -> None:
    slot = Slot(board, 2, 7)
    board.shift(2, target, share)
    assert slot.shift() == (target, share)


def test_there_is_no_order_until_there_is_one_and_each_is_read_once(board: Scoreboard) -> None:
    slot = Slot(board, 2, 7)
    assert slot.shift() is None
    board.shift(2, 1, 0.5)
    assert slot.shift() is not None
    assert slot.shift() is None


def test_the_same_order_again_is_another_one(board: Scoreboard) -> None:
    slot = Slot(board, 2, 7)
    for _ in range(3):
        board.shift(2, 1, 0.5)
        assert slot.shift() == (1, 0.5)


def test_of_two_orders_the_later_one_holds(board: Scoreboard) -> None:
    slot = Slot(board, 2, 7)
    board.shift(2, 1, 0.5)
    board.shift(2, 3, 0.2)
    assert slot.shift() == (3, 0.2)
    assert slot.shift() is None


def test_what_the_worker_before_was_told_is_no_order_for_the_next_one(board: Scoreboard) -> None:
    board.shift(2, 1, 0.5)
    assert Slot(board, 2, 7).shift() is None
    board.clear(2)
    board.assign(2, 8, 1, 0)
    slot = Slot(board, 2, 8)
    assert slot.shift() is None
    board.shift(2, 1, 0.5)
    assert slot.shift() == (1, 0.5)


def test_a_share_that_is_none_becomes_one(board: Scoreboard) -> None:
    slot = Slot(board, 2, 7)
    board.shift(2, 1, 7.0)
    assert slot.shift() == (1, 1.0)
    board.shift(2, 1, -7.0)
    assert slot.shift() == (1, 0.0)


def test_the_serial_number_goes_round_without_touching_what_is_beside_it(
    board: Scoreboard,
) -> None:
    index = board.base(2) + SHIFT
    board.words[index] = (1 << 64) - 1
    slot = Slot(board, 2, 7)
    board.shift(2, 1, 0.5)
    assert slot.shift() == (1, 0.5)
    assert board.words[index] >> 32 == 0
    assert unpack_shift(board.words[index]) == (1, 0.5)
    before = board.words.tolist()
    board.shift(2, 1, 0.5)
    assert [i for i, word in enumerate(board.words.tolist()) if word != before[i]] == [index]


# --- the sibling that was named ----------------------------------------------------------------


class Crew:
    """Four ready workers; what goes out of slot 0 is seen by the inboxes."""

    def __init__(self) -> None:
        self.board = Scoreboard(4, 2)
        self.inboxes = Inboxes(4)
        self.slots = []
        for index in range(4):
            self.board.assign(index, 10 + index, 1, 0)
            slot = Slot(self.board, index, 10 + index)
            slot.started()
            slot.ready()
            publish(slot, NS, connections=1)
            self.slots.append(slot)

    def send(self, target: int, *, only_free: bool = True) -> list[int]:
        """Send something from slot 0; return in which inboxes it is."""
        siblings = Siblings(self.inboxes, self.board, 0, clock=lambda: NS)
        with open(os.devnull, "rb") as file:
            sent = siblings.send(b"x", file.fileno(), only_free=only_free, target=target)
        got = []
        for index in (*range(4), self.inboxes.relay):
            while (parcel := self.inboxes.take(index)) is not None:
                os.close(parcel[1])
                got.append(index)
        assert sent == bool(got)
        return got


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.inboxes.close()


@pytest.mark.parametrize("target", [1, 2, 3])
def test_what_is_for_one_sibling_goes_to_it_although_others_would_suit_better(
    crew: Crew, target: int
) -> None:
    publish(crew.slots[target], NS, busy=1, connections=500)
    for _ in range(5):
        assert crew.send(target) == [target]


def test_what_the_named_sibling_cannot_take_goes_to_nobody(crew: Crew) -> None:
    publish(crew.slots[1], NS, busy=2)
    assert crew.send(1) == []
    crew.slots[2].draining()
    assert crew.send(2) == []
    assert crew.send(0) == [], "oneself"
    assert crew.send(77) == [], "nobody"
    assert crew.send(3) == [3]


def test_it_does_not_go_to_another_server_either(crew: Crew) -> None:
    crew.board.set_relay(is_open=True)
    crew.slots[1].draining()
    assert crew.send(1) == []
    for slot in crew.slots:
        slot.draining()
    assert crew.send(1) == []
    assert crew.send(-1) == [crew.inboxes.relay]


# --- the manager ---------------------------------------------------------------------------------


def load(server: FakeServer, worker: FakeWorker, cpu: float, connections: int = 8) -> None:
    worker.cpu_share = cpu
    worker.cpu_ns = int(cpu * server.system.clock_ns)
    worker.connections = connections


def shifts(server: FakeServer) -> list[str]:
    decisions = server.readout().decisions
    return [str(d["what"]) for d in decisions if str(d["what"]).startswith("shift")]


def order_of(server: FakeServer, worker: FakeWorker) -> int:
    board = server.system.scoreboard
    return board.words[board.base(worker.index) + SHIFT]


def test_the_manager_tells_a_full_worker_wakes_it_and_says_so() -> None:
    with serving(min_workers=2, max_workers=2) as server:
        full, free = server.ready()
        load(server, full, 0.95)
        server.until(lambda: shifts(server), 5)
        assert unpack_shift(order_of(server, full))[0] == free.index
        assert order_of(server, free) == 0
        assert full.index in server.system.pokes
        entry = server.readout().decisions[-1]
        assert f"of slot {full.index} to slot {free.index}" in str(entry["what"])
        assert "core is full" in str(entry["why"])


def test_the_measurement_that_a_shift_fell_into_leads_to_no_other() -> None:
    with serving(min_workers=2, max_workers=2) as server:
        full, _ = server.ready()
        load(server, full, 0.95)
        at_s: list[float] = []

        def note() -> None:
            full.slot.moved(0, handed_out=len(shifts(server)), handed_in=0)
            if len(shifts(server)) > len(at_s):
                at_s.append(server.now_s)

        server.system.during_wait = note
        server.until(lambda: len(at_s) == 3, 10)
        assert min(b - a for a, b in itertools.pairwise(at_s)) >= 0.9


def test_nothing_is_shifted_while_the_server_stops() -> None:
    with serving(min_workers=2, max_workers=2) as server:
        full, other = server.ready()
        other.begin()
        full.begin()
        server.system.send_signal(15)
        server.run(0.1)
        load(server, full, 0.95)
        server.run(3)
        assert shifts(server) == []


def test_workers_that_are_all_full_keep_what_they_have() -> None:
    with serving(min_workers=2, max_workers=2) as server:
        for worker in server.ready():
            load(server, worker, 0.95)
        server.run(5)
        assert shifts(server) == []


def test_an_order_that_can_move_nothing_is_not_repeated_every_second() -> None:
    # One client fills the core; the other connections idle.
    with serving(min_workers=2, max_workers=2) as server:
        full, _ = server.ready()
        load(server, full, 0.95)
        server.run(120)
        assert 1 <= len(shifts(server)) <= 8
