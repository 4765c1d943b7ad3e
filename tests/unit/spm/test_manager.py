"""SPM against a fake machine: what it does about what it sees."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from spm import BootFailed, WorkerBootError
from spm.exit_status import ExitStatus
from spm.scoreboard import H_BEAT, H_GENERATION, H_LINGER_MS, H_TARGET, PID
from tests.fakes.server import FakeServer, not_started, serving
from tests.fakes.system import NS, FakeSystem, only


@pytest.fixture(autouse=True)
def spoken(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="smart_http")
    return caplog


# --- start ---------------------------------------------------------------------------------


def test_nothing_is_bound_before_the_application_is_loaded() -> None:
    with not_started() as server:
        server.system.during_wait = lambda: listened.append(server.listened)
        listened: list[int] = []
        assert server.spm.start()
        assert set(listened) == {0}
        assert server.listened == 1


def test_an_application_that_does_not_load_ends_the_start_with_its_own_message() -> None:
    with not_started() as server:
        server.system.broken = ("no module named aap", 2)
        with pytest.raises(BootFailed, match="no module named aap") as caught:
            server.spm.start()
        assert caught.value.exit_status == 2
        assert server.listened == 0


def test_an_application_that_ends_the_process_while_it_loads_is_told_as_such() -> None:
    with not_started() as server:
        server.system.load_s = 1000
        server.system.during_wait = lambda: server.system.crash_template(
            1, ExitStatus(signal=signal.SIGSEGV)
        )
        with pytest.raises(BootFailed, match="killed by SIGSEGV"):
            server.spm.start()


def test_an_address_in_use_ends_the_start_with_its_message_and_status() -> None:
    error = OSError("address in use")
    error.exit_status = 2  # type: ignore[attr-defined]
    with not_started() as server:
        server.listen_error = error
        with pytest.raises(BootFailed, match="address in use") as caught:
            server.spm.start()
        assert caught.value.exit_status == 2
        assert not server.system.workers


def test_a_bug_in_listen_is_not_dressed_up() -> None:
    with not_started() as server:
        server.listen_error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            server.spm.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_it(number: int) -> None:
    with not_started() as server:
        server.system.load_s = 1000
        server.system.send_signal(number)
        assert not server.spm.start()
        assert server.listened == 0


def test_the_minimum_is_brought_up_at_once() -> None:
    with not_started(min_workers=3) as server:
        assert server.spm.start()
        assert server.until(lambda: len(server.ready()) == 3) < 0.2


def test_pids_come_from_fork_and_not_from_the_worker() -> None:
    with serving() as server:
        worker = only(server.ready())
        board = server.system.scoreboard
        server.run(1)
        assert board.words[board.base(worker.index) + PID] == worker.pid


def test_run_serves_until_a_signal_and_returns_zero() -> None:
    with not_started() as server:
        ticks = 0

        def stop_later() -> None:
            nonlocal ticks
            ticks += 1
            if ticks == 20:
                server.system.send_signal(signal.SIGTERM)

        server.system.during_wait = stop_later
        assert server.spm.run() == 0
        assert server.released == 1
        assert not server.system.opened
        assert not server.system.workers
        assert not server.system.templates


def test_run_raises_what_the_start_failed_of_and_leaves_nothing() -> None:
    with not_started() as server:
        server.system.broken = ("broken", 2)
        with pytest.raises(BootFailed, match="broken"):
            server.spm.run()
        assert server.released == 1
        assert not server.system.templates


# --- death ---------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_within_a_tick() -> None:
    with serving() as server:
        server.run(10)
        victim = only(server.ready())
        server.system.crash(victim)
        assert server.until(lambda: server.ready() and server.ready()[0] is not victim) < 0.1
        assert server.readout().restarts == 1


@pytest.mark.parametrize(
    ("kills", "cause"),
    [
        ((0, 0), "killed by SIGKILL, by somebody else"),
        ((3, 4), "killed by the kernel: out of memory"),
        ((None, None), "killed by SIGKILL, perhaps out of memory"),
    ],
)
def test_a_death_is_logged_once_with_its_cause(
    spoken: pytest.LogCaptureFixture, kills: tuple[int | None, int | None], cause: str
) -> None:
    with serving() as server:
        server.system.killed_for_memory = kills[0]
        server.run(60)
        worker = only(server.ready())
        server.system.killed_for_memory = kills[1]
        server.system.crash(worker)
        server.run(5)
        lines = [r.message for r in spoken.records if f"worker {worker.pid}" in r.message]
        assert lines == [f"worker {worker.pid} (slot 0) died: {cause}"]


def test_a_worker_that_we_kill_was_not_killed_for_want_of_memory(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with serving(heartbeat_stale_s=10, wedged_kill_s=60) as server:
        worker = only(server.ready())
        worker.hung = True
        server.until(lambda: worker.pid in server.system.killed, 300)
        server.system.killed_for_memory = 1  # somebody else's
        server.run(5)
        assert any("as it did not leave" in r.message for r in spoken.records)
        assert not any("out of memory" in r.message for r in spoken.records)


def test_a_death_whose_cause_nobody_knows_is_logged_too(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with serving() as server:
        worker = only(server.ready())
        server.system.crash_template(1)
        server.system.crash(worker)
        server.run(5)
        assert f"worker {worker.pid} (slot 0) died: cause unknown" in spoken.text


def test_numbers_survive_the_worker_that_counted_them() -> None:
    with serving() as server:
        worker = only(server.ready())
        worker.begin(5)
        worker.end(3)
        server.run(0.2)
        server.system.crash(worker)
        server.until(lambda: server.ready())
        only(server.ready()).begin(4)
        only(server.ready()).end(4)
        server.run(0.2)
        values = server.readout()
        assert values.requests == 7
        assert values.since_start.count == 7
        assert values.lost == 2


def test_what_a_worker_writes_is_not_believed_beyond_reason() -> None:
    with serving() as server:
        worker = only(server.ready())
        worker.begin(5)
        worker.end(5)
        server.run(0.2)
        board = server.system.scoreboard
        base = board.base(worker.index)
        for index in range(10, 144):
            board.words[base + index] = (1 << 64) - 1
        worker.hung = True
        server.run(0.2)
        server.system.crash(worker)
        server.run(0.2)
        values = server.readout()
        assert values.requests == 5
        assert values.lost == 0
        assert values.errors == 0
        assert values.since_start.mean_ms < 1000


def test_mail_of_a_dead_worker_goes_to_a_ready_one() -> None:
    with serving(min_workers=2) as server:
        victim, other = server.ready()
        victim.hung = True
        send(server, victim.index, b"parcel")
        server.system.crash(victim)
        server.run(0.2)
        assert other.parcels == [b"parcel"]


def test_mail_waits_for_the_replacement_if_nobody_is_ready() -> None:
    with serving() as server:
        victim = only(server.ready())
        victim.hung = True
        send(server, victim.index, b"one")
        send(server, victim.index, b"two")
        server.system.crash(victim)
        server.run(1)
        assert only(server.ready()).parcels == [b"one", b"two"]


def test_mail_that_fits_nowhere_is_kept_until_it_does() -> None:
    with serving(min_workers=2) as server:
        victim, other = server.ready()
        victim.hung = other.hung = True
        send(server, victim.index, b"parcel")
        while server.system.inboxes.put(other.index, b"x" * 60_000, -1):
            pass
        server.system.crash_template(1)
        server.system.templates.clear()
        server.system.crash(victim)
        server.run(0.1)
        other.hung = False
        server.run(0.5)
        assert b"parcel" in other.parcels + [m for w in server.ready() for m in w.parcels]


def test_mail_that_comes_late_to_a_free_slot_is_found() -> None:
    with serving() as server:
        send(server, 3, b"late")
        server.run(2)
        assert only(server.ready()).parcels == [b"late"]


def test_mail_of_a_silent_worker_goes_to_its_replacement() -> None:
    with serving() as server:
        worker = only(server.ready())
        worker.hung = True
        send(server, worker.index, b"stuck")
        server.run(15)
        assert [w.parcels for w in server.ready() if w is not worker] == [[b"stuck"]]


def send(server: FakeServer, slot: int, message: bytes) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    assert server.system.inboxes.put(slot, message, fd)
    os.close(fd)


def test_workers_that_never_come_up_end_the_server_with_status_3() -> None:
    with not_started() as server:
        server.system.dying_starts = 1000
        with pytest.raises(WorkerBootError, match="died before one was ready") as caught:
            server.spm.run()
        assert caught.value.exit_status == 3
        assert server.released == 1


def test_a_fork_that_fails_is_tried_again() -> None:
    with not_started() as server:
        assert server.spm.start()
        server.system.forks_fail = 2
        server.until(lambda: server.ready(), 5)


def test_a_worker_that_does_not_get_ready_is_killed_and_counts_as_failed() -> None:
    with not_started(boot_timeout_s=5) as server:
        server.system.start_s = 1000
        assert server.spm.start()
        server.until(lambda: server.total() == 1)
        slow = only(server.system.alive())
        slow.hung = True
        server.until(lambda: slow.pid in server.system.killed, 7)
        server.system.start_s = 0
        server.until(lambda: server.ready(), 5)
        assert server.readout().restarts == 1


# --- silence -------------------------------------------------------------------------------


def test_a_silent_worker_is_replaced_and_killed_only_after_a_long_time() -> None:
    with serving(heartbeat_stale_s=10, wedged_kill_s=60) as server:
        worker = only(server.ready())
        worker.hung = True
        assert 9 < server.until(lambda: server.total() == 2, 15) < 12
        assert server.readout().wedged == 1
        silent_s = server.until(lambda: worker.pid in server.system.killed, 70)
        assert 45 < silent_s < 55
        assert server.total() == 1


def test_a_silent_worker_that_comes_back_is_taken_back_in() -> None:
    with serving(max_workers=2) as server:
        worker = only(server.ready())
        worker.hung = True
        server.until(lambda: server.total() == 2, 15)
        worker.hung = False
        server.run(1)
        assert server.readout().wedged == 0
        server.until(lambda: server.total() == 1, 20)
        assert not server.system.killed


def test_silence_while_the_machine_slept_is_forgiven() -> None:
    with serving() as server:
        worker = only(server.ready())
        worker.hung = True
        server.system.clock_ns += 3600 * NS
        server.run(0.5)
        worker.hung = False
        server.run(3)
        assert server.ready() == [worker]
        assert not server.system.killed


# --- scaling -------------------------------------------------------------------------------


def saturate(server: FakeServer, requests: int) -> None:
    """Let so many requests be there: as many as fit run, the rest waits to be accepted."""
    ready = server.ready()
    capacity = server.settings.max_threads
    for worker in ready:
        if requests > 0 and worker.busy < capacity:
            count = min(capacity - worker.busy, requests)
            worker.begin(count)
            requests -= count
    server.queue = requests


def test_a_poke_brings_workers_within_a_fraction_of_a_second() -> None:
    with serving(max_workers=6, max_threads=2) as server:
        server.run(5)
        saturate(server, 12)
        server.system.poke_manager(only(server.ready()))
        assert server.until(lambda: server.total() == 6, 2) < 0.5


def test_without_a_poke_the_next_tick_sees_it() -> None:
    with serving(max_workers=6, max_threads=2) as server:
        server.run(5)
        saturate(server, 12)
        assert server.until(lambda: server.total() == 6, 3) < 1.5


def test_quiet_brings_the_fleet_back_to_the_minimum() -> None:
    with serving(max_workers=6, max_threads=2) as server:
        saturate(server, 12)
        server.until(lambda: server.total() == 6, 3)
        server.queue = 0
        for worker in server.ready():
            worker.end(worker.busy)
        assert server.until(lambda: server.total() == 1, 30) < 20
        assert server.readout().restarts == 0


def test_a_draining_worker_is_taken_back_when_load_returns() -> None:
    with serving(max_workers=6, max_threads=2) as server:
        saturate(server, 12)
        server.until(lambda: server.total() == 6, 3)
        server.queue = 0
        for worker in server.ready()[1:]:
            worker.end(worker.busy)
        keeper = server.ready()[1]
        for worker in server.ready():
            worker.connections = 5
        keeper.connections = 0
        server.until(lambda: server.told_to_drain(), 20)
        slot = server.told_to_drain()[0]
        draining = server.system.workers[slot]
        draining.begin()
        server.run(0.05)
        saturate(server, 20)
        server.until(lambda: draining.state == "ready", 3)


def test_every_change_is_logged_with_its_reason(spoken: pytest.LogCaptureFixture) -> None:
    with serving(max_workers=3, max_threads=1) as server:
        saturate(server, 3)
        server.until(lambda: server.total() == 3, 3)
        assert "spawn 1: 0 of at least 1 are there" in spoken.text
        assert "spawn 2: demand" in spoken.text
        server.queue = 0
        only([w for w in server.ready() if w.busy]).end()
        server.until(lambda: server.total() == 1, 30)
        assert "retire 1: the peak of 8 s needs 1" in spoken.text


def test_cpu_bound_workers_get_company() -> None:
    with serving(max_workers=4, max_threads=32) as server:
        worker = only(server.ready())
        worker.begin()
        worker.cpu_share = 1.0
        assert server.until(lambda: server.total() == 2, 5) < 3


def test_a_worker_that_does_not_finish_draining_is_hurried_and_then_killed(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with serving(max_workers=2, max_threads=8, graceful_timeout_s=5) as server:
        saturate(server, 12)
        server.until(lambda: len(server.ready()) == 2, 3)
        server.queue = 0
        for worker in server.ready():
            if worker.busy:
                worker.end(worker.busy)
        server.until(lambda: server.told_to_drain(), 20)
        victim = server.system.workers[server.told_to_drain()[0]]
        victim.begin()
        victim.hung = True
        killed_s = server.until(lambda: victim.pid in server.system.killed, 10)
        assert 5.5 < killed_s < 7
        server.run(0.2)
        assert server.readout().restarts == 0
        assert server.readout().lost == 1
        assert "killed by SIGKILL, as it did not leave, 1 requests lost" in spoken.text


# --- rhythm --------------------------------------------------------------------------------


def test_a_quiet_server_is_looked_at_once_a_second() -> None:
    with serving() as server:
        server.run(5)
        server.system.waits_s.clear()
        server.run(10)
        assert len(server.system.waits_s) <= 12


def test_a_busy_server_is_looked_at_ten_times_a_second() -> None:
    with serving() as server:
        only(server.ready()).begin()
        server.run(2)
        server.system.waits_s.clear()
        server.run(10)
        assert 90 <= len(server.system.waits_s) <= 110


def test_many_pokes_make_no_more_than_fifty_ticks_a_second() -> None:
    with serving() as server:
        worker = only(server.ready())
        server.run(5)
        board = server.system.scoreboard
        beats = set()

        def poke() -> None:
            server.system.clock_ns += 1_000_000
            server.system.poke_manager(worker)
            beats.add(board.words[H_BEAT])

        server.system.during_wait = poke
        server.run(2)
        assert 50 <= len(beats) <= 105


def test_the_header_says_what_is_wanted() -> None:
    with serving(min_workers=2) as server:
        words = server.system.scoreboard.words
        server.run(1)
        assert words[H_TARGET] == 2
        assert words[H_GENERATION] == 1
        assert words[H_BEAT] > server.system.clock_ns - 2 * NS


def test_a_lost_wake_up_is_made_good() -> None:
    with serving() as server:
        server.run(3)
        worker = only(server.ready())
        server.queue = 1
        server.until(lambda: worker.nudges > 0, 3)


def test_everybody_with_a_free_thread_is_nudged_for_one_may_be_unable_to_accept() -> None:
    with serving(min_workers=3, max_workers=3, max_threads=2) as server:
        full, *free = server.ready()
        full.begin(2)
        free[0].begin()
        server.queue = 1
        server.until(lambda: all(worker.nudges for worker in free), 3)
        assert full.nudges == 0


def test_a_full_worker_is_not_nudged() -> None:
    with serving(max_workers=1, max_threads=1) as server:
        worker = only(server.ready())
        worker.begin()
        server.queue = 1
        server.run(3)
        assert worker.nudges == 0


def test_metrics_come_as_often_as_asked_for(spoken: pytest.LogCaptureFixture) -> None:
    with serving(metrics_interval_s=0.5) as server:
        spoken.clear()
        server.run(5)
        lines = [r.message for r in spoken.records if r.name == "smart_http.metrics"]
        assert 9 <= len(lines) <= 11
        assert lines[0].startswith("Total 1 Busy 0 Idle 1 KillPending 0 threads 0/")


# --- templates -----------------------------------------------------------------------------


def test_workers_outlive_their_template_and_a_new_one_takes_its_place() -> None:
    with serving() as server:
        worker = only(server.ready())
        server.system.crash_template(1)
        server.run(1)
        assert server.ready() == [worker]
        assert list(server.system.templates) == [2]
        server.system.crash(worker)
        server.until(lambda: server.ready(), 2)
        assert only(server.ready()).generation == worker.generation


def test_a_template_that_cannot_load_any_more_is_tried_again_later(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with serving() as server:
        server.system.broken = ("syntax error in app.py", 2)
        server.system.crash_template(1)
        server.run(3)
        assert "syntax error in app.py" in spoken.text
        assert server.total() == 1
        tries = spoken.text.count("syntax error")
        assert 1 <= tries <= 3
        server.system.broken = None
        server.until(lambda: any(t.ready for t in server.system.templates.values()), 40)


def test_with_nobody_serving_and_no_template_to_be_had_the_server_gives_up() -> None:
    with serving() as server:
        server.system.broken = ("gone for good", 2)
        server.system.crash_template(1)
        server.system.crash(only(server.ready()))
        server.run(120)
        assert server.over


def test_a_worker_that_was_asked_for_when_the_template_died_is_asked_for_again() -> None:
    with serving() as server:
        server.system.templates[1].stuck = True
        server.system.crash(only(server.ready()))
        server.until(lambda: server.system.templates[1].requests)
        server.system.crash_template(1)
        server.until(lambda: server.ready(), 5)


def test_a_template_that_hangs_is_ended() -> None:
    with serving(boot_timeout_s=5) as server:
        server.system.templates[1].stuck = True
        server.system.crash(only(server.ready()))
        server.until(lambda: server.ready(), 20)
        assert 1 not in server.system.templates


# --- without preload -----------------------------------------------------------------------


def test_without_preload_a_worker_that_cannot_load_ends_the_start_with_its_message() -> None:
    with not_started(preload=False) as server:
        server.system.broken = ("no module named aap", 2)
        with pytest.raises(BootFailed, match="no module named aap") as caught:
            server.spm.run()
        assert caught.value.exit_status == 2


def test_without_preload_one_that_cannot_load_later_is_only_tried_again(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with serving(preload=False) as server:
        server.run(10)
        server.system.broken = ("disk full", 2)
        server.system.crash(only(server.ready()))
        server.run(0.5)
        assert "disk full" in spoken.text
        server.system.broken = None
        server.until(lambda: server.ready(), 5)


# --- reload --------------------------------------------------------------------------------


def generations(server: FakeServer) -> list[int]:
    return [worker.generation for worker in server.ready()]


def test_a_reload_replaces_all_workers_and_never_has_fewer_than_before() -> None:
    with serving(min_workers=3) as server:
        fewest = 3

        def watch() -> None:
            nonlocal fewest
            fewest = min(fewest, len(server.ready()))

        server.system.during_wait = watch
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: generations(server) == [2, 2, 2], 5)
        server.run(3)
        assert fewest == 3
        assert server.total() == 3
        assert list(server.system.templates) == [2]
        values = server.readout()
        assert (values.generation, values.reload, values.restarts) == (2, "idle", 0)


def test_as_many_new_workers_come_as_served_before() -> None:
    with serving(max_workers=6, max_threads=1) as server:
        saturate(server, 4)
        server.until(lambda: len(server.ready()) >= 4, 3)
        before = len(server.ready())
        server.queue = 0
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.told_to_drain(), 5)
        assert generations(server).count(2) >= before


def test_busy_old_workers_finish_what_they_have() -> None:
    with serving() as server:
        old = only(server.ready())
        old.begin()
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: old.state == "draining", 5)
        server.run(5)
        assert old in server.system.alive()
        assert server.readout().reload == "leaving"
        old.end()
        server.until(lambda: server.readout().reload == "idle", 5)
        assert server.readout().lost == 0


def test_an_application_that_does_not_load_any_more_leaves_the_old_one_serving(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with serving() as server:
        worker = only(server.ready())
        server.system.broken = ("syntax error", 2)
        server.system.send_signal(signal.SIGHUP)
        server.run(5)
        assert server.ready() == [worker]
        assert "syntax error" in spoken.text
        assert "generation 1 goes on serving" in spoken.text
        server.system.broken = None
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "idle" and server.ready() != [worker], 5)
        assert generations(server) == [server.readout().generation]


def test_an_import_that_hangs_is_given_up() -> None:
    with serving(boot_timeout_s=5) as server:
        server.system.load_s = 1000
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "loading")
        assert 4 < server.until(lambda: server.readout().reload == "idle", 10) < 7
        assert generations(server) == [1]


def test_new_workers_that_do_not_come_up_leave_the_old_ones_serving() -> None:
    with serving() as server:
        worker = only(server.ready())
        server.run(1)
        server.system.send_signal(signal.SIGHUP)
        server.system.dying_starts = 100
        server.until(lambda: server.readout().reload == "rising", 2)
        server.until(lambda: server.readout().reload == "idle", 20)
        server.run(2)
        assert server.ready() == [worker]
        assert server.readout().generation == 1
        server.system.dying_starts = 0
        server.system.crash(worker)
        server.until(lambda: generations(server) == [1], 5)


def test_without_preload_a_new_application_that_does_not_load_is_given_up_at_once() -> None:
    with serving(preload=False) as server:
        worker = only(server.ready())
        server.system.broken = ("syntax error", 2)
        server.system.send_signal(signal.SIGHUP)
        server.run(3)
        assert server.ready() == [worker]
        assert server.readout().reload == "idle"


def test_reloads_asked_for_during_a_reload_are_done_once_afterwards() -> None:
    with serving() as server:
        for _ in range(4):
            server.system.send_signal(signal.SIGHUP)
        server.run(10)
        assert server.readout().generation == 3
        assert server.readout().reload == "idle"


def test_nothing_is_retired_while_the_new_generation_comes_up() -> None:
    with serving(max_workers=6, max_threads=1) as server:
        saturate(server, 6)
        server.until(lambda: len(server.ready()) == 6, 3)
        server.queue = 0
        for worker in server.ready():
            worker.end(worker.busy)
        server.system.start_s = 15
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "rising")
        server.until(lambda: server.readout().reload != "rising", 40)
        assert len(server.told_to_drain()) == 6
        assert generations(server).count(2) == 6


def test_load_that_rises_during_a_reload_gets_workers_of_the_new_generation() -> None:
    with serving(max_workers=6, max_threads=1) as server:
        server.system.start_s = 2
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "rising")
        saturate(server, 5)
        server.run(5)
        assert generations(server).count(2) >= 4


def test_memory_that_allows_fewer_than_before_does_not_stop_a_reload() -> None:
    with serving(max_workers=6, max_threads=1) as server:
        saturate(server, 6)
        server.until(lambda: len(server.ready()) == 6, 3)
        server.system.memory_available = 0
        server.run(6)
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "leaving", 10)


def test_a_template_that_dies_during_a_reload_does_not_stop_it() -> None:
    with serving(min_workers=2) as server:
        server.system.start_s = 1
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().reload == "rising")
        server.system.crash_template(2)
        server.until(lambda: generations(server) == [2, 2], 10)


# --- stop ----------------------------------------------------------------------------------


def test_an_idle_server_stops_at_once() -> None:
    with serving(min_workers=3) as server:
        server.system.send_signal(signal.SIGTERM)
        assert server.until(lambda: server.over, 5) < 0.3
        assert server.readout().restarts == 0


@pytest.mark.parametrize(("number", "linger_ms"), [(signal.SIGTERM, 2000), (signal.SIGINT, 300)])
def test_workers_are_told_how_long_to_linger(number: int, linger_ms: int) -> None:
    with serving() as server:
        only(server.ready()).begin()
        server.system.send_signal(number)
        server.run(0.1)
        assert server.system.scoreboard.words[H_LINGER_MS] == linger_ms


def test_a_stop_waits_for_requests_in_progress() -> None:
    with serving(graceful_timeout_s=10) as server:
        worker = only(server.ready())
        worker.begin()
        server.system.send_signal(signal.SIGTERM)
        server.run(3)
        assert not server.over
        worker.end()
        server.until(lambda: server.over, 1)
        assert server.readout().lost == 0


def test_who_does_not_finish_in_time_must_leave_and_is_killed_a_second_later() -> None:
    with serving(graceful_timeout_s=10, min_workers=2) as server:
        slow, stuck = server.ready()
        slow.begin()
        stuck.begin()
        stuck.hung = True
        server.system.send_signal(signal.SIGTERM)
        assert 9.9 < server.until(lambda: slow not in server.system.alive(), 15) < 10.3
        assert 0.8 < server.until(lambda: server.over, 5) < 1.3
        assert server.system.killed == [stuck.pid]


def test_a_second_signal_stops_at_once() -> None:
    with serving(graceful_timeout_s=10, min_workers=2) as server:
        slow, stuck = server.ready()
        slow.begin()
        stuck.hung = True
        server.system.send_signal(signal.SIGTERM)
        server.run(1)
        server.system.send_signal(signal.SIGINT)
        assert server.until(lambda: server.over, 5) < 0.5
        assert server.system.killed == [stuck.pid]


def test_workers_that_were_just_being_forked_leave_too() -> None:
    with serving(max_workers=4, max_threads=1) as server:
        server.system.templates[1].stuck = True
        saturate(server, 4)
        server.until(lambda: server.system.templates[1].requests, 3)
        only(server.ready()).end()
        server.queue = 0
        server.system.send_signal(signal.SIGTERM)
        server.run(0.5)
        server.system.templates[1].stuck = False
        server.until(lambda: server.over, 5)
        assert server.total() == 0


def test_a_reload_is_not_begun_while_stopping() -> None:
    with serving() as server:
        only(server.ready()).begin()
        server.system.send_signal(signal.SIGTERM)
        server.system.send_signal(signal.SIGHUP)
        server.run(1)
        assert server.readout().reload == "idle"


def test_a_death_while_stopping_is_not_repaired() -> None:
    with serving(min_workers=2) as server:
        for worker in server.ready():
            worker.begin()
        server.system.send_signal(signal.SIGTERM)
        server.run(0.5)
        server.system.crash(server.system.alive()[0])
        server.run(2)
        assert server.total() == 1
        assert server.readout().restarts == 0


# --- pid file and descriptors --------------------------------------------------------------


def test_the_pid_file_is_there_while_the_server_is(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with serving(pid_file=str(path)) as server:
        assert path.read_text() == f"{os.getpid()}\n"
        server.system.send_signal(signal.SIGTERM)
        server.until(lambda: server.over, 5)
    assert not path.exists()


def test_the_pid_file_of_a_living_server_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text(f"{os.getppid()}\n")
    with not_started(pid_file=str(path)) as server:
        with pytest.raises(BootFailed, match=f"process {os.getppid()} is running") as caught:
            server.spm.start()
        assert caught.value.exit_status == 2
    assert path.read_text() == f"{os.getppid()}\n"


def test_too_many_workers_for_the_descriptors_is_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("spm.manager.Inboxes", no_more)
    with pytest.raises(BootFailed, match="512 workers need 2048 descriptors: Too many open"):
        FakeServer(Path("unused"), max_workers=512)


def test_the_fake_machine_is_a_machine_in_the_eyes_of_the_manager() -> None:
    with not_started() as server:
        assert isinstance(server.system, FakeSystem)
