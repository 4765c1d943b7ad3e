"""EventLoop: descriptors, calls of other threads, timers, and who leads."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from httpcore_srv import event_loop
from httpcore_srv.event_loop import MAX_WAIT_S, EventLoop
from tests.fakes.worker import FakeClock

BOUND_S = 10.0  # for what should happen at once
Pairs = Callable[[], tuple[socket.socket, socket.socket]]


class Alarm:
    """A timer's item that makes a call."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.deadline_ns = 0
        self.due_tick = 0
        self.expire = call


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        made.extend((ours, theirs))
        return ours, theirs

    yield make
    for sock in made:
        sock.close()


class Leader(threading.Thread):
    """A thread that leads, and is never waited for without a bound."""

    def __init__(self, loop: EventLoop) -> None:
        super().__init__(daemon=True)
        self._loop = loop
        self._outcome: list[bool] = []
        self.start()

    def run(self) -> None:
        self._outcome.append(self._loop.run())

    def outcome(self) -> bool:
        self.join(BOUND_S)
        assert not self.is_alive(), "the loop did not return"
        return self._outcome[0]


def lead(loop: EventLoop) -> bool:
    return Leader(loop).outcome()


def stopping(loop: EventLoop) -> Callable[[], bool]:
    def call() -> bool:
        loop.stop()
        return False

    return call


# -- descriptors ---------------------------------------------------------------------------


def test_a_readable_descriptor_calls_its_handler_with_the_events(
    loop: EventLoop, pairs: Pairs
) -> None:
    ours, theirs = pairs()
    seen: list[tuple[int, bytes]] = []

    def handler(mask: int) -> bool:
        seen.append((mask, ours.recv(100)))
        loop.stop()
        return False

    loop.register(ours.fileno(), select.EPOLLIN, handler)
    theirs.send(b"hello")
    assert lead(loop)
    assert seen == [(select.EPOLLIN, b"hello")]


def test_a_descriptor_that_stays_ready_is_reported_in_every_round(
    loop: EventLoop, pairs: Pairs
) -> None:
    ours, theirs = pairs()
    calls: list[int] = []

    def handler(mask: int) -> bool:
        calls.append(mask)
        if len(calls) == 3:
            loop.stop()
        return False

    loop.register(ours.fileno(), select.EPOLLIN, handler)
    theirs.send(b"unread")
    assert lead(loop)
    assert len(calls) == 3


def test_modify_changes_what_is_watched_for(loop: EventLoop, pairs: Pairs) -> None:
    ours, _ = pairs()
    seen: list[int] = []

    def handler(mask: int) -> bool:
        seen.append(mask)
        loop.stop()
        return False

    loop.register(ours.fileno(), select.EPOLLIN, handler)
    loop.modify(ours.fileno(), select.EPOLLOUT)
    assert lead(loop)
    assert seen == [select.EPOLLOUT]


def test_watching_for_nothing_still_reports_a_hang_up(loop: EventLoop, pairs: Pairs) -> None:
    quiet, theirs = pairs()
    other, otherwise = pairs()
    seen: list[int] = []

    def on_quiet(mask: int) -> bool:
        seen.append(mask)
        loop.stop()
        return False

    def on_other(mask: int) -> bool:
        # A whole round has passed in which the bytes for `quiet` were not reported.
        assert seen == []
        other.recv(100)
        theirs.close()
        return False

    loop.register(quiet.fileno(), select.EPOLLIN, on_quiet)
    loop.modify(quiet.fileno(), 0)
    loop.register(other.fileno(), select.EPOLLIN, on_other)
    theirs.send(b"not asked for")
    otherwise.send(b"x")
    assert lead(loop)
    assert seen[0] & select.EPOLLHUP


def test_an_unregistered_descriptor_is_silent(loop: EventLoop, pairs: Pairs) -> None:
    ours, theirs = pairs()
    calls: list[int] = []
    loop.register(ours.fileno(), select.EPOLLIN, lambda mask: bool(calls.append(mask)))
    theirs.send(b"x")
    loop.unregister(ours.fileno())
    loop.post(stopping(loop))
    assert lead(loop)
    assert calls == []


def test_an_unregistered_descriptor_can_be_registered_again(loop: EventLoop, pairs: Pairs) -> None:
    ours, theirs = pairs()
    loop.register(ours.fileno(), select.EPOLLIN, lambda mask: pytest.fail("forgotten"))
    loop.unregister(ours.fileno())
    loop.register(ours.fileno(), select.EPOLLIN, lambda mask: stopping(loop)())
    theirs.send(b"x")
    assert lead(loop)


def test_registering_what_is_no_descriptor_raises_as_the_kernel_says(
    loop: EventLoop, pairs: Pairs
) -> None:
    ours, _ = pairs()
    number = ours.fileno()
    ours.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.register(number, select.EPOLLIN, lambda mask: False)


