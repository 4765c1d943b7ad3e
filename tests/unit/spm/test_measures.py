"""What is measured of workers and machine, and how seldom."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from spm.fleet import Fleet
from spm.measures import Measures
from spm.scoreboard import Scoreboard
from spm.settings import SPMS
from spm.siblings import Inboxes
from tests.fakes.server import serving
from tests.fakes.system import NS, FakeSystem, FakeWorker

MS = 1_000_000


class CountingSystem(FakeSystem):
    """A fake machine that counts what it was asked for, and lets processes lose their pid."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: Counter[str] = Counter()
        self.no_memory_of: set[int] = set()

    def machine_cpu(self) -> float:
        self.asked["machine_cpu"] += 1
        return super().machine_cpu()

    def process_cpu_ns(self, pid: int) -> int | None:
        self.asked["cpu"] += 1
        return super().process_cpu_ns(pid)

    def process_run_wait_ns(self, pid: int) -> int | None:
        self.asked["run_wait"] += 1
        return super().process_run_wait_ns(pid)

    def process_memory(self, pid: int) -> dict[str, int]:
        self.asked["memory"] += 1
        return {} if pid in self.no_memory_of else super().process_memory(pid)

    def process_resident_bytes(self, pid: int) -> int:
        self.asked["resident"] += 1
        return super().process_resident_bytes(pid)

    def memory_available_bytes(self) -> int:
        self.asked["available"] += 1
        return super().memory_available_bytes()


class Rig:
    """A fleet on a fake machine, without a manager; `worker.cpu_ns` is the test's."""

    def __init__(self, workers: int = 2, threads: int = 4, **settings: Any) -> None:
        self.settings = SPMS(
            min_workers=workers, max_workers=workers, max_threads=threads, **settings
        )
        board = Scoreboard(2 * workers, threads)
        self.inboxes = Inboxes(2 * workers)
        self.system = CountingSystem(lambda: None, board, self.inboxes, self.settings)
        self.fleet = Fleet(self.settings, board, self.inboxes, self.system)
        self.system.start_template(1)
        self.fleet.spawn(1, 1, workers)
        for _ in range(100):
            for event in self.system.wait(0.01):
                if hasattr(event, "pid"):
                    self.fleet.note_forked(event)
            if len(self.system.alive("ready")) == workers:
                break
        self.fleet.look()
        self.measures = Measures(self.settings, self.fleet, self.system)

    def look(self, after_s: float, *, waiting: bool = False, publish: bool = True) -> bool:
        self.system.clock_ns += round(after_s * NS)
        if publish:
            for worker in self.workers:
                worker.publish(self.system.clock_ns)
        self.fleet.look()
        return self.measures.look(self.system.clock_ns, waiting=waiting)

    @property
    def workers(self) -> list[FakeWorker]:
        return self.system.alive()

    def used(self, *shares: float, waited: float = 0.0, of_s: float = 0.5) -> None:
        """Let workers have used these shares of a core, and waited for one so much."""
        for worker, share in zip(self.workers, shares, strict=False):
            worker.cpu_ns += round(share * of_s * NS)
            worker.run_wait_ns += round(waited * of_s * NS)


@pytest.fixture
def rig() -> Any:
    rig = Rig()
    yield rig
    rig.inboxes.close()


def cpus(rig: Rig) -> list[float]:
    return [round(handle.cpu, 3) for handle in rig.fleet]


# --- every half second -------------------------------------------------------------------------


def test_cpu_time_is_looked_at_twice_a_second_and_it_says_when_it_was(rig: Rig) -> None:
    assert rig.look(0)
    assert not rig.look(0.4)
    assert rig.look(0.1)
    assert [rig.look(0.025) for _ in range(40)].count(True) == 2


def test_the_share_of_a_core_is_that_since_the_look_before(rig: Rig) -> None:
    rig.look(0)
    assert cpus(rig) == [0, 0]
    rig.used(0.9, 0.1)
    rig.look(0.5)
    assert cpus(rig) == [0.9, 0.1]
    rig.look(0.5)
    assert cpus(rig) == [0, 0]


def test_work_is_the_share_of_the_time_with_something_to_do(rig: Rig) -> None:
    rig.look(0)
    steady, now_and_then = rig.workers
    steady.begin()
    for tick in range(20):
        if tick % 4 == 0:
            now_and_then.begin()
        elif tick % 4 == 1:
            now_and_then.end()
        rig.look(0.1)
    shares = [round(handle.work, 2) for handle in rig.fleet]
    assert shares[0] == 1.0
    assert 0.1 <= shares[1] <= 0.5
    steady.end()
    rig.look(0.5)
    rig.look(0.5)
    assert [handle.work for handle in rig.fleet] == [0, 0]


