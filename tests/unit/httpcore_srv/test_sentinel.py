"""Sentinel: takes the baton from a call that lasts, sleeps when nothing runs."""

from __future__ import annotations

import os
import queue
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv.sentinel import (
    ALERT_NS,
    CALM_PERIOD_S,
    LATE_NS,
    PATIENCE,
    PERIOD_S,
    QUIET_NS,
    SPARE_WINDOW_NS,
    Sentinel,
    is_runnable,
)
from tests.fakes.worker import FakeClock

BOUND_S = 10.0
LEADER = 4711


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# -- one look ------------------------------------------------------------------------------


class Watch:
    """A sentinel without its thread."""

    def __init__(self, clock: FakeClock, baton: deque[object] | None = None) -> None:
        self.baton: deque[object] = deque() if baton is None else baton
        self.taken = 0
        self.runnable = False  # whether the leader's thread could run if it had a core
        self.asked_about: list[int] = []
        self.sentinel = Sentinel(
            self.baton, self._take, lambda: LEADER, clock, runnable=self._is_runnable
        )
        self.sentinel.cpu_ns = clock  # all the time there is
        self._clock = clock

    def _take(self, what: object) -> None:
        assert what == "a stream"
        assert not self.baton, "told before the baton was held"
        self.taken += 1

    def _is_runnable(self, thread_id: int) -> bool:
        self.asked_about.append(thread_id)
        return self.runnable

    def begin_call(self) -> None:
        self._clock.advance(1e-5)
        self.sentinel.since_ns = self._clock()
        self.baton.append("a stream")

    def end_call(self) -> None:
        self.baton.remove("a stream")


@pytest.fixture
def watch(clock: FakeClock) -> Watch:
    return Watch(clock)


def test_a_baton_that_is_held_is_not_taken(watch: Watch) -> None:
    for _ in range(3 * PATIENCE):
        assert not watch.sentinel.look()
    assert watch.taken == 0


def test_a_call_that_is_seen_for_the_first_time_keeps_its_right_to_the_loop(watch: Watch) -> None:
    watch.begin_call()
    assert not watch.sentinel.look()
    assert len(watch.baton) == 1
    assert watch.taken == 0


def test_a_call_whose_thread_sleeps_at_the_second_look_loses_the_baton_once(watch: Watch) -> None:
    watch.begin_call()
    assert not watch.sentinel.look()
    assert watch.sentinel.look()
    assert watch.taken == 1
    assert not watch.baton
    for _ in range(3 * PATIENCE):
        assert not watch.sentinel.look()
    assert watch.taken == 1


def test_it_is_the_leaders_thread_that_must_sleep(watch: Watch) -> None:
    watch.begin_call()
    watch.sentinel.look()
    watch.sentinel.look()
    assert set(watch.asked_about) == {LEADER}


def test_a_call_whose_thread_only_waits_for_a_core_is_not_stuck(watch: Watch) -> None:
    watch.begin_call()
    watch.runnable = True
    for _ in range(PATIENCE - 1):
        assert not watch.sentinel.look()
    assert len(watch.baton) == 1
    watch.runnable = False
    assert watch.sentinel.look()


def test_a_call_that_computes_for_long_loses_the_baton_too(watch: Watch) -> None:
    watch.begin_call()
    watch.runnable = True
    looks = 1
    while not watch.sentinel.look():
        looks += 1
        assert looks <= PATIENCE + 1
    assert looks == PATIENCE + 1  # the first only learns that there is a call
    assert watch.taken == 1


def test_each_call_is_watched_by_itself(watch: Watch) -> None:
    for _ in range(3 * PATIENCE):
        watch.begin_call()
        assert not watch.sentinel.look()
        watch.end_call()
    assert watch.taken == 0


def test_patience_begins_anew_with_each_call(watch: Watch) -> None:
    watch.runnable = True
    for _ in range(3):
        watch.begin_call()
        for _ in range(PATIENCE):
            assert not watch.sentinel.look()
        watch.end_call()
    assert watch.taken == 0


class Vanishing(deque[object]):
    """The leader takes the baton back between the sentinel's look and its grasp."""

    vanishes = False

    def __bool__(self) -> bool:
        seen = len(self) > 0
        if self.vanishes:
            self.clear()
        return seen


