"""WaitingLine: first come, first served, and nobody is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from httpcore_srv.parcel import MAX_HOPS
from httpcore_srv.server import HTTPServer
from httpcore_srv.stream import Stream
from httpcore_srv.waiting import WaitingLine


class FakePool:
    """How many threads are busy."""

    def __init__(self) -> None:
        self.busy = 0


class FakeServer:
    """What a line needs of its server: threads, siblings, a loop that is told of calls."""

    def __init__(self) -> None:
        self.pool = FakePool()
        self.max_threads = 2
        self.loop = self
        self.posted: list[Callable[[], bool]] = []
        self.poked = 0
        self.given: list[FakeStream] = []
        self.takers = 0  # so many siblings have a free thread
        self.on_give: Callable[[], None] = lambda: None
        self.served: list[str] = []

    def post(self, call: Callable[[], bool]) -> None:
        self.posted.append(call)

    def poke(self) -> None:
        self.poked += 1

    def give_away(self, stream: FakeStream, *, only_free: bool) -> bool:
        assert only_free
        self.on_give()
        if not self.takers:
            return False
        self.takers -= 1
        self.given.append(stream)
        if stream in stream.line.streams:
            stream.line.leave(cast(Stream, stream))
        return True


class FakeStream:
    """A stream that takes a thread when it is its turn."""

    def __init__(self, name: str, server: FakeServer, line: WaitingLine) -> None:
        self.name = name
        self.line = line
        self.room = True
        self.movable = True
        self.hops = 0
        self.parked = 0
        self.resumed: list[str] = []
        self.takes_the_baton = False
        self.on_resume: Callable[[], None] = lambda: None
        self._server = server

    def __repr__(self) -> str:
        return self.name

    def park(self) -> bool:
        self.parked += 1
        return self.room

    def resume(self) -> bool:
        self._server.served.append(self.name)
        self._server.pool.busy += 1
        self.on_resume()
        return self.takes_the_baton


class Rig:
    """A line and its server."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.line = WaitingLine(cast(HTTPServer, self.server))

    def stream(self, name: str = "a") -> FakeStream:
        return FakeStream(name, self.server, self.line)

    def waiting(self, *names: str) -> list[FakeStream]:
        """Have streams wait, all threads being busy."""
        self.server.pool.busy = self.server.max_threads
        streams = [self.stream(name) for name in names]
        for stream in streams:
            self.line.wait_for_thread(cast(Stream, stream))
        return streams

    def serve(self) -> bool:
        """Be the loop that makes the one call that was posted."""
        (call,) = self.server.posted
        self.server.posted.clear()
        return call()

    def names(self) -> list[str]:
        return [str(stream) for stream in self.line.streams]


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- getting into the line ----------------------------------------------------------------------


def test_a_stream_goes_to_a_sibling_that_has_a_thread(rig: Rig) -> None:
    rig.server.takers = 1
    (stream,) = rig.waiting("a")
    assert rig.server.given == [stream]
    assert (stream.parked, rig.names(), rig.server.poked) == (0, [], 0)


def test_without_such_a_sibling_it_waits_and_the_manager_is_told(rig: Rig) -> None:
    rig.waiting("a", "b")
    assert rig.names() == ["a", "b"]
    assert rig.server.poked == 2
    assert rig.server.posted == []  # whoever frees a thread posts


def test_what_cannot_be_held_on_to_does_not_wait(rig: Rig) -> None:
    rig.server.pool.busy = rig.server.max_threads
    stream = rig.stream()
    stream.room = False
    rig.line.wait_for_thread(cast(Stream, stream))
    rig.line.wait_for_turn(cast(Stream, stream))
    assert stream.parked == 2
    assert (rig.names(), rig.server.poked, rig.server.posted) == ([], 0, [])


def test_a_thread_that_became_free_just_before_it_stood_in_line_is_seen(rig: Rig) -> None:
    # The thread found an empty line, so nobody else will look.
    rig.server.pool.busy = rig.server.max_threads

    def end_a_request() -> None:
        rig.server.pool.busy -= 1

    rig.server.on_give = end_a_request
    rig.line.wait_for_thread(cast(Stream, rig.stream()))
    assert rig.names() == ["a"]
    assert not rig.serve()
    assert rig.server.served == ["a"]


