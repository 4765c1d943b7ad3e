"""Workers that are to be replaced by fresh ones: whose turn it is, and how it is done."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

import pytest

from spm.recycling import Recycling, draw_request_limit
from spm.scoreboard import MAX_INCIDENTS, Row
from spm.settings import SPMS
from spm.worker import Totals, WorkerHandle, WorkerState
from tests.fakes.server import FakeServer, serving
from tests.fakes.system import NS, FakeWorker, only

NOW_NS = 10_000 * NS


def handle(slot: int, **fields: Any) -> WorkerHandle:
    row = {**dict.fromkeys(Row._fields, 0), "incidents": (0,) * MAX_INCIDENTS}
    row["written_off"] = fields.pop("written_off", 0)
    begun = fields.pop("begun", 0)
    age_s = fields.pop("age_s", 0.0)
    made = WorkerHandle(slot, 100 + slot, 1, 1, NOW_NS - int(age_s * NS), Row(**row))
    values: dict[str, Any] = {
        "ready_ns": NOW_NS,
        "state": WorkerState.READY,
        "totals": Totals(begun=begun),
    }
    for name, value in {**values, **fields}.items():
        setattr(made, name, value)
    return made


def worn(recycling: Recycling, *handles: WorkerHandle, reloading: bool = False) -> dict[int, str]:
    return dict(recycling.worn(handles, NOW_NS, reloading=reloading))


# --- after how many requests -------------------------------------------------------------------


def test_without_a_maximum_of_requests_nobody_is_due() -> None:
    assert draw_request_limit(SPMS(max_requests_jitter=50)) == 0


def test_without_jitter_all_are_due_after_the_same_number() -> None:
    assert {draw_request_limit(SPMS(max_requests=7)) for _ in range(50)} == {7}


def test_jitter_adds_up_to_so_many_all_about_as_often() -> None:
    drawn = Counter(
        draw_request_limit(SPMS(max_requests=10, max_requests_jitter=4)) for _ in range(2000)
    )
    assert set(drawn) == {10, 11, 12, 13, 14}
    assert min(drawn.values()) > 200


# --- why -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "due", "not_due", "why"),
    [
        ({}, {"request_limit": 9, "begun": 9}, {"request_limit": 9, "begun": 8}, "9 requests"),
        ({"max_age_s": 60}, {"age_s": 60}, {"age_s": 59.9}, "60 s of age"),
        (
            {"max_worker_memory_bytes": 50 << 20},
            {"memory_bytes": 50 << 20, "age_s": 10},
            {"memory_bytes": (50 << 20) - 1, "age_s": 10},
            "50 MB of memory",
        ),
    ],
    ids=["requests", "age", "memory"],
)
def test_a_worker_is_due(
    settings: dict[str, Any], due: dict[str, Any], not_due: dict[str, Any], why: str
) -> None:
    recycling = Recycling(SPMS(**settings))
    assert worn(recycling, handle(0, **not_due)) == {}
    assert worn(recycling, handle(0, **not_due), handle(1, **due)) == {1: why}


def test_a_worker_is_not_too_large_in_its_first_moments() -> None:
    recycling = Recycling(SPMS(max_worker_memory_bytes=1 << 20))
    assert worn(recycling, handle(0, age_s=9.9, memory_bytes=1 << 30)) == {}


def test_what_is_switched_off_makes_nobody_due() -> None:
    old_and_fat = handle(0, begun=1 << 40, age_s=9_000, memory_bytes=1 << 50)
    assert worn(Recycling(SPMS()), old_and_fat) == {}


def test_a_worker_that_is_not_ready_yet_is_not_due() -> None:
    recycling = Recycling(SPMS(max_age_s=5))
    assert worn(recycling, handle(0, age_s=60, state=WorkerState.STARTING, ready_ns=0)) == {}


@pytest.mark.parametrize(
    "state", [WorkerState.STARTING, WorkerState.DRAINING, WorkerState.EXITING, WorkerState.WEDGED]
)
def test_only_one_that_serves_is_chosen(state: WorkerState) -> None:
    recycling = Recycling(SPMS(max_age_s=5))
    assert worn(recycling, handle(0, age_s=60, state=state)) == {}


# --- whose turn ----------------------------------------------------------------------------------


def test_the_oldest_is_the_first_and_only_one() -> None:
    recycling = Recycling(SPMS(max_age_s=5))
    assert list(worn(recycling, handle(0, age_s=6), handle(1, age_s=9), handle(2, age_s=7))) == [1]


def test_who_has_been_chosen_stays_it_until_it_is_gone() -> None:
    recycling = Recycling(SPMS(max_age_s=5))
    young, old = handle(0, age_s=6), handle(1, age_s=7)
    assert list(worn(recycling, young)) == [0]
    assert list(worn(recycling, young, old)) == [0]
    young.state = WorkerState.DRAINING
    assert list(worn(recycling, young, old)) == [0]
    young.state = WorkerState.EXITING
    assert list(worn(recycling, young, old)) == [0]
    assert list(worn(recycling, old)) == [1]


def test_the_next_worker_in_the_same_slot_is_another_one() -> None:
    recycling = Recycling(SPMS(max_age_s=5))
    assert list(worn(recycling, handle(0, age_s=6), handle(1, age_s=6))) == [0]
    fresh = handle(0, incarnation=200)
    assert list(worn(recycling, fresh, handle(1, age_s=6))) == [1]


def test_one_that_went_silent_in_its_turn_does_not_keep_the_others_from_theirs() -> None:
    recycling = Recycling(SPMS(max_age_s=5))
    silent, other = handle(0, age_s=7), handle(1, age_s=6)
    assert list(worn(recycling, silent, other)) == [0]
    silent.state = WorkerState.WEDGED
    assert list(worn(recycling, silent, other)) == [1]


def test_during_a_reload_only_those_with_stuck_threads_are_replaced() -> None:
    recycling = Recycling(SPMS(max_age_s=5, written_off_limit=2))
    due, stuck = handle(0, age_s=6), handle(1, written_off=2)
    assert worn(recycling, due, stuck, reloading=True) == {1: "2 threads that are stuck"}
    assert set(worn(recycling, due, stuck)) == {0, 1}


def test_all_with_stuck_threads_are_replaced_beside_the_one_whose_turn_it_is() -> None:
    recycling = Recycling(SPMS(max_age_s=5, written_off_limit=2))
    crew = [
        handle(0, age_s=6),
        handle(1, age_s=7),
        handle(2, written_off=3),
        handle(3, written_off=2),
    ]
    assert set(worn(recycling, *crew)) == {1, 2, 3}


def test_stuck_threads_are_the_reason_that_is_given_of_two() -> None:
    recycling = Recycling(SPMS(max_age_s=5, written_off_limit=2))
    assert "stuck" in worn(recycling, handle(0, age_s=6, written_off=2))[0]


# --- a whole manager ---------------------------------------------------------------------------


class Watch:
    """Counts at every wait of the manager how many are ready and how many are on their way."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.fewest_ready = 1 << 20
        self.most_alive = 0
        self.most_draining = 0
        server.system.during_wait = self.look

    def look(self) -> None:
        self.fewest_ready = min(self.fewest_ready, len(self.server.ready()))
        self.most_alive = max(self.most_alive, self.server.total())
        self.most_draining = max(self.most_draining, len(self.server.told_to_drain()))


