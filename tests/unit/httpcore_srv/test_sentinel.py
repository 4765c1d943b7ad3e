"""Sentinel: takes the baton from a call that lasts, sleeps when nothing runs."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv.sentinel import LIMIT_NS, PERIOD_S, QUIET_NS, Sentinel

BOUND_S = 10.0


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def advance_ns(self, nanoseconds: int) -> None:
        self.now_ns += nanoseconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# -- one look ------------------------------------------------------------------------------


class Watch:
    """A sentinel without its thread."""

    def __init__(self, clock: FakeClock, baton: deque[bool] | None = None) -> None:
        self.baton: deque[bool] = deque() if baton is None else baton
        self.taken = 0
        self.sentinel = Sentinel(self.baton, self._take, clock)
        self._clock = clock

    def _take(self) -> None:
        assert not self.baton, "told before the baton was held"
        self.taken += 1

    def begin_call(self) -> None:
        self.sentinel.since_ns = self._clock()
        self.baton.append(True)


def test_a_baton_that_is_held_is_not_taken(clock: FakeClock) -> None:
    watch = Watch(clock)
    clock.advance_ns(10 * LIMIT_NS)
    assert not watch.sentinel.look()
    assert watch.taken == 0


@pytest.mark.parametrize("age_ns", [0, LIMIT_NS - 1])
def test_a_young_call_keeps_its_right_to_the_loop(clock: FakeClock, age_ns: int) -> None:
    watch = Watch(clock)
    watch.begin_call()
    clock.advance_ns(age_ns)
    assert not watch.sentinel.look()
    assert list(watch.baton) == [True]
    assert watch.taken == 0


@pytest.mark.parametrize("age_ns", [LIMIT_NS, 1000 * LIMIT_NS])
def test_a_call_that_lasts_loses_the_baton_once(clock: FakeClock, age_ns: int) -> None:
    watch = Watch(clock)
    watch.begin_call()
    clock.advance_ns(age_ns)
    assert watch.sentinel.look()
    assert watch.taken == 1
    assert not watch.baton
    assert not watch.sentinel.look()
    assert watch.taken == 1


def test_each_call_is_measured_by_itself(clock: FakeClock) -> None:
    watch = Watch(clock)
    for _ in range(5):
        watch.begin_call()
        clock.advance_ns(LIMIT_NS - 1)
        assert not watch.sentinel.look()
        watch.baton.pop()
    assert watch.taken == 0


class Vanishing(deque[bool]):
    """The leader takes the baton back between the sentinel's look and its grasp."""

    def __bool__(self) -> bool:
        seen = len(self) > 0
        self.clear()
        return seen


def test_a_leader_that_was_faster_keeps_the_baton(clock: FakeClock) -> None:
    watch = Watch(clock, Vanishing())
    watch.begin_call()
    clock.advance_ns(LIMIT_NS)
    assert not watch.sentinel.look()
    assert watch.taken == 0


def test_exactly_one_of_two_gets_the_baton(clock: FakeClock) -> None:
    watch = Watch(clock)
    leader_got = 0
    for _ in range(2000):
        watch.begin_call()
        clock.advance_ns(LIMIT_NS)
        barrier = threading.Barrier(2, timeout=BOUND_S)
        taken_before = watch.taken
        looking = threading.Thread(target=lambda: (barrier.wait(), watch.sentinel.look()))
        looking.start()
        barrier.wait()
        try:
            watch.baton.pop()
            leader = 1
        except IndexError:
            leader = 0
        looking.join(BOUND_S)
        assert watch.taken - taken_before + leader == 1
        leader_got += leader
        if 0 < leader_got < watch.taken:
            break


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
        assert self.pauses_s.get(timeout=BOUND_S) == PERIOD_S

    def let_look(self) -> None:
        self._go.put(None)

    def set_free(self) -> None:
        self._free = True
        self._go.put(None)


class ScriptedBaton(deque[bool]):
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

    def __init__(self, clock: FakeClock) -> None:
        self.baton = ScriptedBaton()
        self.steps = Steps()
        self.clock = clock
        self.taken: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self.sentinel = Sentinel(self.baton, self._take, clock, self.steps.pause)
        self.sentinel.since_ns = clock()
        before = set(threading.enumerate())
        self.sentinel.start()
        self.steps.wait_for_pause()
        (self.thread,) = set(threading.enumerate()) - before

    def _take(self) -> None:
        self.taken.put(threading.current_thread())

    def begin_call(self) -> None:
        """What the dispatcher does before it calls the application."""
        self.sentinel.since_ns = self.clock()
        self.baton.append(True)
        if self.sentinel.asleep:
            self.sentinel.wake()

    def fall_asleep(self) -> None:
        """Let it look after a quiet time; return once it is about to wait."""
        falling = threading.Event()
        self.clock.advance_ns(QUIET_NS + 1)
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
    watcher.clock.advance_ns(LIMIT_NS)
    watcher.steps.let_look()
    assert watcher.taken.get(timeout=BOUND_S) is watcher.thread
    watcher.steps.wait_for_pause()


def test_the_thread_keeps_looking_while_calls_are_recent(watcher: Watcher) -> None:
    for _ in range(5):
        watcher.begin_call()
        watcher.baton.pop()
        watcher.clock.advance_ns(QUIET_NS)
        watcher.steps.let_look()
        watcher.steps.wait_for_pause()
        assert not watcher.sentinel.asleep


def test_after_a_quiet_time_it_sleeps_until_it_is_woken(watcher: Watcher) -> None:
    watcher.fall_asleep()
    assert watcher.steps.pauses_s.empty()
    watcher.begin_call()
    watcher.steps.wait_for_pause()
    assert not watcher.sentinel.asleep
    watcher.clock.advance_ns(LIMIT_NS)
    watcher.steps.let_look()
    assert watcher.taken.get(timeout=BOUND_S) is watcher.thread
    watcher.steps.wait_for_pause()


def test_a_call_that_begins_just_before_it_sleeps_is_seen(watcher: Watcher) -> None:
    # It has set `asleep` and not yet looked for the baton: leader and sentinel both see.
    def second_look() -> None:
        assert watcher.sentinel.asleep
        watcher.begin_call()

    watcher.clock.advance_ns(QUIET_NS + 1)
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

    watcher.clock.advance_ns(QUIET_NS + 1)
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


def test_a_sleeping_sentinel_can_be_stopped(clock: FakeClock) -> None:
    watcher = Watcher(clock)
    watcher.fall_asleep()
    watcher.end()


def test_a_sentinel_stopped_on_its_way_to_sleep_does_not_sleep(clock: FakeClock) -> None:
    watcher = Watcher(clock)
    clock.advance_ns(QUIET_NS + 1)
    watcher.baton.before_look = lambda: setattr(
        watcher.baton, "before_look", watcher.sentinel.stop
    )
    watcher.steps.let_look()
    watcher.thread.join(BOUND_S)
    assert not watcher.thread.is_alive()
