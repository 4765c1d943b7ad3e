from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm.observation import WorkerState
from spm.scoreboard import DRAIN, MAX_INCIDENTS, Row, Scoreboard
from spm.slot import Slot
from spm.worker import Departed, Totals, WorkerHandle
from tests.fakes.system import publish

SECOND = 1_000_000_000
words = st.integers(0, (1 << 64) - 1)


def row_with(incidents: tuple[int, ...] = (0,) * MAX_INCIDENTS, **fields: int) -> Row:
    return Row(**{**dict.fromkeys(Row._fields, 0), "incidents": incidents, **fields})


rows = st.builds(
    row_with,
    begun=words,
    ended=words,
    service_ns=words,
    accepted=words,
    handed_out=words,
    handed_in=words,
    errors=words,
    incidents=st.tuples(*[words] * MAX_INCIDENTS),
)


@settings(deadline=None)
@given(st.lists(rows, max_size=6))
def test_counters_never_fall_and_never_leap(seen: list[Row]) -> None:
    totals = Totals()
    for look, row in enumerate(seen, 1):
        after = totals.follow(row, SECOND, look * SECOND, 8)
        assert totals.begun <= after.begun <= totals.begun + 2_000_000
        assert totals.ended <= after.ended <= totals.ended + 2_000_000
        assert totals.service_ns <= after.service_ns <= 4 * 8 * (look + 1) * SECOND
        for known, count in zip(totals.incidents, after.incidents, strict=True):
            assert known <= count <= known + 2_000_000
        totals = after


def test_honest_counters_are_followed_exactly() -> None:
    incidents = tuple(range(MAX_INCIDENTS))
    row = row_with(incidents, begun=500, ended=400, service_ns=3 * SECOND, errors=2)
    totals = Totals().follow(row, SECOND, SECOND, 8)
    assert (totals.begun, totals.ended, totals.service_ns, totals.errors) == (
        500,
        400,
        3 * SECOND,
        2,
    )
    assert totals.incidents == incidents


def test_incidents_of_several_workers_are_added_up_each_kind_by_itself() -> None:
    first = Totals(incidents=(1, 2, *[0] * (MAX_INCIDENTS - 2)))
    second = Totals(errors=5, incidents=(10, 0, 30, *[0] * (MAX_INCIDENTS - 3)))
    both = first.plus(second)
    assert both.incidents == (11, 2, 30, *[0] * (MAX_INCIDENTS - 3))
    assert both.errors == 5
    assert both.plus(Totals()) == both


@settings(deadline=None)
@given(words, words)
def test_lost_requests_are_never_negative_and_never_absurd(begun: int, ended: int) -> None:
    assert 0 <= Totals(begun=begun, ended=ended).unfinished <= 10_000


class Watched:
    """A handle and the slot it watches."""

    def __init__(self) -> None:
        self.board = Scoreboard(1, 2)
        self.board.assign(0, 7, 1, SECOND)
        self.slot = Slot(self.board, 0, 7)
        self.handle = WorkerHandle(0, 7, 1, 1, SECOND, self.board.row(0))
        self.now_ns = 2 * SECOND

    def look(self) -> WorkerState:
        self.handle.look(self.board, self.now_ns, self.now_ns - 10 * SECOND, 2)
        return self.handle.state

    def beat(self) -> None:
        publish(self.slot, self.now_ns, 0, 0, 0, 1)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_worker_is_starting_until_it_says_that_it_is_ready(watched: Watched) -> None:
    assert watched.look() is WorkerState.STARTING
    watched.slot.started()
    assert watched.look() is WorkerState.STARTING
    watched.slot.ready()
    assert watched.look() is WorkerState.READY
    assert watched.handle.was_ready


def test_a_worker_that_took_long_to_start_is_not_taken_for_silent(watched: Watched) -> None:
    watched.now_ns = 60 * SECOND
    watched.slot.started()
    watched.slot.ready()
    assert watched.look() is WorkerState.READY


def test_a_ready_worker_without_heartbeat_is_wedged_until_it_beats_again(
    watched: Watched,
) -> None:
    watched.slot.started()
    watched.slot.ready()
    watched.beat()
    watched.look()
    watched.now_ns += 11 * SECOND
    assert watched.look() is WorkerState.WEDGED
    watched.beat()
    assert watched.look() is WorkerState.READY


def test_a_command_to_drain_makes_it_draining_whatever_it_says(watched: Watched) -> None:
    watched.handle.command = DRAIN
    assert watched.look() is WorkerState.DRAINING
    watched.slot.started()
    watched.slot.ready()
    assert watched.look() is WorkerState.DRAINING
    watched.slot.exiting()
    assert watched.look() is WorkerState.EXITING


def test_a_worker_that_was_taken_back_counts_before_it_has_looked(watched: Watched) -> None:
    watched.slot.started()
    watched.slot.ready()
    watched.beat()
    watched.look()
    watched.slot.draining()
    watched.handle.revived_ns = watched.now_ns
    assert watched.look() is WorkerState.READY


def test_a_worker_that_leaves_of_its_own_accord_is_no_capacity(watched: Watched) -> None:
    watched.slot.started()
    watched.slot.ready()
    watched.beat()
    watched.look()
    watched.slot.draining()
    assert watched.look() is WorkerState.EXITING


def test_leaving_as_told_or_as_announced_is_no_surprise(watched: Watched) -> None:
    watched.slot.started()
    watched.slot.ready()
    watched.look()
    assert not watched.handle.told_to_leave
    watched.slot.exiting()
    watched.look()
    assert watched.handle.told_to_leave
    watched.handle.hopeless = True
    assert not watched.handle.told_to_leave


def test_cpu_is_a_share_of_a_core_since_the_last_look(watched: Watched) -> None:
    handle = watched.handle
    handle.measure_cpu(5 * SECOND, 10 * SECOND)
    assert handle.cpu == 0
    handle.measure_cpu(5 * SECOND + SECOND // 2, 11 * SECOND)
    assert handle.cpu == 0.5
    handle.measure_cpu(None, 12 * SECOND)
    assert handle.cpu == 0.5


def test_the_dead_are_added_up(watched: Watched) -> None:
    departed = Departed()
    watched.slot.started()
    watched.slot.ready()
    watched.slot.begun(5)
    watched.slot.ended_inline(1)
    watched.slot.ended_pooled(2)
    watched.slot.timed([1_000_000] * 3)
    watched.slot.incident(4, 9)
    watched.look()
    assert departed.bury(watched.handle, watched.board, expected=False) == 2
    assert departed.totals.ended == 3
    assert departed.totals.incidents[4] == sum(departed.totals.incidents) == 9
    assert sum(departed.histogram) == 3
    assert (departed.lost, departed.restarts) == (2, 1)


def test_no_bucket_is_believed_to_be_fuller_than_there_were_requests(watched: Watched) -> None:
    watched.slot.started()
    watched.slot.ended_pooled(10)
    watched.board.words[watched.board.base(0) + 40] = 1 << 60
    watched.look()
    assert max(watched.handle.histogram(watched.board)) <= 10 + 4096