def test_an_event_of_a_descriptor_closed_in_the_same_batch_is_dropped(
    loop: EventLoop, pairs: Pairs
) -> None:
    (one, to_one), (two, to_two) = pairs(), pairs()
    called: list[socket.socket] = []

    def closes(other: socket.socket, me: socket.socket) -> Callable[[int], bool]:
        def handler(mask: int) -> bool:
            called.append(me)
            loop.unregister(other.fileno())
            other.close()
            me.recv(100)
            loop.post(stopping(loop))
            return False

        return handler

    loop.register(one.fileno(), select.EPOLLIN, closes(two, one))
    loop.register(two.fileno(), select.EPOLLIN, closes(one, two))
    to_one.send(b"x")
    to_two.send(b"x")
    assert lead(loop)
    assert len(called) == 1


def test_a_new_connection_under_a_number_closed_in_the_same_batch_is_served(
    loop: EventLoop, pairs: Pairs
) -> None:
    # The kernel gives out the lowest free number, so this happens all the time.
    (one, to_one), (two, to_two), (fresh, to_fresh) = pairs(), pairs(), pairs()
    received: list[bytes] = []

    def on_reborn(mask: int) -> bool:
        try:
            received.append(reborn[0].recv(100))
        except BlockingIOError:
            return False  # the old one's event
        loop.stop()
        return False

    reborn: list[socket.socket] = []

    def replaces(other: socket.socket, me: socket.socket) -> Callable[[int], bool]:
        def handler(mask: int) -> bool:
            me.recv(100)
            number = other.fileno()
            loop.unregister(number)
            other.detach()
            reborn.append(socket.socket(fileno=os.dup2(fresh.fileno(), number)))
            reborn[0].setblocking(False)
            loop.register(number, select.EPOLLIN, on_reborn)
            loop.post(lambda: bool(to_fresh.send(b"later")) and False)
            return False

        return handler

    loop.register(one.fileno(), select.EPOLLIN, replaces(two, one))
    loop.register(two.fileno(), select.EPOLLIN, replaces(one, two))
    to_one.send(b"x")
    to_two.send(b"x")
    assert lead(loop)
    assert received == [b"later"]
    reborn[0].close()


# -- the baton -----------------------------------------------------------------------------


def test_a_handler_that_lost_the_baton_ends_leading_at_once(loop: EventLoop, pairs: Pairs) -> None:
    seen: list[socket.socket] = []
    for _ in range(2):
        ours, theirs = pairs()

        def handler(mask: int, ours: socket.socket = ours) -> bool:
            ours.recv(100)
            seen.append(ours)
            return True

        loop.register(ours.fileno(), select.EPOLLIN, handler)
        theirs.send(b"x")
    assert not lead(loop)
    assert len(seen) == 1
    # The rest of the batch was forgotten, not lost: the new leader is told again.
    assert not lead(loop)
    assert len(set(seen)) == 2


def test_a_posted_call_that_lost_the_baton_ends_leading(loop: EventLoop) -> None:
    made: list[str] = []
    loop.post(lambda: made.append("first") is None)
    loop.post(lambda: made.append("second") is None)
    assert not lead(loop)
    assert made == ["first"]
    assert not lead(loop)
    assert made == ["first", "second"]


def test_the_loop_knows_which_thread_leads(loop: EventLoop) -> None:
    seen: list[int] = []

    def call() -> bool:
        seen.append(loop.leader)
        return True  # and the next one leads

    leaders = []
    for _ in range(2):
        loop.post(call)
        leader = Leader(loop)
        assert not leader.outcome()
        leaders.append(leader.native_id)
    assert seen == leaders


def test_the_baton_is_not_laid_down_at_first(loop: EventLoop) -> None:
    assert not loop.baton


