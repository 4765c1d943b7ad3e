"""Dispatcher: threads that wait for a client, that stream for long, that are stuck."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv.experience import QUICK_NS
from tests.unit.httpcore_srv.dispatcher_rig import (
    BOUND_S,
    MAX_STREAMS,
    Contested,
    FakeStream,
    Rig,
)


class Held(FakeStream):
    """A request on a pool thread that does what the test says, one step at a time."""

    def __init__(self, rig: Rig, *, fails: bool = False) -> None:
        super().__init__(self._follow, fails=fails, trace=rig.trace)
        self._orders: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.ended = False
        rig.held.append(self)
        assert not rig.dispatcher.run(self)
        self.do(lambda: None)  # it runs

    def _follow(self) -> None:
        while (order := self._orders.get(timeout=BOUND_S)) is not None:
            self._results.put(order())

    def do(self, order: Callable[[], object]) -> object:
        """Have the thread of this request do something; return what came of it."""
        self._orders.put(order)
        return self._results.get(timeout=BOUND_S)

    def end(self) -> None:
        """Let the application return."""
        self.ended = True
        self._orders.put(None)


class AsideRig(Rig):
    """A rig whose requests may be held."""

    def __init__(self, contested: Contested | None = None) -> None:
        super().__init__(contested)
        self.held: list[Held] = []

    def hold(self, *, fails: bool = False) -> Held:
        self.dispatcher.inline = False
        return Held(self, fails=fails)

    def wait_aside(self, stream: Held) -> bool:
        """Have a request's thread wait for its client."""
        return bool(stream.do(lambda: self.dispatcher.wait_aside(stream)))

    def until_free(self) -> None:
        """Wait until a thread has said that it is free."""
        assert self.freed.get(timeout=BOUND_S), "told of a free thread while a lock was held"

    def counts(self) -> dict[str, int]:
        """Return what is not zero."""
        names = ("busy", "streams", "written_off", "idle")
        return {name: getattr(self.pool, name) for name in names if getattr(self.pool, name)}

    def shown(self) -> tuple[int, int]:
        return self.slot.busy_count, self.slot.streams

    def leader(self) -> threading.Thread:
        """Return the thread that leads now."""
        seen: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self.loop.post(lambda: seen.put(threading.current_thread()) is not None)
        return seen.get(timeout=BOUND_S)

    def serve(self) -> threading.Thread:
        """Be the thread that lost the baton: it serves the queue now. Return its stand-in."""
        thread = threading.Thread(target=lambda: self.pool.serve(leave_when_idle=False))
        self.started.append(thread)
        thread.start()
        return thread

    def close(self) -> None:
        for stream in self.held:
            if not stream.ended:
                stream.end()
        super().close()


@pytest.fixture
def rig() -> Iterator[AsideRig]:
    rig = AsideRig()
    yield rig
    rig.close()


# -- a pool thread waits for its client --------------------------------------------------------


def test_a_pool_thread_that_waits_for_its_client_frees_its_place(rig: AsideRig) -> None:
    stream = rig.hold()
    assert rig.counts() == {"busy": 1}
    assert rig.wait_aside(stream)
    assert rig.counts() == {"streams": 1}
    assert rig.shown() == (0, 1)
    rig.until_free()  # whoever waits for a thread is to look
    stream.end()
    stream.wait_until_handed_back()
    rig.until_free()
    assert rig.counts() == {"idle": 1}
    assert rig.shown() == (0, 0)
    assert rig.counters() == (1, 0, 1, 0)
    assert rig.dispatcher.running == {}


def test_a_request_that_waits_again_and_again_counts_once(rig: AsideRig) -> None:
    stream = rig.hold()
    assert all(rig.wait_aside(stream) for _ in range(3))
    assert rig.counts() == {"streams": 1}
    stream.end()
    stream.wait_until_handed_back()
    assert rig.counts() == {"idle": 1}


def test_with_too_many_streams_a_thread_that_waits_stays_busy(rig: AsideRig) -> None:
    streams = [rig.hold() for _ in range(MAX_STREAMS)]
    one_more = rig.hold()
    for stream in streams:
        assert rig.wait_aside(stream)
    assert not rig.wait_aside(one_more)
    assert rig.counts() == {"busy": 1, "streams": MAX_STREAMS}
    streams[0].end()
    streams[0].wait_until_handed_back()
    assert rig.wait_aside(one_more)  # asked again, there is room
    assert rig.counts() == {"streams": MAX_STREAMS, "idle": 1}