def test_a_leader_that_was_faster_keeps_the_baton(clock: FakeClock) -> None:
    baton = Vanishing()
    watch = Watch(clock, baton)
    watch.begin_call()
    assert not watch.sentinel.look()
    baton.vanishes = True
    assert not watch.sentinel.look()
    assert watch.taken == 0


def test_exactly_one_of_two_gets_the_baton(watch: Watch) -> None:
    leader_got = 0
    for _ in range(2000):
        watch.begin_call()
        assert not watch.sentinel.look()
        barrier = threading.Barrier(2, timeout=BOUND_S)
        taken_before = watch.taken
        looking = threading.Thread(
            target=lambda barrier=barrier: (barrier.wait(), watch.sentinel.look())
        )
        looking.start()
        barrier.wait()
        try:
            watch.end_call()
            leader = 1
        except ValueError:
            leader = 0
        looking.join(BOUND_S)
        assert watch.taken - taken_before + leader == 1
        leader_got += leader
        if leader_got and watch.taken:
            break


# -- how often -----------------------------------------------------------------------------


def test_while_all_is_calm_looks_are_rare(watch: Watch, clock: FakeClock) -> None:
    assert watch.sentinel.pause_s() == CALM_PERIOD_S
    watch.begin_call()
    clock.advance((LATE_NS - 1000) / 1e9)
    assert watch.sentinel.pause_s() == CALM_PERIOD_S


def test_a_late_call_is_looked_at_again_soon(watch: Watch, clock: FakeClock) -> None:
    watch.begin_call()
    clock.advance(LATE_NS / 1e9)
    assert watch.sentinel.pause_s() == PERIOD_S
    watch.end_call()
    assert watch.sentinel.pause_s() == CALM_PERIOD_S


def test_after_a_stuck_call_looks_are_frequent_for_a_while(watch: Watch, clock: FakeClock) -> None:
    watch.begin_call()
    assert not watch.sentinel.look()
    assert watch.sentinel.look()
    clock.advance((ALERT_NS - 1000) / 1e9)
    assert watch.sentinel.pause_s() == PERIOD_S
    clock.advance(1e-5)
    assert watch.sentinel.pause_s() == CALM_PERIOD_S


def test_a_process_with_time_to_spare_looks_often(watch: Watch, clock: FakeClock) -> None:
    used_ns = 0
    watch.sentinel.cpu_ns = lambda: used_ns
    watch.sentinel.pause_s()
    pauses_s = []
    for share in (0.0, 0.2, 0.3, 1.0, 0.2):
        clock.advance(SPARE_WINDOW_NS / 1e9)
        used_ns += int(share * SPARE_WINDOW_NS)
        pauses_s.append(watch.sentinel.pause_s())
    assert pauses_s == [PERIOD_S, PERIOD_S, CALM_PERIOD_S, CALM_PERIOD_S, PERIOD_S]


def test_what_the_process_takes_is_seen_over_some_looks(watch: Watch, clock: FakeClock) -> None:
    asked: list[int] = []
    watch.sentinel.cpu_ns = lambda: asked.append(0) or 0
    clock.advance(SPARE_WINDOW_NS / 1e9)
    for _ in range(8):
        watch.sentinel.pause_s()
        clock.advance(PERIOD_S)
    assert len(asked) == 1


# -- whether a thread sleeps ---------------------------------------------------------------


def until(what: Callable[[], bool]) -> None:
    """Look until the kernel's view of a thread is as it must become; it sends no event."""
    end_s = time.monotonic() + BOUND_S
    while not what():
        assert time.monotonic() < end_s, "it never became so"
        os.sched_yield()


def test_the_thread_that_asks_is_runnable() -> None:
    assert is_runnable(threading.get_native_id())


def test_a_thread_that_waits_is_not_runnable() -> None:
    wake = threading.Event()
    thread = threading.Thread(target=lambda: wake.wait(BOUND_S), name="(a) b) R")
    thread.start()
    assert thread.native_id is not None
    until(lambda: not is_runnable(thread.native_id or 0))
    wake.set()
    thread.join(BOUND_S)
    assert not thread.is_alive()


def test_a_thread_that_computes_is_runnable_even_if_it_waits_for_a_core() -> None:
    stop: list[bool] = []
    thread = threading.Thread(target=lambda: deque(iter(lambda: bool(stop), True), maxlen=0))
    thread.start()
    until(lambda: is_runnable(thread.native_id or 0))
    stop.append(True)
    thread.join(BOUND_S)
    assert not thread.is_alive()


