"""A worker whose threads are stuck: another takes its place, and nobody else notices."""

from __future__ import annotations

import signal

from tests.fakes.server import FakeServer, serving
from tests.fakes.system import FakeWorker, only

LIMIT = 2


def wear_out(server: FakeServer, worker: FakeWorker, written_off: int = LIMIT) -> None:
    worker.written_off = written_off
    server.run(0.01)


def test_a_worker_with_a_few_stuck_threads_is_left_alone() -> None:
    with serving(written_off_limit=LIMIT) as server:
        worker = only(server.ready())
        wear_out(server, worker, LIMIT - 1)
        server.run(30)
        assert server.ready() == [worker]


def test_without_a_limit_nobody_is_worn() -> None:
    with serving() as server:
        worker = only(server.ready())
        wear_out(server, worker, 100)
        server.run(30)
        assert server.ready() == [worker]


def test_the_replacement_is_ready_before_the_worn_worker_leaves() -> None:
    with serving(written_off_limit=LIMIT, max_workers=1) as server:
        worn = only(server.ready())
        server.system.start_s = 3.0
        seen: list[int] = []
        server.system.during_wait = lambda: seen.append(len(server.ready()))
        wear_out(server, worn)
        server.until(lambda: worn not in server.ready(), 20)
        assert min(seen) == 1
        assert max(seen) == 2
        server.until(lambda: worn in server.system.gone)
        assert only(server.ready()) is not worn
        assert server.readout().restarts == 0, "it was told to leave"


def test_its_requests_end_before_it_leaves() -> None:
    with serving(written_off_limit=LIMIT, graceful_timeout_s=60) as server:
        worn = only(server.ready())
        worn.begin(3)
        wear_out(server, worn)
        server.until(lambda: worn.state == "draining")
        server.run(10)
        assert worn in server.system.workers.values()
        worn.end(3)
        server.until(lambda: worn in server.system.gone)
        assert server.readout().lost == 0


def test_worn_workers_are_replaced_without_ever_being_fewer() -> None:
    with serving(written_off_limit=LIMIT, min_workers=4, max_workers=4) as server:
        fewest = 4

        def count() -> None:
            nonlocal fewest
            fewest = min(fewest, len(server.ready()))

        server.system.during_wait = count
        old = server.ready()
        for worker in old:
            worker.written_off = LIMIT
        server.until(lambda: all(worker in server.system.gone for worker in old), 30)
        assert fewest == 4
        server.run(30)
        assert server.total() == 4


def test_a_worker_that_is_not_worn_any_more_stays() -> None:
    with serving(written_off_limit=LIMIT) as server:
        worker = only(server.ready())
        server.system.start_s = 5.0
        wear_out(server, worker)
        server.run(1)
        worker.written_off = 0  # its threads have come back
        server.until(lambda: len(server.ready()) == 2)
        server.run(60)
        assert len(server.ready()) == server.total() == 1


def test_a_server_whose_only_worker_is_worn_goes_on_when_no_other_can_be_started() -> None:
    with serving(written_off_limit=LIMIT, boot_timeout_s=5) as server:
        worker = only(server.ready())
        server.system.dying_starts = 8
        wear_out(server, worker)
        server.until(lambda: server.system.dying_starts == 1, 120)
        assert not server.over
        assert worker in server.ready()
        server.until(lambda: worker in server.system.gone, 120)
        assert len(server.ready()) == 1


def test_a_reload_finds_a_slot_although_one_worker_too_many_has_all_of_them() -> None:
    with serving(max_workers=1, wedged_kill_s=0) as server:
        silent = only(server.ready())
        silent.hung = True
        server.until(lambda: len(server.ready()) == 2, 30)  # the other took its place
        silent.hung = False
        first, second = server.ready()
        for worker in (first, second):
            worker.begin()
        server.run(0.5)
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "rising", 5)
        server.run(0.5)
        assert len(server.told_to_drain()) == 1, "nobody makes room, or all do"
        assert [worker.generation for worker in server.system.alive()] == [1, 1]
        for worker in (first, second):
            worker.end()
        server.until(lambda: server.readout().reload == "idle", 5)
        assert [worker.generation for worker in server.ready()] == [2]
        assert server.readout().lost == 0