def answer(worker: FakeWorker, requests: int) -> None:
    worker.begin(requests)
    worker.end(requests)


def reasons(server: FakeServer) -> list[tuple[str, str]]:
    return [(str(d["what"]), str(d["why"])) for d in server.readout().decisions]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_replacement_is_ready_before_the_old_one_leaves(workers: int) -> None:
    with serving(min_workers=workers, max_workers=workers, max_requests=10) as server:
        server.system.start_s = 2.0
        watch = Watch(server)
        old = server.ready()
        answer(old[0], 10)
        server.until(lambda: old[0] in server.system.gone, 20)
        server.until(lambda: server.total() == workers)
        assert watch.fewest_ready == workers
        assert watch.most_alive == workers + 1
        assert [w for w in server.ready() if w in old] == old[1:]
        assert reasons(server)[-2:] == [
            ("spawn 1", f"in place of slot {old[0].index}: 10 requests"),
            ("retire 1", f"10 requests in slot {old[0].index}; its replacement is ready"),
        ]
        assert (server.readout().restarts, server.readout().lost) == (0, 0)


def test_when_all_are_due_at_once_they_go_one_at_a_time() -> None:
    with serving(min_workers=4, max_workers=4, max_requests=10) as server:
        server.system.start_s = 1.0
        watch = Watch(server)
        old = server.ready()
        for worker in old:
            answer(worker, 25)
        server.until(lambda: all(worker in server.system.gone for worker in old), 60)
        assert watch.fewest_ready == 4
        assert watch.most_alive == 5
        assert watch.most_draining == 1
        server.run(30)
        assert len(server.ready()) == server.total() == 4
        assert len(server.system.gone) == 4, "fresh ones are not due"