# -- other threads -------------------------------------------------------------------------


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a wake-up ends a wait, not the heartbeat."""
    monkeypatch.setattr(event_loop, "MAX_WAIT_S", 600.0)


@pytest.mark.usefixtures("sleepy")
def test_a_call_posted_by_another_thread_wakes_the_leader(loop: EventLoop) -> None:
    waiting, made = threading.Event(), threading.Event()
    loop.before_wait = waiting.set
    leader = Leader(loop)
    assert waiting.wait(BOUND_S)
    thread: list[threading.Thread] = []

    def call() -> bool:
        thread.append(threading.current_thread())
        made.set()
        return False

    loop.post(call)
    assert made.wait(BOUND_S), "the leader was not woken"
    assert thread == [leader]
    loop.stop()
    assert leader.outcome()


@pytest.mark.usefixtures("sleepy")
def test_stop_from_another_thread_ends_a_wait(loop: EventLoop) -> None:
    waiting = threading.Event()
    loop.before_wait = waiting.set
    leader = Leader(loop)
    assert waiting.wait(BOUND_S)
    loop.stop()
    assert leader.outcome()


def test_a_stopped_loop_does_not_lead(loop: EventLoop) -> None:
    loop.before_wait = lambda: pytest.fail("it waited")
    loop.stop()
    assert lead(loop)


def test_calls_of_many_threads_are_all_made_and_in_each_threads_order(loop: EventLoop) -> None:
    made: list[tuple[int, int]] = []
    count, threads = 200, 8

    def post_all(number: int) -> None:
        for i in range(count):
            loop.post(lambda i=i: made.append((number, i)) is not None)

    posters = [threading.Thread(target=post_all, args=(n,), daemon=True) for n in range(threads)]
    leader = Leader(loop)
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join(BOUND_S)
        assert not poster.is_alive()
    loop.post(stopping(loop))
    assert leader.outcome()
    assert len(made) == count * threads
    for number in range(threads):
        assert [i for n, i in made if n == number] == list(range(count))


def test_a_call_that_posts_itself_lets_descriptors_have_their_turn(
    loop: EventLoop, pairs: Pairs
) -> None:
    ours, theirs = pairs()
    order: list[str] = []
    loop.register(ours.fileno(), select.EPOLLIN, lambda mask: order.append("event") is not None)
    theirs.send(b"never read")

    def again() -> bool:
        order.append("call")
        if len(order) >= 6:
            loop.stop()
        loop.post(again)
        return False

    loop.post(again)
    assert lead(loop)
    assert order == ["event", "call"] * 3


# -- time ----------------------------------------------------------------------------------


def test_a_timer_fires_when_its_moment_has_come() -> None:
    clock = FakeClock()
    loop = EventLoop(clock)
    rounds: list[int] = []

    def next_round() -> None:
        rounds.append(clock.now_ns)
        clock.advance(1.0)

    loop.before_wait = next_round
    loop.retry_s = 0.0  # the fake clock does not pass by itself
    loop.timers.schedule(Alarm(loop.stop), clock.now_ns + 2_500_000_000)
    assert lead(loop)
    assert len(rounds) == 3
    loop.close()


def test_events_come_before_the_timers_of_their_round(pairs: Pairs) -> None:
    # A client's bytes that have come count, even if its deadline has passed meanwhile.
    clock = FakeClock()
    loop = EventLoop(clock)
    ours, theirs = pairs()
    order: list[str] = []

    def expire() -> None:
        order.append("timer")
        loop.stop()

    def handler(mask: int) -> bool:
        ours.recv(100)
        order.append("event")
        return False

    loop.register(ours.fileno(), select.EPOLLIN, handler)
    theirs.send(b"x")
    loop.timers.schedule(Alarm(expire), clock.now_ns)
    loop.before_wait = lambda: clock.advance(1.0)
    assert lead(loop)
    assert order == ["event", "timer"]
    loop.close()


def test_handlers_see_the_time_after_the_wait(pairs: Pairs) -> None:
    clock = FakeClock()
    loop = EventLoop(clock)
    seen: list[int] = []

    def call() -> bool:
        seen.append(loop.now_ns)
        loop.stop()
        return False

    loop.before_wait = lambda: clock.advance(5.0)
    loop.post(call)
    start_ns = clock.now_ns
    assert lead(loop)
    assert seen == [start_ns + 5_000_000_000]
    loop.close()


class WaitRecorder:
    """A real epoll that notes how long it was asked to wait, and does not."""

    waits_s: list[float]
    reports: list[list[tuple[int, int]]]

    def __init__(self) -> None:
        self._epoll = REAL_EPOLL()
        self.waits_s = WaitRecorder.waits_s
        self.reports = WaitRecorder.reports

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        self.waits_s.append(timeout)
        self.reports.append(self._epoll.poll(0, maxevents))
        return self.reports[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


REAL_EPOLL = select.epoll


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    WaitRecorder.waits_s = []
    WaitRecorder.reports = []
    monkeypatch.setattr(select, "epoll", WaitRecorder)
    return WaitRecorder.waits_s


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timed(waits_s: list[float], clock: FakeClock) -> Iterator[EventLoop]:
    """A loop that leads for one round."""
    loop = EventLoop(clock)
    loop.before_wait = lambda: setattr(loop, "running", False)
    yield loop
    loop.close()


def test_an_idle_loop_waits_for_the_heartbeat(timed: EventLoop, waits_s: list[float]) -> None:
    assert lead(timed)
    assert waits_s == [MAX_WAIT_S]


@pytest.mark.parametrize(("retry_s", "wait_s"), [(0.01, 0.01), (0.0, 0.0), (9.0, MAX_WAIT_S)])
def test_a_retry_bounds_the_wait(
    timed: EventLoop, waits_s: list[float], retry_s: float, wait_s: float
) -> None:
    timed.retry_s = retry_s
    assert lead(timed)
    assert waits_s == [wait_s]


def test_the_wait_ends_when_the_next_timer_is_due(
    timed: EventLoop, clock: FakeClock, waits_s: list[float]
) -> None:
    timed.timers.schedule(Alarm(lambda: None), clock.now_ns + 250_000_000)
    due_ns = timed.timers.next_ns
    assert lead(timed)
    assert waits_s == [pytest.approx((due_ns - clock.now_ns) / 1e9)]


def test_a_far_timer_does_not_hold_up_the_heartbeat(
    timed: EventLoop, clock: FakeClock, waits_s: list[float]
) -> None:
    timed.timers.schedule(Alarm(lambda: None), clock.now_ns + 60_000_000_000)
    assert lead(timed)
    assert waits_s == [MAX_WAIT_S]


def test_a_timer_that_is_overdue_is_not_waited_for(
    timed: EventLoop, clock: FakeClock, waits_s: list[float]
) -> None:
    timed.timers.schedule(Alarm(lambda: None), clock.now_ns - 5_000_000_000)
    assert lead(timed)
    assert set(waits_s) == {0.0}


def test_what_came_while_the_process_was_stopped_goes_before_what_is_overdue(
    timed: EventLoop, clock: FakeClock, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that was stopped comes back from its wait with nothing, its time being over.
    look = WaitRecorder.poll
    ours, theirs = pairs()
    order: list[str] = []

    def stopped(self: WaitRecorder, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        if WaitRecorder.waits_s:
            return look(self, timeout, maxevents)
        WaitRecorder.waits_s.append(timeout)
        theirs.send(b"x")
        clock.advance(60)
        return []

    def read(mask: int) -> bool:
        order.append("event")
        ours.recv(10)
        return False

    monkeypatch.setattr(WaitRecorder, "poll", stopped)
    timed.register(ours.fileno(), select.EPOLLIN, read)
    timed.timers.schedule(Alarm(lambda: order.append("timer")), clock.now_ns + 5_000_000_000)
    assert lead(timed)
    assert order == ["event", "timer"]


def test_nothing_is_waited_for_while_a_call_is_posted(
    timed: EventLoop, waits_s: list[float]
) -> None:
    timed.post(lambda: False)
    assert lead(timed)
    assert waits_s == [0.0]


def test_a_call_posted_before_the_wait_is_not_waited_for(
    timed: EventLoop, waits_s: list[float]
) -> None:
    def before_wait() -> None:
        timed.post(lambda: False)
        timed.running = False

    timed.before_wait = before_wait
    assert lead(timed)
    assert waits_s == [0.0]


def test_a_wake_up_is_reported_once_however_many_calls_it_stands_for(
    timed: EventLoop, waits_s: list[float]
) -> None:
    rounds: list[int] = []

    def next_round() -> None:
        rounds.append(1)
        timed.running = len(rounds) < 3

    timed.before_wait = next_round
    for _ in range(5):
        timed.post(lambda: False)
    assert lead(timed)
    assert [len(report) for report in WaitRecorder.reports] == [1, 0, 0]
    assert waits_s == [0.0, MAX_WAIT_S, MAX_WAIT_S]


# -- the end -------------------------------------------------------------------------------


def test_a_closed_loop_leaves_no_descriptor_behind() -> None:
    before = os.listdir("/proc/self/fd")
    loop = EventLoop()
    assert len(os.listdir("/proc/self/fd")) > len(before)
    loop.close()
    assert os.listdir("/proc/self/fd") == before


def test_who_posts_to_a_closed_loop_writes_into_nobodys_descriptor() -> None:
    # A thread that ends its request after the worker's end: by then the number of the
    # wake-up may belong to somebody else.
    loop = EventLoop()
    loop.close()
    pairs = [socket.socketpair() for _ in range(4)]
    loop.post(lambda: False)
    loop.stop()
    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_posting_while_the_loop_is_closed_does_no_harm() -> None:
    for _ in range(50):
        loop = EventLoop()
        gate = threading.Barrier(2, timeout=BOUND_S)
        failed: list[BaseException] = []

        def post(
            loop: EventLoop = loop,
            gate: threading.Barrier = gate,
            failed: list[BaseException] = failed,
        ) -> None:
            gate.wait()
            try:
                loop.post(lambda: False)
            except OSError as error:
                failed.append(error)

        poster = threading.Thread(target=post)
        poster.start()
        gate.wait()
        loop.close()
        poster.join(BOUND_S)
        assert not poster.is_alive()
        assert failed == []
