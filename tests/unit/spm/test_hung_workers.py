"""A worker that is silent as a whole: passed over, replaced, killed in the end, or spared."""

from __future__ import annotations

import logging

import pytest

from tests.fakes.server import serving
from tests.fakes.system import NS, only

HUNG = {"heartbeat_stale_s": 10.0, "wedged_kill_s": 30.0}


def test_it_is_replaced_first_and_killed_at_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "smart_http")
    with serving(**HUNG, max_workers=1) as server:
        hung = only(server.ready())
        hung.hung = True
        server.run(9)
        assert server.total() == 1
        server.until(lambda: server.total() == 2, 3)
        assert hung.pid not in server.system.killed
        assert server.readout().wedged == 1
        server.run(17)
        assert server.system.killed == []
        server.until(lambda: hung in server.system.gone, 5)
        assert server.system.killed == [hung.pid]
        server.run(1)
        assert server.total() == 1
        assert server.readout().restarts == 1
    told = [record.getMessage() for record in caplog.records]
    name = f"worker {hung.pid} (slot {hung.index})"
    # A quiet manager looks once a second.
    assert told[0] in [f"{name} is silent for {s} s; replacing it" for s in (10, 11)]
    assert told[1] == f"{name} has been silent for 30 s; sent SIGKILL"


def test_it_is_not_told_to_leave_before_it_is_killed() -> None:
    # It might come back in that moment, obey, and lose its requests.
    with serving(**HUNG) as server:
        hung = only(server.ready())
        hung.hung = True
        orders: list[int] = []
        server.system.during_wait = lambda: orders.append(hung.slot.order())
        server.until(lambda: hung in server.system.gone, 40)
        assert set(orders) == {0}


def test_one_that_comes_back_in_the_last_moment_serves_on() -> None:
    with serving(**HUNG) as server:
        worker = only(server.ready())
        worker.hung = True
        server.run(29.5)
        worker.hung = False
        server.run(60)
        assert server.system.killed == []
        assert server.readout().wedged == 0


def test_without_a_timeout_it_is_replaced_and_never_killed() -> None:
    with serving(heartbeat_stale_s=10.0, wedged_kill_s=0.0) as server:
        hung = only(server.ready())
        hung.hung = True
        server.run(3600)
        assert server.system.killed == []
        assert server.total() == 2


def test_a_stopped_worker_is_replaced_and_spared(caplog: pytest.LogCaptureFixture) -> None:
    with serving(**HUNG) as server:
        worker = only(server.ready())
        worker.stopped = True
        server.run(600)
        assert server.total() == 2
        assert server.system.killed == []
        # It goes on, and needs a while until its heart beats again.
        worker.hung, worker.stopped = True, False
        server.run(29)
        worker.hung = False
        server.run(60)
        assert server.system.killed == []
    said = [r for r in caplog.records if "stopped, not hung" in r.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize("timeout_s", [2.0, 5.0])
def test_a_short_timeout_leaves_time_to_see_that_it_was_stopped(timeout_s: float) -> None:
    with serving(heartbeat_stale_s=timeout_s, wedged_kill_s=timeout_s) as server:
        worker = only(server.ready())
        worker.stopped = True
        server.run(timeout_s - 0.01)
        worker.hung, worker.stopped = True, False
        server.run(0.9)
        worker.hung = False
        server.run(20)
        assert server.system.killed == []


def test_a_hung_one_that_was_stopped_before_is_killed_in_the_end() -> None:
    with serving(**HUNG) as server:
        worker = only(server.ready())
        worker.stopped = True
        server.run(60)
        worker.hung, worker.stopped = True, False
        assert server.until(lambda: worker in server.system.gone, 40) >= 29


def test_a_machine_that_slept_gives_everybody_time() -> None:
    with serving(**HUNG, min_workers=2) as server:
        workers = server.ready()
        for worker in workers:
            worker.hung = True  # they have not been on a processor yet since it woke up
        server.system.clock_ns += 3600 * NS
        server.run(9)
        assert server.readout().wedged == 0
        for worker in workers:
            worker.hung = False
        server.run(60)
        assert server.system.killed == []
        assert server.total() == 2