def test_one_too_many_ends_as_a_busy_one(rig: AsideRig) -> None:
    rig.pool.max_streams = 0
    stream = rig.hold()
    assert not rig.wait_aside(stream)
    stream.end()
    stream.wait_until_handed_back()
    assert rig.counts() == {"idle": 1}
    assert rig.shown() == (0, 0)


# -- the leader waits for its client -----------------------------------------------------------


def run_inline(rig: AsideRig, app: Callable[[FakeStream], object], *, fails: bool = False) -> bool:
    """Run a request on this thread, which leads; the application knows its stream."""
    stream = rig.stream(lambda: app(stream) and None, fails=fails)
    return rig.dispatcher.run(stream)


@pytest.mark.parametrize("room", [True, False])
def test_a_leader_that_waits_for_its_client_leads_no_more(rig: AsideRig, room: bool) -> None:
    rig.pool.max_streams = int(room)
    seen: list[object] = []

    def app(stream: FakeStream) -> None:
        seen.append(rig.dispatcher.wait_aside(stream))
        seen.append(rig.counts())
        seen.append(rig.shown())
        seen.append(rig.leader() in rig.started)
        seen.append(len(rig.loop.baton))

    assert run_inline(rig, app), "it still thinks that it leads"
    if room:
        assert seen == [True, {"streams": 1}, (0, 1), True, 0]
    else:
        assert seen == [False, {"busy": 1}, (1, 0), True, 0]
    assert rig.trace == ["respond", "freed", "hand_back", "freed"]
    assert rig.counts() == {"idle": 1}
    assert rig.counters() == (1, 0, 1, 0)
    assert rig.dispatcher.running == {}


def test_a_slow_client_says_nothing_against_running_inline(rig: AsideRig) -> None:
    run_inline(rig, rig.dispatcher.wait_aside)
    assert rig.dispatcher.inline


def test_a_leader_steps_down_once_however_often_it_waits(rig: AsideRig) -> None:
    def app(stream: FakeStream) -> None:
        for _ in range(3):
            assert rig.dispatcher.wait_aside(stream)
        assert rig.counts() == {"streams": 1}

    assert run_inline(rig, app)
    assert len(rig.started) == 1
    assert rig.counts() == {"idle": 1}


def test_the_time_of_a_leader_that_stepped_down_is_that_of_the_whole_request(
    rig: AsideRig,
) -> None:
    def app(stream: FakeStream) -> None:
        rig.clock.advance(0.002)
        rig.dispatcher.wait_aside(stream)
        (run,) = rig.dispatcher.running.values()
        assert (rig.clock() - run.began_ns, run.thread) == (2_000_000, threading.get_ident())
        rig.clock.advance(0.003)

    run_inline(rig, app, fails=True)
    assert rig.slot.durations_ns == [5_000_000]
    assert rig.counters() == (1, 0, 1, 1)


def test_the_baton_of_another_is_not_taken_by_one_that_waits(rig: AsideRig) -> None:
    others = object()

    def app(stream: FakeStream) -> None:
        rig.get_stuck()
        rig.loop.baton.append(others)
        assert rig.dispatcher.wait_aside(stream)
        assert list(rig.loop.baton) == [others]

    assert run_inline(rig, app)
    assert list(rig.loop.baton) == [others]


# -- the sentinel and a leader that waits --------------------------------------------------------


def test_a_thread_that_lost_the_baton_may_step_aside(rig: AsideRig) -> None:
    seen: list[object] = []

    def app(stream: FakeStream) -> None:
        rig.get_stuck()
        seen.append(rig.counts())
        seen.append(rig.dispatcher.wait_aside(stream))
        seen.append(rig.counts())
        seen.append(len(rig.started))

    assert run_inline(rig, app)
    assert seen == [{"busy": 1}, True, {"streams": 1}, 1]
    assert rig.counts() == {"idle": 1}
    assert rig.shown() == (0, 0)