def test_the_next_waits_until_the_one_before_has_finished_its_requests() -> None:
    with serving(min_workers=2, max_workers=2, max_requests=10, graceful_timeout_s=300) as server:
        first, second = server.ready()
        for worker in (first, second):
            answer(worker, 10)
            worker.begin()
        server.until(lambda: "draining" in (first.state, second.state))
        slow = first if first.state == "draining" else second
        quick = second if slow is first else first
        server.run(60)
        assert quick.state == "ready"
        slow.end()
        server.until(lambda: quick.state == "draining")
        quick.end()
        server.until(lambda: quick in server.system.gone)
        assert server.readout().lost == 0


def test_a_worker_that_dies_while_it_is_its_turn_is_replaced_and_the_next_has_its_turn() -> None:
    with serving(min_workers=2, max_workers=2, max_requests=10) as server:
        server.system.start_s = 1.0
        watch = Watch(server)
        old = server.ready()
        for worker in old:
            answer(worker, 10)
        server.until(lambda: server.total() == 3)
        server.system.crash(old[0])
        server.until(lambda: all(worker in server.system.gone for worker in old), 60)
        server.run(20)
        assert len(server.ready()) == server.total() == 2
        assert watch.fewest_ready >= 1
        assert watch.most_alive <= 4
        assert len(server.system.gone) == 2


def test_a_replacement_that_dies_at_birth_costs_nobody_his_worker() -> None:
    with serving(min_workers=2, max_workers=2, max_requests=10) as server:
        watch = Watch(server)
        server.system.dying_starts = 3
        old = server.ready()
        answer(old[0], 10)
        server.until(lambda: old[0] in server.system.gone, 120)
        assert watch.fewest_ready == 2
        assert not server.over


def test_during_a_reload_nobody_is_recycled_and_nobody_twice() -> None:
    with serving(min_workers=2, max_workers=2, max_requests=10) as server:
        watch = Watch(server)
        server.system.load_s = 5.0
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "loading")
        old = server.ready()
        for worker in old:
            answer(worker, 10)
        server.run(3)
        assert server.ready() == old
        server.until(lambda: server.readout().reload == "idle", 30)
        server.run(10)
        assert watch.fewest_ready == 2
        assert [worker.generation for worker in server.ready()] == [2, 2]
        assert set(map(id, server.system.gone)) == set(map(id, old))


