from __future__ import annotations

import json

import pytest

from spm.histogram import BUCKETS, bucket_of
from spm.meter import Meter, ServiceTimes, Snapshot
from spm.readout import render
from tests.fakes.server import FakeServer, serving
from tests.fakes.system import NS, only

MS = 1_000_000


def snapshot(at_s: float, ended: int, each_ns: int = 10 * MS) -> Snapshot:
    histogram = [0] * BUCKETS
    histogram[bucket_of(each_ns)] = ended
    return Snapshot(int(at_s * NS), ended, ended * each_ns, histogram)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter()
    for second in range(20):
        meter.add(snapshot(second, 100 * second if second < 10 else 1000))
    assert meter.requests_per_s(snapshot(20, 1000)) == 0
    meter = Meter()
    for second in range(20):
        meter.add(snapshot(second, 0 if second < 15 else 50 * (second - 15)))
    assert meter.requests_per_s(snapshot(20, 250)) == pytest.approx(50)


def test_a_meter_that_has_seen_nothing_says_nothing() -> None:
    assert Meter().requests_per_s(snapshot(5, 10)) == 0


def test_a_snapshot_is_due_once_a_second() -> None:
    meter = Meter()
    assert meter.is_due(0)
    meter.add(snapshot(0, 0))
    assert not meter.is_due(NS - 1)
    assert meter.is_due(NS)


def test_the_last_minute_forgets_what_was_before() -> None:
    meter = Meter()
    for second in range(100):
        meter.add(snapshot(second, 1000))
    times = meter.last_minute(snapshot(100, 1010))
    assert times.count == 10
    assert times.mean_ms == pytest.approx(10)
    assert times.p50_ms == pytest.approx(10, rel=0.2)


def test_service_times_of_no_requests_are_zero() -> None:
    assert ServiceTimes.between(None, snapshot(0, 0)) == ServiceTimes(0, 0.0, 0.0, 0.0)


def test_numbers_that_fall_do_not_make_negative_ones() -> None:
    assert ServiceTimes.between(snapshot(0, 50), snapshot(1, 40)).count == 0


def with_one_of_each(server: FakeServer) -> None:
    """Bring about a busy, an idle, a draining, a wedged and a starting worker."""
    busy, idle, draining, wedged = server.ready()
    for worker in (busy, draining):
        worker.begin()
    busy.connections = 3
    server.run(0.1)
    draining.slot.draining()
    draining.hung = wedged.hung = True
    server.system.start_s = 1000
    server.until(lambda: server.readout().wedged == 1 and server.readout().starting, 30)
    assert idle in server.ready()


def test_total_is_the_sum_of_all_states() -> None:
    with serving(min_workers=4, max_workers=8) as server:
        with_one_of_each(server)
        values = server.readout()
        assert (values.busy, values.idle, values.kill_pending, values.wedged) == (1, 1, 1, 1)
        assert values.total == 4 + values.starting
        states = [worker.state for worker in values.workers]
        assert sorted(set(states)) == ["Busy", "Idle", "KillPending", "Starting", "Wedged"]


def test_a_worker_in_which_something_waits_is_busy() -> None:
    with serving() as server:
        only(server.ready()).waiting = 1
        server.run(1)
        assert server.readout().busy == 1
        assert server.readout().waiting == 1


def test_requests_and_times_come_from_all_workers() -> None:
    with serving(min_workers=2) as server:
        for worker in server.ready():
            worker.begin(5)
            worker.end(5, duration_ns=20 * MS)
        server.run(1.5)
        values = server.readout()
        assert values.requests == 10
        assert values.since_start.mean_ms == pytest.approx(20)
        assert values.since_start.p99_ms == pytest.approx(20, rel=0.25)
        assert values.requests_per_s > 0
        assert [worker.requests for worker in values.workers] == [5, 5]


def test_waiting_counts_what_nobody_has_accepted() -> None:
    with serving(max_workers=1) as server:
        only(server.ready()).waiting = 2
        server.queue = 3
        server.run(0.1)
        values = server.readout()
        assert (values.waiting, values.accept_queue) == (5, 3)


