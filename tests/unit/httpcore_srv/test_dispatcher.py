"""Dispatcher: inline while the application is quick, through the pool while it is not."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest

from httpcore_srv.experience import CALM_NS, QUICK_NS, QUICK_RUN
from httpcore_srv.sentinel import ALERT_NS, CALM_PERIOD_S, PERIOD_S
from tests.unit.httpcore_srv.dispatcher_rig import BOUND_S, Contested, FakeStream, Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


# -- inline --------------------------------------------------------------------------------


def test_a_quick_request_runs_on_the_leaders_own_thread(rig: Rig) -> None:
    stream = rig.stream()
    assert not rig.dispatcher.run(stream)
    assert stream.ran_on is threading.current_thread()
    assert rig.trace == ["respond", "responded"]
    assert rig.started == []


def test_the_baton_lies_there_while_the_application_runs_and_only_then(rig: Rig) -> None:
    seen: list[int] = []
    assert not rig.loop.baton
    rig.run(lambda: seen.append(len(rig.loop.baton)))
    assert seen == [1]
    assert not rig.loop.baton


def test_the_sentinel_knows_when_the_running_call_began(rig: Rig) -> None:
    seen: list[int] = []
    for _ in range(3):
        rig.clock.advance(0.005)
        rig.run(lambda: seen.append(rig.clock() - rig.sentinel.since_ns))
    assert seen == [0, 0, 0]


def test_the_beginning_is_known_before_the_baton_can_be_taken() -> None:
    class Noting(deque[object]):
        def append(self, item: object) -> None:
            noted.append(rig.clock() - rig.sentinel.since_ns)
            super().append(item)

    noted: list[int] = []
    rig = Rig(Noting())
    for _ in range(3):
        rig.clock.advance(0.005)
        rig.run()
    assert noted == [0, 0, 0]
    rig.close()


class SleepingSentinel:
    since_ns = 0
    asleep = True

    def __init__(self, baton: deque[object]) -> None:
        self._baton = baton
        self.woken_with_baton_down: list[bool] = []

    def wake(self) -> None:
        self.woken_with_baton_down.append(bool(self._baton))


def test_a_sleeping_sentinel_is_woken_after_the_baton_was_laid_down(rig: Rig) -> None:
    sleeper = SleepingSentinel(rig.loop.baton)
    rig.dispatcher.sentinel = sleeper  # type: ignore[assignment]
    rig.run()
    assert sleeper.woken_with_baton_down == [True]
    sleeper.asleep = False
    rig.run()
    assert sleeper.woken_with_baton_down == [True]


def test_an_inline_request_shows_as_busy_while_it_runs(rig: Rig) -> None:
    seen: list[int] = []
    rig.run(lambda: seen.append(rig.slot.busy_count))
    assert seen == [1]


def test_an_inline_request_shows_beside_those_of_the_pool(rig: Rig) -> None:
    may_end = threading.Event()
    rig.dispatcher.inline = False
    pooled = rig.stream(lambda: bool(may_end.wait(BOUND_S)) and None)
    rig.dispatcher.run(pooled)
    rig.dispatcher.inline = True
    seen: list[int] = []
    rig.run(lambda: seen.append(rig.slot.busy_count))
    may_end.set()
    pooled.wait_until_handed_back()
    assert seen == [2]


def test_service_times_of_inline_requests_are_given_out_once(rig: Rig) -> None:
    for duration_ns in (5, 70, 0):
        rig.run(lambda ns=duration_ns: rig.clock.advance(ns / 1e9))
    assert rig.slot.durations_ns == []
    for _ in range(2):
        with rig.pool.lock:
            rig.dispatcher.flush()
        assert rig.slot.durations_ns == [5, 70, 0]


def test_each_batch_says_anew_that_the_worker_is_busy(rig: Rig) -> None:
    seen: list[int] = []
    for _ in range(2):
        rig.run(lambda: seen.append(rig.slot.busy_count))
        with rig.pool.lock:
            rig.slot.publish(0, 0, 0, 0, 0, 0, 0)
            rig.dispatcher.flush()
    assert seen == [1, 1]


def test_inline_requests_are_counted(rig: Rig) -> None:
    counted: list[tuple[int, int, int, int]] = []
    for fails in (False, True, False, True):
        rig.run(lambda: counted.append(rig.counters()), fails=fails)
    assert counted == [(1, 0, 0, 0), (2, 1, 0, 0), (3, 2, 0, 1), (4, 3, 0, 1)]
    assert rig.counters() == (4, 4, 0, 2)


@pytest.mark.parametrize(
    ("computes", "pause_s"), [(False, PERIOD_S), (True, CALM_PERIOD_S)], ids=["waits", "computes"]
)
def test_a_request_that_waited_for_a_moment_makes_the_sentinel_look_more_often(
    rig: Rig, computes: bool, pause_s: float
) -> None:
    def app() -> None:
        rig.clock.advance(2 * QUICK_NS / 1e9)
        began_ns = time.thread_time_ns()
        while computes and time.thread_time_ns() - began_ns <= QUICK_NS:
            pass

    rig.run(app)  # nothing is known before the first, so it has raised the alarm
    alert_ends_ns = rig.clock() + ALERT_NS
    rig.run(app)
    rig.clock.now_ns = alert_ends_ns
    assert rig.sentinel.pause_s() == pause_s


def test_quick_requests_leave_the_sentinel_calm(rig: Rig) -> None:
    for _ in range(5):
        rig.run(lambda: rig.clock.advance((QUICK_NS - 1) / 1e9))
    assert rig.sentinel.pause_s() == CALM_PERIOD_S


# -- the sentinel comes --------------------------------------------------------------------


def test_a_call_that_lasts_costs_the_baton_and_its_stream_is_handed_back(rig: Rig) -> None:
    assert rig.run(rig.get_stuck)
    assert rig.trace == ["respond", "hand_back", "freed"]
    assert rig.freed.get(timeout=BOUND_S), "told of a free thread while a lock was held"


def test_after_a_takeover_another_thread_leads(rig: Rig) -> None:
    led_by: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def app() -> None:
        rig.get_stuck()
        # This thread is still in the application, and the loop goes on.
        rig.loop.post(lambda: led_by.put(threading.current_thread()) is not None)
        assert led_by.get(timeout=BOUND_S) in rig.started

    assert rig.run(app)


def test_a_stuck_call_counts_as_busy_until_it_ends(rig: Rig) -> None:
    seen: list[tuple[int, int]] = []

    def app() -> None:
        rig.get_stuck()
        seen.append((rig.pool.busy, rig.slot.busy_count))

    rig.run(app)
    assert seen == [(1, 1)]
    assert (rig.pool.busy, rig.slot.busy_count) == (0, 0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_lost_the_baton_is_counted_among_the_pools(rig: Rig, fails: bool) -> None:
    rig.run(rig.get_stuck, fails=fails)
    assert rig.counters() == (1, 0, 1, int(fails))
    assert rig.slot.durations_ns == [QUICK_NS]


def test_a_thread_that_lost_the_baton_is_the_pools_from_then_on(rig: Rig) -> None:
    assert rig.run(rig.get_stuck)
    assert rig.pool.idle == 1
    assert rig.pool.alive == 2


def test_a_takeover_switches_to_the_pool(rig: Rig) -> None:
    rig.run(rig.get_stuck)
    assert not rig.dispatcher.inline
    stream = rig.stream()
    # The one that lost the baton was counted idle; it would serve the queue now.
    rig.pool.run_aside(lambda: None)
    assert not rig.dispatcher.run(stream)
    threading.Thread(target=lambda: rig.pool.serve(leave_when_idle=False), daemon=True).start()
    stream.wait_until_handed_back()
    assert stream.ran_on is not threading.current_thread()


def test_a_late_thread_does_not_take_the_baton_of_the_one_who_leads_now(rig: Rig) -> None:
    others = object()

    def app() -> None:
        rig.get_stuck()
        # Long after: the application is quick again, and the new leader runs it inline.
        rig.loop.baton.append(others)

    assert rig.run(app)
    assert list(rig.loop.baton) == [others]


def test_a_stuck_call_may_end_before_the_sentinel_has_counted_it() -> None:
    baton = Contested()
    rig = Rig(baton)
    looking = threading.Thread(
        target=lambda: (rig.sentinel.look(), rig.sentinel.look()), name="looking", daemon=True
    )

    def app() -> None:
        rig.clock.advance(QUICK_NS / 1e9)
        looking.start()
        assert baton.taken.wait(BOUND_S)

    try:
        assert rig.run(app)
    finally:
        baton.go_on.set()
        looking.join(BOUND_S)
        rig.close()
    assert rig.trace == ["respond", "hand_back", "freed"]
    assert (rig.pool.busy, rig.slot.busy_count) == (0, 0)
    assert rig.counters() == (1, 0, 1, 0)


# -- through the pool ----------------------------------------------------------------------


@pytest.fixture
def pooled(rig: Rig) -> Rig:
    rig.dispatcher.inline = False
    return rig


def test_a_pooled_request_leaves_the_leader_its_baton(pooled: Rig) -> None:
    seen: list[int] = []
    stream = pooled.stream(lambda: seen.append(len(pooled.loop.baton)))
    assert not pooled.dispatcher.run(stream)
    stream.wait_until_handed_back()
    assert stream.ran_on in pooled.started
    assert seen == [0]


def test_without_a_thread_to_be_had_the_leader_runs_the_request_itself(
    pooled: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(target: object, name: str) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pooled.pool, "_start_thread", no_thread)
    stream = pooled.stream()
    assert not pooled.dispatcher.run(stream)
    assert stream.ran_on is threading.current_thread()
    assert pooled.trace == ["respond", "responded"]
    assert pooled.counters() == (1, 1, 0, 0)
    assert (pooled.pool.busy, pooled.pool.alive) == (0, 1)


def test_a_thread_is_free_before_its_connection_is_handed_back(pooled: Rig) -> None:
    # Otherwise the client's next request could come and find no free thread.
    busy: list[int] = []

    class Looking(FakeStream):
        def hand_back(self) -> None:
            busy.append(pooled.pool.busy)
            super().hand_back()

    stream = Looking(trace=pooled.trace)
    pooled.dispatcher.run(stream)
    stream.wait_until_handed_back()
    assert pooled.freed.get(timeout=BOUND_S)
    assert busy == [0]
    assert pooled.trace == ["respond", "hand_back", "freed"]


def test_pooled_requests_are_counted_and_timed(pooled: Rig) -> None:
    for duration_ns, fails in ((10, False), (QUICK_NS, True), (20, True)):
        pooled.run_pooled(duration_ns, fails=fails)
    assert pooled.counters() == (3, 0, 3, 2)
    assert pooled.slot.durations_ns == [10, QUICK_NS, 20]
    assert (pooled.pool.busy, pooled.slot.busy_count) == (0, 0)


def test_errors_of_both_ways_are_one_number(pooled: Rig) -> None:
    pooled.run_pooled(fails=True)
    pooled.dispatcher.inline = True
    pooled.run(fails=True)
    pooled.run()
    pooled.dispatcher.inline = False
    pooled.run_pooled(fails=True)
    assert pooled.counters() == (4, 2, 2, 3)


def test_requests_run_side_by_side(pooled: Rig) -> None:
    together = threading.Barrier(4, timeout=BOUND_S)
    streams = [pooled.stream(lambda: bool(together.wait()) and None) for _ in range(4)]
    for stream in streams:
        assert not pooled.dispatcher.run(stream)
    for stream in streams:
        stream.wait_until_handed_back()
    assert len({stream.ran_on for stream in streams}) == 4
    assert pooled.counters() == (4, 0, 4, 0)


def test_so_many_quick_requests_in_a_row_switch_back_to_inline(pooled: Rig) -> None:
    for _ in range(QUICK_RUN - 1):
        pooled.run_pooled(QUICK_NS - 1)
    assert not pooled.dispatcher.inline
    pooled.run_pooled(QUICK_NS - 1)
    assert pooled.dispatcher.inline
    assert not pooled.run()
    assert pooled.counters() == (QUICK_RUN + 1, 1, QUICK_RUN, 0)


def test_a_slow_request_begins_the_row_anew(pooled: Rig) -> None:
    for _ in range(QUICK_RUN - 1):
        pooled.run_pooled()
    pooled.run_pooled(QUICK_NS)
    for _ in range(QUICK_RUN - 1):
        pooled.run_pooled()
    assert not pooled.dispatcher.inline
    pooled.run_pooled()
    assert pooled.dispatcher.inline


def test_after_switching_back_a_takeover_asks_for_a_whole_row_again(pooled: Rig) -> None:
    for _ in range(QUICK_RUN):
        pooled.run_pooled()
    assert pooled.dispatcher.inline
    pooled.clock.advance(CALM_NS / 1e9)  # sooner it would ask for a longer one
    assert pooled.run(pooled.get_stuck)
    assert pooled.freed.get(timeout=BOUND_S)
    leaver = threading.Thread(target=lambda: pooled.pool.serve(leave_when_idle=False), daemon=True)
    leaver.start()
    for _ in range(QUICK_RUN - 1):
        pooled.run_pooled()
    assert not pooled.dispatcher.inline
    pooled.run_pooled()
    assert pooled.dispatcher.inline
    begun, inline, ended, _ = pooled.counters()
    assert begun == inline + ended == 2 * QUICK_RUN + 1


# -- kinds of requests ---------------------------------------------------------------------


@pytest.fixture
def wiser(rig: Rig) -> Rig:
    """A rig in which requests of kind 2 have been slow, and those of kind 1 quick since."""
    assert rig.run(rig.get_stuck, kind=2)
    assert rig.freed.get(timeout=BOUND_S)
    threading.Thread(target=lambda: rig.pool.serve(leave_when_idle=False), daemon=True).start()
    for number in range(QUICK_RUN):
        if number % 100 == 0:
            rig.run_pooled(100 * QUICK_NS, kind=2)
        rig.run_pooled(kind=1)
    return rig


def test_slow_requests_of_a_known_kind_do_not_keep_the_others_in_the_pool(wiser: Rig) -> None:
    assert wiser.dispatcher.inline
    stream = wiser.stream(kind=1)
    assert not wiser.dispatcher.run(stream)
    assert stream.ran_on is threading.current_thread()


def test_requests_of_a_kind_that_was_slow_go_through_the_pool(wiser: Rig) -> None:
    stream = wiser.stream(kind=2)
    assert not wiser.dispatcher.run(stream)
    stream.wait_until_handed_back()
    assert stream.ran_on is not threading.current_thread()


def test_a_kind_that_has_become_quick_runs_inline_again(wiser: Rig) -> None:
    for _ in range(QUICK_RUN):
        assert wiser.dispatcher.inline
        wiser.run_pooled(kind=2)
    stream = wiser.stream(kind=2)
    assert not wiser.dispatcher.run(stream)
    assert stream.ran_on is threading.current_thread()


def test_a_slow_kind_runs_inline_where_there_is_no_thread_to_be_had(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(target: object, name: str) -> None:
        raise RuntimeError("can't start new thread")

    assert rig.run(rig.get_stuck, kind=2)
    rig.dispatcher.inline = True
    rig.pool.run_aside(lambda: None)  # takes the idle one
    monkeypatch.setattr(rig.pool, "_start_thread", no_thread)
    stream = rig.stream(kind=2)
    assert not rig.dispatcher.run(stream)
    assert stream.ran_on is threading.current_thread()


# -- everything at once --------------------------------------------------------------------


def test_every_request_is_counted_once_while_the_sentinel_takes_what_it_can() -> None:
    rig = Rig()
    total = 600
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    streams: deque[FakeStream] = deque()

    class Counting(FakeStream):
        def responded(self) -> bool:
            ended.put(1)
            return False

        def hand_back(self) -> None:
            ended.put(1)

    for number in range(total):
        slow = number % 300 == 7
        app = rig.get_stuck if slow else (lambda: None)
        streams.append(Counting(app, fails=number % 10 == 0, trace=rig.trace))

    def feed() -> bool:
        """The leader's work: one request, then itself again."""
        if not streams:
            return False
        if rig.pool.busy >= rig.pool.max_threads:
            rig.loop.post(feed)
            return False
        # Posted first: after a takeover another thread goes on with it.
        stream = streams.popleft()
        rig.loop.post(feed)
        if not rig.dispatcher.inline:
            stream = Counting(trace=rig.trace, fails=stream._fails)
        return rig.dispatcher.run(stream)

    def main() -> None:
        if not rig.loop.run():
            rig.pool.serve(leave_when_idle=False)

    rig.loop.post(feed)
    first = threading.Thread(target=main, daemon=True)
    first.start()
    for _ in range(total):
        ended.get(timeout=BOUND_S)
    rig.loop.stop()
    rig.pool.close()
    first.join(BOUND_S)
    assert not first.is_alive()
    rig.close()
    begun, inline, pooled, errors = rig.counters()
    assert begun == inline + pooled == total
    assert errors == total // 10
    assert rig.pool.busy == 0
