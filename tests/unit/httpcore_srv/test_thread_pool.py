"""ThreadPool: grows when a job finds nobody idle, shrinks after an idle time, loses no job."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv.thread_pool import start_daemon_thread
from tests.unit.httpcore_srv.pool_rig import BOUND_S, LONG_S, SHORT_S, Request, Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(min_threads: int = 1, idle_s: float = LONG_S) -> Rig:
        rigs.append(Rig(min_threads, idle_s))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()


# -- growing -------------------------------------------------------------------------------


def test_a_new_pool_has_started_nothing(rig: Rig) -> None:
    assert rig.threads.started == []
    assert (rig.pool.busy, rig.pool.idle, rig.pool.alive) == (0, 0, 1)


def test_the_first_job_starts_a_thread_that_has_a_name(rig: Rig) -> None:
    thread = rig.submit().wait_until_begun()
    assert rig.threads.started == [thread]
    assert thread.name == "smart-http-1"
    assert rig.pool.alive == 2


def test_a_job_counts_as_busy_from_the_moment_it_was_submitted(rig: Rig) -> None:
    # The leader looks at `busy` before it submits the next one: that is what keeps
    # the application's threads at `max_threads`, however late they begin.
    for count in range(1, rig.pool.max_threads + 1):
        rig.submit()
        assert rig.pool.busy == count
    assert len(rig.threads.started) == rig.pool.max_threads


def test_a_thread_is_started_for_each_job_that_finds_nobody_idle(rig: Rig) -> None:
    working = {rig.submit().wait_until_begun() for _ in range(3)}
    assert working == set(rig.threads.started)
    assert len(working) == 3
    assert len(set(rig.threads.names)) == 3


def test_an_idle_thread_is_used_before_another_is_started(rig: Rig) -> None:
    for _ in range(5):
        request = rig.submit()
        request.wait_until_begun()
        request.end()
        rig.wait_for_idle(1)
    assert len(rig.threads.started) == 1
    assert (rig.pool.busy, rig.pool.alive) == (0, 2)


def test_an_idle_thread_is_promised_to_one_job_only(rig: Rig) -> None:
    first = rig.submit()
    first.end()
    rig.wait_for_idle(1)
    working = {rig.submit().wait_until_begun() for _ in range(2)}
    assert len(working) == 2
    assert rig.pool.idle == 0


def test_a_thread_is_idle_in_the_moment_in_which_it_is_no_longer_busy(rig: Rig) -> None:
    # Else each request that comes right behind another's end would start a thread.
    request = rig.submit()
    request.wait_until_begun()
    seen: list[tuple[int, int]] = []
    request.end()
    rig.lock.wait_for(lambda: seen.append((rig.pool.busy, rig.pool.idle)) or rig.pool.idle == 1)
    assert set(seen) <= {(1, 0), (0, 1)}


def lie_down_in_turn(rig: Rig, count: int) -> list[threading.Thread]:
    """Return idle threads, in the order in which they have become so."""
    requests = [rig.submit() for _ in range(count)]
    threads = [request.wait_until_begun() for request in requests]
    for request in requests:
        request.end()
        rig.wait_until_down(requests.index(request) + 1)
    return threads


def test_the_thread_that_became_idle_last_is_used_first(rig: Rig) -> None:
    threads = lie_down_in_turn(rig, 4)
    assert [rig.submit().wait_until_begun() for _ in range(4)] == threads[::-1]


def test_of_many_jobs_at_once_each_wakes_a_thread(rig: Rig) -> None:
    threads = lie_down_in_turn(rig, 4)
    requests = [rig.submit() for _ in range(4)]
    assert {request.wait_until_begun() for request in requests} == set(threads)
    assert len(rig.threads.started) == 4


def test_light_load_stays_on_one_thread_and_the_others_can_leave(make_rig: MakeRig) -> None:
    rig = make_rig(min_threads=1)
    last = lie_down_in_turn(rig, 3)[-1]
    for _ in range(10):
        request = rig.submit()
        assert request.wait_until_begun() is last
        request.end()
        rig.wait_until_down(3)


def test_jobs_begin_in_the_order_in_which_they_came(rig: Rig) -> None:
    begun: list[int] = []
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    rig.submit().wait_until_begun()
    rig.threads.hold_back = threading.Event()  # so that they queue up behind the one

    def job(number: int) -> Callable[[], None]:
        def call() -> None:
            begun.append(number)
            with rig.pool.lock:
                rig.pool.ended()
            done.put(number)

        return call

    for number in range(5):
        rig.pool.submit(job(number))
    rig.requests[0].end()
    for _ in range(5):
        done.get(timeout=BOUND_S)
    rig.threads.hold_back.set()
    assert begun == list(range(5))


# -- the spare thread ----------------------------------------------------------------------


def test_a_job_run_aside_is_not_busy_and_knows_no_limit(rig: Rig) -> None:
    for _ in range(rig.pool.max_threads):
        rig.submit().wait_until_begun()
    aside = rig.run_aside()
    assert aside.wait_until_begun() not in set(rig.threads.started[:-1])
    assert rig.pool.busy == rig.pool.max_threads
    assert rig.pool.alive == rig.pool.max_threads + 2


def test_a_job_run_aside_takes_an_idle_thread_if_there_is_one(rig: Rig) -> None:
    request = rig.submit()
    thread = request.wait_until_begun()
    request.end()
    rig.wait_for_idle(1)
    aside = rig.run_aside()
    assert aside.wait_until_begun() is thread
    assert rig.pool.idle == 0


# -- shrinking -----------------------------------------------------------------------------


def test_idle_threads_above_the_minimum_leave(make_rig: MakeRig) -> None:
    rig = make_rig(min_threads=1, idle_s=SHORT_S)
    rig.run_together(4)
    rig.lock.wait_for(lambda: rig.pool.alive == 2)
    # Whoever is left asks again and again, is told to stay, and serves on.
    for _ in range(3):
        rig.lock.entered_by.clear()
        rig.lock.wait_for(lambda: any(t in rig.threads.started for t in rig.lock.entered_by))
    assert (rig.pool.alive, rig.pool.idle) == (2, 1)
    last = rig.submit().wait_until_begun()
    assert last in rig.threads.started
    assert len(rig.threads.started) == 4
    for thread in rig.threads.started:
        if thread is not last:
            thread.join(BOUND_S)
            assert not thread.is_alive()


def test_busy_threads_do_not_leave(make_rig: MakeRig) -> None:
    rig = make_rig(min_threads=1, idle_s=SHORT_S)
    requests = [rig.submit() for _ in range(3)]
    for request in requests:
        request.wait_until_begun()
    rig.submit().end()
    # One is idle and may leave; three are busy, far beyond the minimum.
    rig.lock.wait_for(lambda: rig.pool.alive == 4)
    assert (rig.pool.busy, rig.pool.idle) == (3, 0)


def test_the_pool_grows_again_after_it_has_shrunk(make_rig: MakeRig) -> None:
    rig = make_rig(min_threads=0, idle_s=SHORT_S)
    for _ in range(3):
        rig.submit().end()
        rig.lock.wait_for(lambda: rig.pool.alive == 1)
    assert rig.pool.idle == 0
    assert len(rig.threads.started) == 3


def test_a_thread_whose_time_is_over_takes_the_job_that_came_in_that_moment(
    make_rig: MakeRig,
) -> None:
    # Its idle time has ended, and before it has the lock to ask whether it may leave, the
    # leader hands it a job.
    rig = make_rig(min_threads=0, idle_s=0.2)
    first = rig.submit()
    thread = first.wait_until_begun()
    first.end()
    rig.wait_for_idle(1)
    late: list[Request] = []
    rig.lock.before_entry = (thread, lambda: late.append(rig.submit()))
    rig.lock.wait_for(lambda: bool(late))
    assert late[0].wait_until_begun() is thread
    assert len(rig.threads.started) == 1
    assert rig.pool.alive == 2


def test_a_thread_whose_job_another_took_leaves_when_idle(make_rig: MakeRig) -> None:
    rig = make_rig(min_threads=0, idle_s=SHORT_S)
    first = rig.submit()
    thread = first.wait_until_begun()
    rig.threads.hold_back = threading.Event()
    second = rig.submit()
    first.end()
    assert second.wait_until_begun() is thread
    rig.threads.hold_back.set()
    second.end()
    rig.lock.wait_for(lambda: rig.pool.alive == 1)


def test_the_main_thread_serves_too_and_never_leaves(make_rig: MakeRig) -> None:
    rig = make_rig(min_threads=0, idle_s=SHORT_S)
    # As after a takeover: the leader's own request ends on what is a pool thread now.
    with rig.pool.lock:
        rig.pool.busy += 1
        rig.pool.ended()
    main = threading.Thread(target=lambda: rig.pool.serve(leave_when_idle=False), daemon=True)
    main.start()
    blocking = rig.submit()
    assert blocking.wait_until_begun() is main
    rig.run_together(2)
    rig.lock.wait_for(lambda: rig.pool.alive == 1)  # all others have left
    blocking.end()
    rig.wait_for_idle(1)
    assert rig.submit().wait_until_begun() is main
    rig.close()
    main.join(BOUND_S)
    assert not main.is_alive()


def test_the_main_thread_stays_although_others_are_busy(make_rig: MakeRig) -> None:
    rig = make_rig(min_threads=0, idle_s=SHORT_S)
    rig.submit().wait_until_begun()
    short = rig.submit()
    short.wait_until_begun()
    with rig.pool.lock:
        rig.pool.busy += 1
        rig.pool.ended()
    main = threading.Thread(target=lambda: rig.pool.serve(leave_when_idle=False), daemon=True)
    main.start()
    short.end()
    # The other idle one came later and has left, so the main thread's time is over, too.
    rig.lock.wait_for(lambda: rig.pool.alive == 2)
    assert rig.submit().wait_until_begun() is main


# -- no more threads to be had -------------------------------------------------------------


def test_a_job_whose_thread_cannot_be_started_is_not_taken(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    first = rig.submit()
    first.wait_until_begun()
    rig.threads.exhausted = True
    assert not rig.pool.submit(lambda: pytest.fail("it ran all the same"))
    assert "cannot start another thread" in caplog.text
    assert (rig.pool.busy, rig.pool.alive, rig.pool.idle) == (1, 2, 0)
    first.end()
    rig.wait_for_idle(1)
    assert rig.submit().wait_until_begun() is rig.threads.started[0]


def test_a_job_that_another_took_while_no_thread_could_be_started_counts_as_taken(
    rig: Rig,
) -> None:
    first = rig.submit()
    thread = first.wait_until_begun()
    second = Request(rig.pool)
    rig.requests.append(second)

    def fail_late(target: Callable[[], None], name: str) -> None:
        first.end()
        assert second.wait_until_begun() is thread
        raise RuntimeError("can't start new thread")

    rig.pool._start_thread = fail_late
    assert rig.pool.submit(second)
    assert (rig.pool.busy, rig.pool.alive, rig.pool.idle) == (1, 2, 0)
    second.end()
    rig.wait_for_idle(1)
    assert rig.submit().wait_until_begun() is thread


def test_a_job_needs_no_new_thread_where_one_is_idle(rig: Rig) -> None:
    rig.run_together(1)
    rig.wait_for_idle(1)
    rig.threads.exhausted = True
    assert rig.submit().wait_until_begun() is rig.threads.started[0]


def test_a_thread_that_has_a_job_waiting_is_not_promised_another(rig: Rig) -> None:
    first = rig.submit()
    thread = first.wait_until_begun()
    rig.threads.exhausted = True
    second = rig.run_aside()
    first.end()
    assert second.wait_until_begun() is thread
    rig.threads.exhausted = False
    third = rig.submit()
    assert third.wait_until_begun() is not thread
    assert rig.pool.alive == 3


def test_a_spare_job_without_any_thread_runs_with_the_next_one_that_starts(rig: Rig) -> None:
    rig.threads.exhausted = True
    first = rig.run_aside()
    rig.threads.exhausted = False
    second = rig.submit()
    thread = first.wait_until_begun()
    first.end()
    assert second.wait_until_begun() is thread
    second.end()
    rig.wait_for_idle(1)
    assert (rig.pool.busy, rig.pool.alive) == (0, 2)
    third = rig.submit()
    assert third.wait_until_begun() is thread


def test_a_spare_thread_that_cannot_be_started_is_replaced_by_one_that_comes_back(
    rig: Rig,
) -> None:
    first = rig.submit()
    thread = first.wait_until_begun()
    rig.threads.exhausted = True
    aside = rig.run_aside()
    first.end()
    assert aside.wait_until_begun() is thread


# -- the end -------------------------------------------------------------------------------


def test_closing_releases_every_thread_that_waits(rig: Rig) -> None:
    rig.run_together(4)
    rig.wait_for_idle(4)
    rig.pool.close()
    rig.threads.join()


def test_closing_releases_busy_threads_when_they_have_finished(rig: Rig) -> None:
    requests = [rig.submit() for _ in range(3)]
    for request in requests:
        request.wait_until_begun()
    rig.pool.close()
    assert all(thread.is_alive() for thread in rig.threads.started)
    for request in requests:
        request.end()
    rig.threads.join()
    assert rig.pool.busy == 0


def test_jobs_submitted_before_the_end_still_run(rig: Rig) -> None:
    first = rig.submit()
    thread = first.wait_until_begun()
    rig.threads.hold_back = threading.Event()
    second = rig.submit()
    rig.pool.close()
    first.end()
    assert second.wait_until_begun() is thread
    second.end()
    rig.threads.hold_back.set()
    rig.threads.join()


def test_a_pool_thread_does_not_keep_the_process_alive() -> None:
    seen: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    start_daemon_thread(lambda: seen.put(threading.current_thread()), "smart-http-7")
    thread = seen.get(timeout=BOUND_S)
    assert thread.daemon
    assert thread.name == "smart-http-7"
    thread.join(BOUND_S)
    assert not thread.is_alive()


def test_many_jobs_from_many_rounds_all_run_on_few_threads(rig: Rig) -> None:
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def job() -> None:
        with rig.pool.lock:
            rig.pool.ended()
        done.put(1)

    for _ in range(2000):
        rig.lock.wait_for(lambda: rig.pool.busy < rig.pool.max_threads)
        rig.pool.submit(job)
    for _ in range(2000):
        done.get(timeout=BOUND_S)
    assert len(rig.threads.started) <= rig.pool.max_threads
    assert (rig.pool.busy, rig.pool.idle) == (0, len(rig.threads.started))