def test_a_reload_that_fails_does_not_forget_who_is_due() -> None:
    with serving(min_workers=2, max_workers=2, max_requests=10) as server:
        server.system.broken = ("syntax error", 2)
        server.system.load_s = 5.0
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "loading")
        old = server.ready()
        for worker in old:
            answer(worker, 10)
        server.until(lambda: server.readout().reload == "idle", 30)
        server.system.broken = None
        server.until(lambda: all(worker in server.system.gone for worker in old), 60)
        assert [worker.generation for worker in server.ready()] == [1, 1]


def test_a_reload_in_the_middle_of_it_leaves_as_many_as_before() -> None:
    with serving(min_workers=2, max_workers=2, max_requests=10) as server:
        watch = Watch(server)
        server.system.start_s = 1.0
        old = server.ready()
        for worker in old:
            answer(worker, 10)
        server.until(lambda: server.total() == 3)
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload != "idle", 10)
        server.until(lambda: server.readout().reload == "idle", 60)
        server.run(20)
        assert watch.fewest_ready == 2
        assert [worker.generation for worker in server.ready()] == [2, 2]
        assert server.total() == 2


def test_old_workers_are_replaced_again_and_again_without_ever_being_fewer() -> None:
    with serving(min_workers=3, max_workers=3, max_age_s=60) as server:
        server.system.start_s = 0.5
        server.run(0)
        watch = Watch(server)
        server.run(250)
        assert watch.fewest_ready == 3
        assert watch.most_alive == 4
        assert 3 * 3 <= len(server.system.gone) <= 3 * 4
        assert server.readout().restarts == 0
        assert " s of age in slot " in reasons(server)[-1][1]


def test_a_fat_worker_is_replaced_a_slim_one_is_not() -> None:
    with serving(max_worker_memory_bytes=100 << 20) as server:
        server.run(30)
        worker = only(server.ready())
        server.system.memory["rss"] = 150 << 20
        server.until(lambda: server.total() == 2, 10)
        server.system.memory["rss"] = 20 << 20
        server.until(lambda: worker in server.system.gone, 10)
        server.run(30)
        assert len(server.system.gone) == 1
        assert any("150 MB of memory" in why for _, why in reasons(server))


def test_a_worker_with_requests_that_wait_is_replaced_all_the_same() -> None:
    with serving(max_workers=1, max_requests=10) as server:
        worker = only(server.ready())
        answer(worker, 10)
        worker.begin(1)
        worker.waiting = 5
        server.until(lambda: worker.state == "draining", 5)
        worker.waiting = 0
        worker.end(1)
        server.until(lambda: worker in server.system.gone)
        assert server.readout().lost == 0


def test_a_busy_worker_is_not_taken_away_while_the_hold_still_wants_it() -> None:
    # Two workers are needed now and then; at this moment one would do.
    with serving(min_workers=1, max_workers=4, max_threads=2, max_requests=1000) as server:
        worker = only(server.ready())
        worker.begin(2)
        server.queue = 1
        server.until(lambda: len(server.ready()) > 1, 10)
        server.queue = 0
        worker.end(2)
        server.run(1)
        peak = len(server.ready())
        watch = Watch(server)
        answer(worker, 1000)
        server.until(lambda: worker in server.system.gone, 5)
        assert watch.fewest_ready == peak > 1


def test_workers_that_fill_all_cores_are_replaced_and_not_just_taken_away() -> None:
    with serving(min_workers=1, max_workers=2, max_threads=32, max_age_s=30) as server:
        server.system.cpu = 0.5
        first = only(server.ready())

        def compute() -> None:
            for worker in server.ready():
                worker.cpu_share = 0.95
            server.system.cpu = 0.5 * len(server.ready())
            watch.look()

        watch = Watch(server)
        server.system.during_wait = compute
        first.begin()
        server.until(lambda: len(server.ready()) == 2, 10)
        second = next(worker for worker in server.ready() if worker is not first)
        second.begin()
        server.run(2)
        watch.fewest_ready = 2
        server.until(lambda: first.state == "draining", 40)
        assert watch.fewest_ready == 2
        assert watch.most_alive == 3