def test_nobody_is_asked_for_how_long_he_waited_while_there_are_cores_enough(rig: Rig) -> None:
    rig.system.cpu = 0.5
    for _ in range(10):
        rig.look(0.5)
    assert rig.system.asked["run_wait"] == 0


def test_on_a_full_machine_the_time_without_a_core_is_measured_and_then_forgotten(
    rig: Rig,
) -> None:
    rig.system.cpu = 0.95
    rig.look(0)
    rig.used(0.5, 0.5, waited=0.4)
    rig.look(0.5)
    assert [round(handle.run_wait, 3) for handle in rig.fleet] == [0.4, 0.4]
    rig.system.cpu = 0.2
    rig.look(0.5)
    assert [handle.run_wait for handle in rig.fleet] == [0, 0]
    rig.system.cpu = 0.95
    rig.used(0.5, 0.5, waited=100)  # in the meantime nobody has looked
    rig.look(0.5)
    assert [handle.run_wait for handle in rig.fleet] == [0, 0]


def test_the_wait_is_never_more_than_all_the_time_nor_less_than_none(rig: Rig) -> None:
    rig.system.cpu = 0.95
    rig.look(0)
    rig.used(0, 0, waited=7)  # many threads that waited at the same time
    rig.look(0.5)
    assert all(0.99 < handle.run_wait <= 1 for handle in rig.fleet)
    for worker in rig.workers:
        worker.run_wait_ns = 0  # threads have ended and taken their share with them
    rig.look(0.5)
    assert [handle.run_wait for handle in rig.fleet] == [0, 0]


def test_what_the_machine_says_is_passed_on(rig: Rig) -> None:
    rig.system.cpu, rig.system.pressure, rig.system.throttled = 0.42, 0.3, 0.2
    rig.look(0.5)
    measures = rig.measures
    assert (measures.machine_cpu, measures.cpu_pressure, measures.cpu_throttled) == (0.42, 0.3, 0.2)
    assert measures.machine() == {
        "cores": 2,
        "cpu": 0.42,
        "cpu_pressure": 0.3,
        "cpu_throttled": 0.2,
        "memory_available": 1 << 40,
    }
    rig.system.throttled = None
    rig.look(0.5)
    assert measures.machine()["cpu_throttled"] is None


def test_a_worker_that_has_just_died_keeps_what_was_known_of_it(rig: Rig) -> None:
    rig.look(0)
    rig.used(0.9, 0.9)
    rig.look(0.5)
    rig.system.crash(rig.workers[0])  # the manager has not been told yet
    rig.used(0.5)
    rig.look(0.5)
    assert cpus(rig) == [0.9, 0.5]


# --- the quick look ------------------------------------------------------------------------------


def test_while_nothing_waits_there_is_no_quick_look(rig: Rig) -> None:
    for _ in range(10):
        rig.look(0.1)
        assert rig.measures.cpu_look is None


def test_two_looks_25_ms_apart_tell_whether_the_workers_compute(rig: Rig) -> None:
    rig.look(0, waiting=True)
    assert rig.measures.cpu_look is None, "the first look only begins the measurement"
    for worker in rig.workers:
        worker.begin()
    rig.used(1.0, 0.5, of_s=0.025)
    rig.look(0.025, waiting=True)
    look = rig.measures.cpu_look
    assert look is not None
    assert look.load == pytest.approx(1.5)
    assert look.appetite == pytest.approx(0.75)


def test_looks_that_are_nearer_than_that_do_not_count(rig: Rig) -> None:
    rig.look(0, waiting=True)
    rig.used(1.0, 1.0, of_s=0.02)
    rig.look(0.02, waiting=True)
    assert rig.measures.cpu_look is None
    rig.look(0.02, waiting=True)
    assert rig.measures.cpu_look is not None
    assert rig.measures.cpu_look.load == pytest.approx(1.0)


def test_when_nothing_waits_any_more_the_look_is_forgotten_and_begins_anew(rig: Rig) -> None:
    rig.look(0, waiting=True)
    rig.look(0.025, waiting=True)
    assert rig.measures.cpu_look is not None
    rig.look(0.025)
    assert rig.measures.cpu_look is None
    rig.used(1.0, 1.0, of_s=10)
    rig.look(10, waiting=True)
    assert rig.measures.cpu_look is None


def test_what_they_wait_for_a_core_is_load_and_not_sleep(rig: Rig) -> None:
    rig.look(0, waiting=True)
    rig.used(0.5, 0.5, waited=0.5, of_s=0.025)
    rig.look(0.025, waiting=True)
    look = rig.measures.cpu_look
    assert look is not None
    assert look.load == pytest.approx(2.0)
    assert look.appetite == pytest.approx(1.0)


def test_workers_that_sleep_have_no_appetite(rig: Rig) -> None:
    rig.look(0, waiting=True)
    for worker in rig.workers:
        worker.begin(4)
    rig.look(0.025, waiting=True)
    look = rig.measures.cpu_look
    assert look is not None
    assert (look.load, look.appetite) == (0, 0)