def test_a_thread_that_is_gone_is_not_runnable() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join(BOUND_S)
    until(lambda: not is_runnable(thread.native_id or 0))
    assert not is_runnable(0)


def test_running_out_of_descriptors_does_not_end_the_watch() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        is_runnable(threading.get_native_id())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- its thread ----------------------------------------------------------------------------


class Steps:
    """The sentinel's pause, in the test's hands: it looks when it is told to."""

    def __init__(self) -> None:
        self.pauses_s: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._go: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._free = False

    def pause(self, seconds: float) -> None:
        self.pauses_s.put(seconds)
        if not self._free:
            self._go.get(timeout=BOUND_S)

    def wait_for_pause(self) -> None:
        assert self.pauses_s.get(timeout=BOUND_S) in (PERIOD_S, CALM_PERIOD_S)

    def let_look(self) -> None:
        self._go.put(None)

    def set_free(self) -> None:
        self._free = True
        self._go.put(None)


class ScriptedBaton(deque[object]):
    """Says when it is looked at, and lets something happen just before or just after."""

    before_look: Callable[[], None] | None = None
    after_look: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        before, self.before_look = self.before_look, None
        if before is not None:
            before()
        seen = len(self) > 0
        after, self.after_look = self.after_look, None
        if after is not None:
            after()
        return seen


class Watcher:
    """A sentinel with its thread, one step at a time."""

    def __init__(self, clock: FakeClock, kind: type[Sentinel] = Sentinel) -> None:
        self.baton = ScriptedBaton()
        self.steps = Steps()
        self.clock = clock
        self.taken: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self.sentinel = kind(
            self.baton, self._take, lambda: LEADER, clock, self.steps.pause, lambda thread_id: False
        )
        self.sentinel.since_ns = clock()
        before = set(threading.enumerate())
        self.sentinel.start()
        self.steps.wait_for_pause()
        (self.thread,) = set(threading.enumerate()) - before

    def _take(self, what: object) -> None:
        assert what == "a stream"
        self.taken.put(threading.current_thread())

    def begin_call(self) -> None:
        """What the dispatcher does before it calls the application."""
        self.sentinel.since_ns = self.clock()
        self.baton.append("a stream")
        if self.sentinel.asleep:
            self.sentinel.wake()

    def fall_asleep(self) -> None:
        """Let it look after a quiet time; return once it is about to wait."""
        falling = threading.Event()
        self.clock.advance(2 * QUIET_NS / 1e9)
        # First look: is a call running. Second look: before it goes to sleep.
        self.baton.before_look = lambda: setattr(self.baton, "before_look", falling.set)
        self.steps.let_look()
        assert falling.wait(BOUND_S)
        assert self.sentinel.asleep

    def end(self) -> None:
        self.sentinel.stop()
        self.steps.set_free()
        self.thread.join(BOUND_S)
        assert not self.thread.is_alive(), "the sentinel's thread did not end"


@pytest.fixture
def watcher(clock: FakeClock) -> Iterator[Watcher]:
    watcher = Watcher(clock)
    yield watcher
    watcher.end()


def test_the_thread_does_not_keep_the_process_alive(watcher: Watcher) -> None:
    assert watcher.thread.daemon


def test_the_thread_takes_the_baton_of_a_call_that_lasts(watcher: Watcher) -> None:
    watcher.begin_call()
    watcher.steps.let_look()
    watcher.steps.wait_for_pause()
    watcher.steps.let_look()
    assert watcher.taken.get(timeout=BOUND_S) is watcher.thread
    watcher.steps.wait_for_pause()


def test_the_thread_keeps_looking_while_calls_are_recent(watcher: Watcher) -> None:
    for _ in range(5):
        watcher.begin_call()
        watcher.baton.pop()
        watcher.clock.advance(QUIET_NS / 1e9)
        watcher.steps.let_look()
        watcher.steps.wait_for_pause()
        assert not watcher.sentinel.asleep


def test_after_a_quiet_time_it_sleeps_until_it_is_woken(watcher: Watcher) -> None:
    watcher.fall_asleep()
    assert watcher.steps.pauses_s.empty()
    watcher.begin_call()
    watcher.steps.wait_for_pause()
    assert not watcher.sentinel.asleep
    for _ in range(2):
        watcher.steps.let_look()
        watcher.steps.wait_for_pause()
    assert watcher.taken.get(timeout=BOUND_S) is watcher.thread