class Race:
    """The sentinel has taken the baton, and has not counted what it took."""

    def __init__(self) -> None:
        self.baton = Contested()
        self.rig = AsideRig(self.baton)
        self._looking = threading.Thread(target=self._look, name="looking", daemon=True)

    def _look(self) -> None:
        self.rig.sentinel.look()
        self.rig.sentinel.look()

    def take(self) -> None:
        """The application's side: return when the baton is gone."""
        self.rig.clock.advance(QUICK_NS / 1e9)
        self._looking.start()
        assert self.baton.taken.wait(BOUND_S)

    def count(self) -> None:
        """Let the sentinel count and have another thread lead."""
        self.baton.go_on.set()
        self._looking.join(BOUND_S)
        assert not self._looking.is_alive()


@pytest.fixture
def race() -> Iterator[Race]:
    race = Race()
    yield race
    race.count()
    race.rig.close()


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("counted", ["before its end", "after its end"])
def test_a_thread_may_step_aside_between_the_sentinels_grasp_and_its_count(
    race: Race, room: bool, counted: str
) -> None:
    rig = race.rig
    rig.pool.max_streams = int(room)

    def app(stream: FakeStream) -> None:
        race.take()
        assert rig.dispatcher.wait_aside(stream) is room
        assert rig.pool.streams == int(room)
        assert rig.pool.busy == -int(room)  # until the sentinel has counted
        assert rig.shown() == (0, int(room))
        if counted == "before its end":
            race.count()
            assert rig.counts() == ({"streams": 1} if room else {"busy": 1})
            (run,) = rig.dispatcher.running.values()
            assert run.aside is room

    assert run_inline(rig, app)
    race.count()
    assert rig.shown() == (0, 0)
    assert rig.dispatcher.running == {}
    assert rig.counters() == (1, 0, 1, 0)
    if counted == "before its end":
        assert rig.counts() == {"idle": 1}
        assert rig.leader() in rig.started
    else:
        # It was free when the sentinel looked for somebody to lead, and is to lead again.
        assert rig.counts() == {}
        again = rig.serve()
        assert rig.leader() is again


def test_the_next_request_of_the_same_stream_is_counted_as_any(race: Race) -> None:
    # What was noted of the first must not be taken for the second.
    rig = race.rig
    stream = rig.stream(lambda: race.take())
    assert rig.dispatcher.run(stream)
    race.count()
    assert rig.dispatcher.running == {}, "it has ended, and is looked at"
    rig.serve()
    stream._app = lambda: None
    rig.dispatcher.inline = False
    assert not rig.dispatcher.run(stream)
    for _ in range(2):
        stream.wait_until_handed_back()
    assert rig.pool.busy == 0
    assert rig.counters() == (2, 0, 2, 0)


# -- moved aside by the leader -----------------------------------------------------------------


def test_a_request_that_lasts_is_moved_aside_while_it_runs(rig: AsideRig) -> None:
    stream = rig.hold()
    rig.dispatcher.move_aside(stream)
    assert rig.counts() == {"streams": 1}
    assert rig.shown() == (0, 1)
    rig.until_free()
    rig.dispatcher.move_aside(stream)
    assert rig.counts() == {"streams": 1}
    assert rig.wait_aside(stream)
    assert rig.counts() == {"streams": 1}
    stream.end()
    stream.wait_until_handed_back()
    assert rig.counts() == {"idle": 1}
    assert rig.shown() == (0, 0)


def test_a_request_that_has_just_ended_is_not_moved(rig: AsideRig) -> None:
    stream = rig.hold()
    stream.end()
    stream.wait_until_handed_back()
    rig.dispatcher.move_aside(stream)
    assert rig.counts() == {"idle": 1}
    assert rig.dispatcher.running == {}


def test_a_request_for_which_there_is_no_room_aside_stays_busy_and_may_be_moved_later(
    rig: AsideRig,
) -> None:
    rig.pool.max_streams = 1
    first, second = rig.hold(), rig.hold()
    rig.dispatcher.move_aside(first)
    rig.dispatcher.move_aside(second)
    assert rig.counts() == {"busy": 1, "streams": 1}
    first.end()
    first.wait_until_handed_back()
    rig.dispatcher.move_aside(second)
    assert rig.counts() == {"streams": 1, "idle": 1}