def test_who_has_had_many_turns_goes_to_the_end_of_the_line(rig: Rig) -> None:
    rig.waiting("a", "b")
    rig.line.wait_for_turn(cast(Stream, rig.stream("greedy")))
    assert rig.names() == ["a", "b", "greedy"]
    rig.server.pool.busy = 0
    rig.server.max_threads = 9
    assert not rig.serve()
    assert rig.server.served == ["a", "b", "greedy"]


# -- getting a thread ---------------------------------------------------------------------------


def test_threads_are_given_out_in_order_and_no_more_than_there_are(rig: Rig) -> None:
    rig.waiting("a", "b", "c")
    rig.server.pool.busy = 0
    rig.line.post_serving()
    assert not rig.serve()
    assert rig.server.served == ["a", "b"]
    assert rig.names() == ["c"]
    rig.server.pool.busy = 1
    rig.line.post_serving()
    assert not rig.serve()
    assert rig.server.served == ["a", "b", "c"]


def test_however_many_ask_for_it_the_line_is_served_once(rig: Rig) -> None:
    rig.waiting("a")
    for _ in range(5):
        rig.line.post_serving()
    rig.server.pool.busy = 0
    assert not rig.serve()
    assert rig.server.served == ["a"]


def test_who_asks_while_it_is_served_is_heard_again(rig: Rig) -> None:
    first, *_ = rig.waiting("a", "b")
    rig.server.pool.busy = 1
    first.on_resume = rig.line.post_serving  # a thread frees itself this very moment
    rig.line.post_serving()
    assert not rig.serve()
    assert rig.server.served == ["a"]
    rig.server.pool.busy = 0
    assert not rig.serve()
    assert rig.server.served == ["a", "b"]


def test_who_loses_the_baton_leaves_the_rest_to_the_next_leader(rig: Rig) -> None:
    first, *_ = rig.waiting("a", "b", "c")
    first.takes_the_baton = True
    rig.server.pool.busy = 0
    rig.line.post_serving()
    assert rig.serve()
    assert rig.server.served == ["a"]
    assert not rig.serve()
    assert rig.server.served == ["a", "b"]


def test_the_last_one_that_loses_the_baton_leaves_nothing_to_do(rig: Rig) -> None:
    (only,) = rig.waiting("a")
    only.takes_the_baton = True
    rig.server.pool.busy = 0
    rig.line.post_serving()
    assert rig.serve()
    assert rig.server.posted == []


def test_one_streams_turn_may_be_the_end_of_others(rig: Rig) -> None:
    first, second, third, _ = rig.waiting("a", "b", "c", "d")

    def end_others() -> None:
        for stream in (second, third):
            rig.line.leave(cast(Stream, stream))

    first.on_resume = end_others
    rig.server.pool.busy = 0
    rig.server.max_threads = 9
    rig.line.post_serving()
    assert not rig.serve()
    assert rig.server.served == ["a", "d"]


def test_who_leaves_is_not_served(rig: Rig) -> None:
    _, second, _ = rig.waiting("a", "b", "c")
    rig.line.leave(cast(Stream, second))
    rig.server.pool.busy = 0
    rig.line.post_serving()
    rig.serve()
    assert rig.server.served == ["a", "c"]


# -- siblings that get a thread free later -------------------------------------------------------


def test_who_waits_moves_to_siblings_as_far_as_they_have_threads(rig: Rig) -> None:
    streams = rig.waiting("a", "b", "c")
    rig.server.takers = 2
    rig.line.retry_siblings()
    assert rig.server.given == streams[:2]
    assert rig.names() == ["c"]


def test_nobody_free_for_one_is_nobody_free_for_the_rest(rig: Rig) -> None:
    rig.waiting("a", "b", "c")
    asked: list[bool] = []
    rig.server.on_give = lambda: asked.append(True)
    rig.line.retry_siblings()
    assert asked == [True]
    assert rig.names() == ["a", "b", "c"]


def test_what_was_read_or_has_moved_often_stays_and_does_not_stop_the_others(rig: Rig) -> None:
    read, tired, fresh = rig.waiting("read", "tired", "fresh")
    read.movable = False
    tired.hops = MAX_HOPS
    rig.server.takers = 1
    rig.line.retry_siblings()
    assert rig.server.given == [fresh]
    assert rig.names() == ["read", "tired"]
