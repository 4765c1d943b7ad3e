from __future__ import annotations

import mmap
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm.histogram import BUCKETS, bucket_of
from spm.scoreboard import (
    BEAT,
    DRAIN,
    FREE,
    GAUGE_LIMIT,
    H_LINGER_MS,
    H_SHUTDOWN,
    HEADER_WORDS,
    MAX_INCIDENTS,
    NOW,
    RUN,
    SHUTDOWN_NONE,
    SHUTDOWN_NOW,
    SHUTDOWN_STOP,
    SLOT_WORDS,
    STATE_DRAINING,
    STATE_EXITING,
    STATE_NONE,
    STATE_READY,
    Scoreboard,
)
from spm.slot import ORDER_DRAIN, ORDER_NOW, ORDER_RUN, ORDER_STOP, Slot
from tests.fakes.system import publish


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(4, 2)


def taken(board: Scoreboard, index: int = 0, incarnation: int = 7) -> Slot:
    board.assign(index, incarnation, generation=1, spawned_ns=5)
    slot = Slot(board, index, incarnation)
    slot.started()
    return slot


def test_header_and_rows_have_pages_of_their_own(board: Scoreboard) -> None:
    bases = [board.base(slot) for slot in range(board.slots)]
    assert [base * 8 % mmap.PAGESIZE for base in bases] == [0] * board.slots
    assert bases[0] >= HEADER_WORDS
    assert bases[1] - bases[0] >= SLOT_WORDS


def test_what_a_worker_writes_is_what_the_manager_reads(board: Scoreboard) -> None:
    slot = taken(board, 2)
    slot.ready()
    publish(slot, 123, busy=1, waiting=2, connections=3, threads=4, streams=5, written_off=6)
    slot.begun(10)
    slot.ended_inline(4)
    slot.ended_pooled(5)
    slot.timed([1_000_000, 2_000_000])
    slot.moved(accepted=6, handed_out=7, handed_in=8)
    slot.failed(9)
    for place in range(MAX_INCIDENTS):
        slot.incident(place, 100 + place)
    row = board.row(2)
    assert row.started
    assert row.state == STATE_READY
    assert (row.beat_ns, row.busy, row.waiting, row.connections, row.threads) == (123, 1, 2, 3, 4)
    assert (row.streams, row.written_off) == (5, 6)
    assert row.incidents == tuple(range(100, 100 + MAX_INCIDENTS))
    assert (row.begun, row.ended, row.service_ns) == (10, 9, 3_000_000)
    assert (row.accepted, row.handed_out, row.handed_in, row.errors) == (6, 7, 8, 9)