def test_a_thread_that_lost_the_baton_is_moved_as_any_other(rig: AsideRig) -> None:
    def app(stream: FakeStream) -> None:
        rig.get_stuck()
        rig.dispatcher.move_aside(stream)
        assert rig.counts() == {"streams": 1}

    assert run_inline(rig, app)
    assert rig.counts() == {"idle": 1}


# -- written off -------------------------------------------------------------------------------


def test_a_request_that_is_written_off_has_ended_and_failed(rig: AsideRig) -> None:
    stream = rig.hold()
    rig.clock.advance(7)
    assert rig.dispatcher.write_off(stream)
    assert rig.counts() == {"written_off": 1}
    assert rig.counters() == (1, 0, 1, 1)
    assert rig.slot.durations_ns == [7_000_000_000]
    assert rig.shown() == (0, 0)
    assert rig.dispatcher.running == {}
    rig.until_free()


def test_a_thread_that_comes_back_serves_again_and_counts_nothing_twice(rig: AsideRig) -> None:
    stream = rig.hold(fails=True)
    assert rig.dispatcher.write_off(stream)
    rig.until_free()
    stream.end()
    rig.until_free()
    assert rig.trace == ["respond", "revoke", "freed", "freed"], "handed back what is not its own"
    assert rig.counts() == {"idle": 1}
    assert rig.counters() == (1, 0, 1, 1)
    assert rig.slot.durations_ns == [0]
    assert rig.dispatcher._written_off == set(), "its stream is kept for ever"
    another = rig.hold()
    assert another.ran_on is stream.ran_on
    another.end()
    another.wait_until_handed_back()
    assert rig.counters() == (2, 0, 2, 1)


def test_a_thread_that_has_begun_to_respond_keeps_its_request(rig: AsideRig) -> None:
    stream = rig.hold()
    stream.revocable = False
    assert not rig.dispatcher.write_off(stream)
    assert rig.counts() == {"busy": 1}
    stream.end()
    stream.wait_until_handed_back()
    assert rig.counters() == (1, 0, 1, 0)


def test_a_request_that_has_just_ended_is_not_written_off(rig: AsideRig) -> None:
    stream = rig.hold()
    stream.end()
    stream.wait_until_handed_back()
    assert not rig.dispatcher.write_off(stream)
    assert "revoke" not in rig.trace, "the stream is not the thread's any more"
    assert rig.counts() == {"idle": 1}
    assert rig.counters() == (1, 0, 1, 0)


def test_a_stream_is_not_written_off(rig: AsideRig) -> None:
    stream = rig.hold()
    assert rig.wait_aside(stream)
    assert not rig.dispatcher.write_off(stream)
    assert rig.counts() == {"streams": 1}


def test_a_thread_cannot_end_while_it_is_judged(rig: AsideRig) -> None:
    """Either it finds that it was written off, or it is found to have ended."""
    ending = threading.Event()

    class Judged(Held):
        def revoke(self) -> bool:
            self.end()  # the application returns this very moment
            ending.set()
            return super().revoke()

    rig.dispatcher.inline = False
    stream = Judged(rig)
    assert rig.dispatcher.write_off(stream)
    assert ending.is_set()
    for _ in range(2):
        rig.until_free()
    assert "hand_back" not in rig.trace
    assert rig.counts() == {"idle": 1}
    assert rig.counters() == (1, 0, 1, 1)


def test_a_thread_that_lost_the_baton_can_be_written_off_too(rig: AsideRig) -> None:
    def app(stream: FakeStream) -> None:
        rig.get_stuck()
        rig.clock.advance(5)
        assert rig.dispatcher.write_off(stream)
        assert rig.counts() == {"written_off": 1}

    assert run_inline(rig, app), "it still thinks that it leads"
    assert "hand_back" not in rig.trace
    assert rig.counts() == {"idle": 1}
    assert rig.counters() == (1, 0, 1, 1)
    assert rig.slot.durations_ns == [5_000_000_000 + QUICK_NS]


def test_stuck_threads_leave_their_places_to_others(rig: AsideRig) -> None:
    stuck = [rig.hold() for _ in range(3)]
    for stream in stuck:
        assert rig.dispatcher.write_off(stream)
    working = [rig.hold() for _ in range(rig.pool.max_threads)]
    assert len({stream.ran_on for stream in (*stuck, *working)}) == 3 + rig.pool.max_threads
    assert rig.counts() == {"busy": rig.pool.max_threads, "written_off": 3}