def test_a_call_that_begins_just_before_it_sleeps_is_seen(watcher: Watcher) -> None:
    # It has set `asleep` and not yet looked for the baton: leader and sentinel both see.
    def second_look() -> None:
        assert watcher.sentinel.asleep
        watcher.begin_call()

    watcher.clock.advance(2 * QUIET_NS / 1e9)
    watcher.baton.before_look = lambda: setattr(watcher.baton, "before_look", second_look)
    watcher.steps.let_look()
    watcher.steps.wait_for_pause()
    assert not watcher.sentinel.asleep


def test_a_call_that_begins_just_as_it_falls_asleep_wakes_it(watcher: Watcher) -> None:
    # It has looked, found nothing, and not yet begun to wait: the leader's `wake` is kept.
    def first_look() -> None:
        watcher.baton.before_look = second_look

    def second_look() -> None:
        watcher.baton.after_look = watcher.begin_call

    watcher.clock.advance(2 * QUIET_NS / 1e9)
    watcher.baton.before_look = first_look
    watcher.steps.let_look()
    watcher.steps.wait_for_pause()
    assert not watcher.sentinel.asleep


def test_a_wake_for_a_call_that_is_over_does_no_harm(watcher: Watcher) -> None:
    watcher.fall_asleep()
    watcher.begin_call()
    watcher.baton.pop()
    watcher.steps.wait_for_pause()
    watcher.steps.let_look()
    watcher.steps.wait_for_pause()
    assert watcher.taken.empty()


def test_it_sleeps_again_after_it_was_woken(watcher: Watcher) -> None:
    watcher.fall_asleep()
    watcher.begin_call()
    watcher.baton.clear()
    watcher.steps.wait_for_pause()
    watcher.steps.let_look()  # its first look at the call: recent, so no sleep
    watcher.steps.wait_for_pause()
    watcher.fall_asleep()
    for _ in range(1000):
        os.sched_yield()
        assert watcher.sentinel.asleep
        assert watcher.steps.pauses_s.empty()


class Sleepy(Sentinel):
    """Lets something happen just after it has set `asleep`."""

    on_asleep: Callable[[], None] | None = None
    _asleep = False

    @property
    def asleep(self) -> bool:  # type: ignore[override]
        return self._asleep

    @asleep.setter
    def asleep(self, value: bool) -> None:
        self._asleep = value
        if value and self.on_asleep is not None:
            self.on_asleep()


@pytest.fixture
def sleepy(clock: FakeClock) -> Iterator[Watcher]:
    watcher = Watcher(clock, Sleepy)
    yield watcher
    watcher.end()


def test_a_call_that_begins_as_soon_as_it_says_asleep_is_seen(sleepy: Watcher) -> None:
    # The leader's `wake` comes before the alarm is cleared; its baton is there, though.
    assert isinstance(sleepy.sentinel, Sleepy)
    sleepy.sentinel.on_asleep = sleepy.begin_call
    sleepy.clock.advance(2 * QUIET_NS / 1e9)
    sleepy.steps.let_look()
    sleepy.steps.wait_for_pause()
    assert not sleepy.sentinel.asleep


def test_a_sentinel_stopped_as_soon_as_it_says_asleep_ends(sleepy: Watcher) -> None:
    assert isinstance(sleepy.sentinel, Sleepy)
    sleepy.sentinel.on_asleep = sleepy.sentinel.stop
    sleepy.clock.advance(2 * QUIET_NS / 1e9)
    sleepy.steps.let_look()
    sleepy.thread.join(BOUND_S)
    assert not sleepy.thread.is_alive()


def test_a_sleeping_sentinel_can_be_stopped(clock: FakeClock) -> None:
    watcher = Watcher(clock)
    watcher.fall_asleep()
    watcher.end()


def test_a_sentinel_stopped_on_its_way_to_sleep_does_not_sleep(clock: FakeClock) -> None:
    watcher = Watcher(clock)
    clock.advance(2 * QUIET_NS / 1e9)
    watcher.baton.before_look = lambda: setattr(watcher.baton, "before_look", watcher.sentinel.stop)
    watcher.steps.let_look()
    watcher.thread.join(BOUND_S)
    assert not watcher.thread.is_alive()