def test_a_worker_writes_to_no_row_but_its_own(board: Scoreboard) -> None:
    before = board.words.tolist()
    slot = taken(board, 1)
    slot.ready()
    publish(slot, 1, 1, 1, 1, 1, 1, 1)
    slot.aside(2)
    slot.begun(1)
    slot.ended_inline(1)
    slot.ended_pooled(1)
    slot.busy(2)
    slot.timed([0, 1 << 62])
    slot.moved(1, 1, 1)
    slot.failed(1)
    slot.incident(0, 1)
    slot.incident(MAX_INCIDENTS - 1, 1)
    slot.exiting()
    after = board.words.tolist()
    base = board.base(1)
    changed = {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    assert changed
    assert all(base <= index < base + SLOT_WORDS for index in changed)


def test_busy_alone_can_be_stored(board: Scoreboard) -> None:
    slot = taken(board)
    publish(slot, 1, 0, 0, 0, 1)
    slot.busy(3)
    assert board.row(0).busy == 3


def test_streams_alone_can_be_stored(board: Scoreboard) -> None:
    slot = taken(board)
    publish(slot, 1, busy=2, streams=1)
    slot.aside(3)
    assert (board.row(0).busy, board.row(0).streams) == (2, 3)


@pytest.mark.parametrize("place", [-1, MAX_INCIDENTS, 1 << 40])
def test_an_incident_without_a_place_is_not_written_elsewhere(
    board: Scoreboard, place: int
) -> None:
    slot = taken(board)
    before = board.words.tolist()
    with pytest.raises(IndexError):
        slot.incident(place, 1)
    assert board.words.tolist() == before


def test_incidents_and_histogram_do_not_overlap(board: Scoreboard) -> None:
    slot = taken(board)
    slot.timed([1 << 62])  # the last bucket
    slot.incident(0, 7)
    assert board.histogram(0)[BUCKETS - 1] == 1
    assert board.row(0).incidents == (7, *[0] * (MAX_INCIDENTS - 1))


def test_a_row_is_its_workers_only_when_the_echo_is_written(board: Scoreboard) -> None:
    board.assign(0, 7, 1, 0)
    slot = Slot(board, 0, 7)
    assert not board.row(0).started
    slot.started()
    assert board.row(0).started
    board.clear(0)
    board.assign(0, 8, 1, 0)
    assert not board.row(0).started


def test_a_cleared_row_is_empty_and_free(board: Scoreboard) -> None:
    slot = taken(board, 3)
    publish(slot, 1, 2, 3, 4, 5, 6, 7)
    slot.incident(3, 8)
    slot.timed([1000] * 10)
    board.set_pid(3, 99)
    board.clear(3)
    base = board.base(3)
    assert set(board.words[base : base + SLOT_WORDS].tolist()) == {0}
    assert board.row(3).command == FREE


@pytest.mark.parametrize(
    ("command", "order"),
    [(RUN, ORDER_RUN), (DRAIN, ORDER_DRAIN), (NOW, ORDER_NOW), (FREE, ORDER_NOW), (77, ORDER_NOW)],
)
def test_an_order_follows_the_command(board: Scoreboard, command: int, order: int) -> None:
    slot = taken(board)
    board.command(0, command)
    assert slot.order() == order


@pytest.mark.parametrize(
    ("command", "shutdown", "order"),
    [
        (RUN, SHUTDOWN_STOP, ORDER_STOP),
        (DRAIN, SHUTDOWN_STOP, ORDER_STOP),
        (NOW, SHUTDOWN_STOP, ORDER_NOW),
        (RUN, SHUTDOWN_NOW, ORDER_NOW),
    ],
)
def test_the_more_urgent_of_command_and_shutdown_holds(
    board: Scoreboard, command: int, shutdown: int, order: int
) -> None:
    slot = taken(board)
    board.command(0, command)
    board.shut_down(shutdown, linger_ms=300)
    assert slot.order() == order
    assert slot.linger_s() == 0.3


def test_a_stray_write_into_the_header_is_mended_with_the_next_beat(board: Scoreboard) -> None:
    slot = taken(board)
    board.set_generation(3)
    board.set_target(5)
    board.beat(77)
    header = board.words[:HEADER_WORDS].tolist()
    for index in range(HEADER_WORDS):
        board.words[index] = SHUTDOWN_NOW
    assert slot.order() == ORDER_NOW
    board.beat(77)
    mended = board.words[:HEADER_WORDS].tolist()
    known = [index for index, word in enumerate(header) if word]
    assert [mended[index] for index in known] == [header[index] for index in known]
    assert slot.order() == ORDER_RUN


def test_an_order_to_stop_outlives_stray_writes_too(board: Scoreboard) -> None:
    slot = taken(board)
    board.shut_down(SHUTDOWN_STOP, linger_ms=300)
    for index in range(HEADER_WORDS):
        board.words[index] = 0
    board.beat(78)
    assert slot.order() == ORDER_STOP
    assert slot.linger_s() == 0.3


def test_the_time_to_linger_is_there_before_the_order() -> None:
    class Noting:
        """Memory that remembers in which order it was written."""

        def __init__(self, words: memoryview) -> None:
            self.words = words
            self.written: list[tuple[int, int]] = []

        def __setitem__(self, index: int, word: int) -> None:
            self.written.append((index, word))
            self.words[index] = word

    for before in ([], [(SHUTDOWN_STOP, 300)]):
        board = Scoreboard(1, 2)
        for kind, linger_ms in before:
            board.shut_down(kind, linger_ms)
        board.words = Noting(board.words)  # type: ignore[assignment]
        board.shut_down(SHUTDOWN_NOW, linger_ms=444)
        written = board.words.written  # type: ignore[attr-defined]
        assert written.index((H_LINGER_MS, 444)) < written.index((H_SHUTDOWN, SHUTDOWN_NOW))
        assert (H_SHUTDOWN, SHUTDOWN_NONE) not in written


def test_a_worker_whose_row_was_given_away_leaves_at_once(board: Scoreboard) -> None:
    slot = taken(board, 0, incarnation=7)
    board.clear(0)
    board.assign(0, 8, 1, 0)
    assert slot.order() == ORDER_NOW


def test_states_are_told(board: Scoreboard) -> None:
    slot = taken(board)
    assert board.row(0).state == STATE_NONE
    for tell, state in (
        (slot.ready, STATE_READY),
        (slot.draining, STATE_DRAINING),
        (slot.exiting, STATE_EXITING),
    ):
        tell()
        assert board.row(0).state == state


def test_the_histogram_counts_each_service_time_once(board: Scoreboard) -> None:
    slot = taken(board)
    slot.timed([1, 50_000, 50_000])
    slot.timed([1 << 45, -3])
    histogram = board.histogram(0)
    assert len(histogram) == BUCKETS
    assert sum(histogram) == 5
    assert histogram[0] == 2
    assert histogram[bucket_of(50_000)] == 2
    assert histogram[BUCKETS - 1] == 1


@settings(deadline=None)
@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=SLOT_WORDS, max_size=SLOT_WORDS))
def test_whatever_a_worker_writes_gauges_and_state_stay_in_bounds(words: list[int]) -> None:
    board = Scoreboard(1, 2)
    base = board.base(0)
    for index, word in enumerate(words):
        board.words[base + index] = word
    row = board.row(0)
    assert row.state in (STATE_NONE, STATE_READY, STATE_DRAINING, STATE_EXITING)
    gauges = (row.busy, row.waiting, row.connections, row.threads, row.streams, row.written_off)
    assert max(gauges) <= GAUGE_LIMIT


def test_readers_in_another_process_never_see_half_a_word() -> None:
    board = Scoreboard(1, 2)
    index = board.base(0) + BEAT
    low, high = 0, (1 << 64) - 1
    writer = os.fork()
    if writer == 0:
        while True:
            board.words[index] = low
            board.words[index] = high
    try:
        seen = {board.words[index] for _ in range(300_000)}
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert seen <= {low, high}