def test_it_goes_through_json_and_is_readable_for_people() -> None:
    with serving(min_workers=4, max_workers=8) as server:
        with_one_of_each(server)
        values = json.loads(json.dumps(server.readout().as_dict()))
        text = render(values)
        starting = values["starting"]
        assert f"Total {4 + starting}  Busy 1  Idle 1  KillPending 1" in text
        assert "127.0.0.1:8080" in text
        assert "app:app" in text
        table = text.splitlines()[text.splitlines().index("") + 1 :]
        assert any("KillPending" in line and "19.1" not in line for line in table)
        assert "10.0" in text  # PSS, in MB
        assert max(map(len, text.splitlines())) <= 100


def test_streams_and_stuck_threads_are_told_apart_from_busy_ones() -> None:
    with serving(min_workers=2) as server:
        first, second = server.ready()
        first.begin()
        first.streams, first.written_off = 3, 1
        second.streams = 4
        server.run(0.1)
        values = server.readout()
        assert (values.busy_threads, values.streams, values.written_off) == (1, 7, 1)
        assert [(w.streams, w.written_off) for w in values.workers] == [(3, 1), (4, 0)]
        text = render(json.loads(json.dumps(values.as_dict())))
        assert ", 7 in streams, 1 written off, " in text
        assert max(map(len, text.splitlines())) <= 100


def test_what_there_is_none_of_is_not_told() -> None:
    with serving(incidents=("bad_request",)) as server:
        server.run(0.1)
        assert server.readout().incidents == {"bad_request": 0}
        text = render(json.loads(json.dumps(server.readout().as_dict())))
        for word in ("stream", "written off", "incidents", "bad"):
            assert word not in text


def test_the_machine_is_told_as_it_was_measured_last() -> None:
    with serving() as server:
        system = server.system
        system.cpu, system.pressure, system.throttled = 0.834, 0.12, 0.301
        system.memory_available = 3 << 30
        server.run(3)
        values = server.readout().as_dict()
        assert values["machine"] == {
            "cores": 2,
            "cpu": 0.834,
            "cpu_pressure": 0.12,
            "cpu_throttled": 0.301,
            "memory_available": 3 << 30,
        }
        text = render(values)
        assert "83 % of 2 cores used, waited for 12 %, quota used up 30 %, 3072 MB free" in text
        system.throttled = None
        server.run(3)
        assert "waited for 12 %, 3072 MB free" in render(server.readout().as_dict())


def test_incidents_are_told_by_name_and_outlive_their_worker() -> None:
    with serving(min_workers=2, incidents=("bad_request", "too_late", "no_room")) as server:
        first, second = server.ready()
        first.slot.incident(0, 5)
        second.slot.incident(0, 1)
        second.slot.incident(2, 2)
        server.run(0.1)
        server.system.crash(second)
        server.run(1)
        values = server.readout()
        assert values.incidents == {"bad_request": 6, "too_late": 0, "no_room": 2}
        text = render(json.loads(json.dumps(values.as_dict())))
        assert "incidents    bad request 6, no room 2" in text.splitlines()


def test_memory_that_cannot_be_read_is_a_dash() -> None:
    with serving() as server:
        server.system.memory = {}
        values = server.readout().as_dict()
        assert only(list(values["workers"]))["rss"] is None
        lines = render(json.loads(json.dumps(values))).splitlines()
        row = lines[lines.index("last decisions") - 2]
        assert row.split()[-4:-2] == ["-", "-"]


def test_memory_is_not_read_more_often_than_every_two_seconds() -> None:
    with serving() as server:
        reads = 0

        def read(pid: int) -> dict[str, int]:
            nonlocal reads
            reads += 1
            return {"rss": 1}

        server.system.process_memory = read  # type: ignore[method-assign]
        for _ in range(10):
            server.readout()
        assert reads == 1
        server.run(2.5)
        server.readout()
        assert reads == 2


def test_one_line_says_the_four_words() -> None:
    with serving() as server:
        line = server.readout().one_line()
        assert line.startswith("Total 1 Busy 0 Idle 1 KillPending 0 ")
        assert "\n" not in line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (65, "1 min 05 s"), (3700, "1 h 01 min"), (90_000, "1 d 01 h")],
)
def test_times_are_told_as_people_do(seconds: int, text: str) -> None:
    with serving() as server:
        values = {**server.readout().as_dict(), "uptime_s": seconds}
        assert f"up {text}" in render(json.loads(json.dumps(values)))