def test_of_many_threads_only_some_are_asked_and_stand_for_the_others() -> None:
    rig = Rig(workers=10, threads=20)
    try:
        for worker in rig.workers:
            worker.capacity = 20
        rig.look(0, waiting=True)
        rig.system.asked.clear()
        rig.used(*[0.1] * 10, waited=0.9, of_s=0.025)
        rig.look(0.025, waiting=True)
        assert rig.system.asked["run_wait"] == 2
        look = rig.measures.cpu_look
        assert look is not None
        assert look.load == pytest.approx(10.0)
        assert look.appetite == pytest.approx(1.0)
    finally:
        rig.inboxes.close()


def test_a_worker_with_very_many_threads_is_asked_all_the_same() -> None:
    rig = Rig(workers=1, threads=500)
    try:
        rig.workers[0].capacity = 500
        rig.look(0, waiting=True)
        rig.used(0.2, waited=0.8, of_s=0.025)
        rig.look(0.025, waiting=True)
        assert rig.measures.cpu_look is not None
        assert rig.measures.cpu_look.load == pytest.approx(1.0)
    finally:
        rig.inboxes.close()


def test_workers_that_have_come_or_gone_between_two_looks_do_not_count(rig: Rig) -> None:
    rig.look(0, waiting=True)
    rig.system.crash(rig.workers[0])
    rig.used(1.0, of_s=0.025)
    rig.look(0.025, waiting=True)
    assert rig.measures.cpu_look is not None
    assert rig.measures.cpu_look.load == pytest.approx(1.0)
    rig.system.crash(rig.workers[0])
    rig.look(0.025, waiting=True)
    assert rig.measures.cpu_look is None


# --- memory --------------------------------------------------------------------------------------


def test_who_was_not_ready_all_the_time_does_not_pass_for_a_sleeper(rig: Rig) -> None:
    _, young = rig.fleet
    rig.look(0.1, waiting=True)
    young.ready_ns = rig.system.clock_ns + 20 * MS
    for worker in rig.workers:
        worker.begin()
    rig.used(1.0, 0.2, of_s=0.025)
    rig.look(0.025, waiting=True)
    look = rig.measures.cpu_look
    assert look is not None
    assert look.appetite == pytest.approx(1.0)
    assert look.load == pytest.approx(1.2)


def test_without_a_limit_nobody_is_asked_for_the_memory_of_the_workers() -> None:
    rig = Rig(memory_reserve_bytes=0)
    try:
        for _ in range(20):
            rig.look(1)
        assert not {"memory", "resident", "available"} & set(rig.system.asked)
    finally:
        rig.inboxes.close()


def test_memory_is_looked_at_every_five_seconds_at_most() -> None:
    rig = Rig(memory_limit_bytes=1 << 30, max_worker_memory_bytes=1 << 30)
    try:
        for _ in range(101):
            rig.look(0.1)
        assert rig.system.asked["resident"] == 2 * 3
        assert rig.system.asked["memory"] == 2 * 3
        assert rig.system.asked["available"] == 3
    finally:
        rig.inboxes.close()


def test_the_average_is_of_those_whose_memory_can_be_read() -> None:
    rig = Rig(memory_limit_bytes=1 << 30)
    try:
        rig.look(0)
        assert rig.measures.worker_memory_bytes == 10 << 20
        rig.system.no_memory_of = {rig.workers[0].pid}
        rig.look(10)
        assert rig.measures.worker_memory_bytes == 10 << 20
        rig.system.no_memory_of = {worker.pid for worker in rig.workers}
        rig.look(10)
        assert rig.measures.worker_memory_bytes == 0
    finally:
        rig.inboxes.close()


def test_memory_for_the_readout_is_read_afresh_after_two_seconds(rig: Rig) -> None:
    pid = rig.workers[0].pid
    now_ns = rig.system.clock_ns
    first = rig.measures.memory_of(pid, now_ns)
    assert first["rss"] == 20 << 20
    rig.system.memory = {"rss": 1}
    assert rig.measures.memory_of(pid, now_ns + 2 * NS - 1) == first
    assert rig.measures.memory_of(pid, now_ns + 2 * NS) == {"rss": 1}
    assert rig.measures.memory_of(0, now_ns) == {}


@pytest.mark.parametrize("after_s", [0.1, 6])
def test_a_memory_limit_keeps_the_workers_few(after_s: float) -> None:
    # PSS of 10 MB each: three fit in.
    limits = {"max_workers": 8, "max_threads": 1, "memory_limit_bytes": 35 << 20}
    with serving(**limits) as server:
        server.run(after_s)
        for worker in server.ready():
            worker.begin(1)
        server.queue = 50
        server.run(5)
        assert server.total() == 3
        assert server.readout().wanted == 3
