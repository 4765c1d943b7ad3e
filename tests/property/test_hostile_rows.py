"""Whatever a worker writes into its row: the readout can be shown, and the policy decides.

The rows are those of a whole manager on a fake machine; what stands in one of them is any
sequence of words.
"""

from __future__ import annotations

import json
import math
import signal
from contextlib import AbstractContextManager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm.observation import Actions
from spm.readout import render
from spm.scoreboard import (
    BEAT,
    BEGUN,
    BUSY,
    CONNECTIONS,
    ECHO,
    ENDED_INLINE,
    ENDED_POOLED,
    GAUGE_LIMIT,
    HISTOGRAM,
    INCIDENTS,
    SERVICE,
    SLOT_WORDS,
    STATE,
    STATE_DRAINING,
    STATE_EXITING,
    STATE_READY,
    STREAMS,
    THREADS,
    WAITING,
    WRITTEN_OFF,
    Scoreboard,
)
from tests.fakes.server import FakeServer, serving
from tests.fakes.system import NS, FakeWorker

MIN_WORKERS = 2
MAX_WORKERS = 4
BOOT_S = 10.0
GRACE_S = 5.0
KILL_S = 20.0
# What a worker can claim to have done at the most, see WorkerHandle.
MOST_PER_S = 1_000_000

# Words that mean something somewhere, among them times about now on the fake machine's clock.
words = st.one_of(
    st.integers(0, 5),
    st.integers(0, 3000),
    st.sampled_from([GAUGE_LIMIT, 1 << 32, 1 << 63, (1 << 64) - 1]),
    st.integers(990, 1100).map(lambda seconds: seconds * NS),
    st.integers(0, (1 << 64) - 1),
)
GAUGES = (STATE, BEAT, BUSY, WAITING, CONNECTIONS, THREADS, STREAMS, WRITTEN_OFF)
COUNTERS = (BEGUN, ENDED_INLINE, ENDED_POOLED, SERVICE, HISTOGRAM, HISTOGRAM + 105, INCIDENTS)
telling = st.sampled_from((ECHO, *GAUGES, *COUNTERS))
places = st.one_of(telling, st.integers(0, SLOT_WORDS - 1))
writes = st.lists(st.tuples(places, words), max_size=40)


def serving_hostile() -> AbstractContextManager[FakeServer]:
    return serving(
        min_workers=MIN_WORKERS,
        max_workers=MAX_WORKERS,
        max_threads=4,
        boot_timeout_s=BOOT_S,
        graceful_timeout_s=GRACE_S,
        wedged_kill_s=KILL_S,
        written_off_limit=2,
        incidents=("first", "second"),
    )


def write(server: FakeServer, worker: FakeWorker, rubbish: list[tuple[int, int]]) -> None:
    board = server.system.scoreboard
    base = board.base(worker.index)
    for place, word in rubbish:
        board.words[base + place] = word


def assert_can_be_shown(server: FakeServer, elapsed_s: float) -> None:
    values = server.readout()
    parts = (values.busy, values.idle, values.kill_pending, values.starting, values.wedged)
    assert values.total == sum(parts) == len(values.workers)
    for gauge in (values.busy_threads, values.waiting, values.connections, values.streams):
        assert 0 <= gauge <= 2 * MAX_WORKERS * GAUGE_LIMIT
    for count in (values.requests, values.errors, values.handed_over, *values.incidents.values()):
        assert 0 <= count <= MOST_PER_S * (elapsed_s + 2)
    for times in (values.last_minute, values.since_start):
        assert all(map(math.isfinite, (times.mean_ms, times.p50_ms, times.p99_ms)))
    sent = json.loads(json.dumps(values.as_dict()))
    assert render(sent)
    assert values.one_line()


def assert_is_sane(actions: Actions | None) -> None:
    assert actions is not None
    assert MIN_WORKERS <= actions.wanted <= MAX_WORKERS
    assert math.isfinite(actions.demand)
    assert not actions.give_up


@settings(max_examples=120, deadline=None)
@given(first=writes, second=writes, quiet_s=st.sampled_from([0.05, 1.0, 12.0]))
def test_any_row_can_be_shown_and_decided_upon(
    first: list[tuple[int, int]], second: list[tuple[int, int]], quiet_s: float
) -> None:
    with serving_hostile() as server:
        hostile, honest = server.ready()
        honest.begin(2)
        for rubbish in (first, second):
            if hostile in server.system.alive():  # else it cannot write
                write(server, hostile, rubbish)
            assert_can_be_shown(server, quiet_s * 2)
            server.run(quiet_s)
            assert_can_be_shown(server, quiet_s * 2)
            assert_is_sane(server.spm._last)
        assert not server.over
        assert honest in server.system.alive()
        assert honest.state == "ready", "it was told to leave for what another one wrote"
        if hostile in server.system.alive():
            server.system.crash(hostile)
        server.run(1.0)
        assert_can_be_shown(server, quiet_s * 2 + 1)
        assert server.readout().lost <= 10_000
        server.until(lambda: len(server.ready()) >= MIN_WORKERS, 60)


@pytest.mark.parametrize("state", [STATE_DRAINING, STATE_EXITING])
def test_who_says_that_it_leaves_and_does_not_is_ended(state: int) -> None:
    with serving_hostile() as server:
        hostile = server.ready()[0]
        write(server, hostile, [(STATE, state)])
        server.until(lambda: hostile in server.system.gone, 2 * GRACE_S)
        server.until(lambda: len(server.ready()) == server.total() == MIN_WORKERS, 60)


@pytest.mark.parametrize("state", [STATE_DRAINING, STATE_EXITING])
def test_who_says_that_it_leaves_and_does_not_holds_no_reload_up(state: int) -> None:
    with serving_hostile() as server:
        hostile = server.ready()[0]
        write(server, hostile, [(STATE, state)])
        server.system.send_signal(signal.SIGHUP)
        server.until(lambda: server.readout().generation == 2, 10)
        server.until(lambda: server.readout().reload == "idle", 2 * GRACE_S)
        assert hostile in server.system.gone


@pytest.mark.parametrize(("place", "word"), [(ECHO, 0), (ECHO, 77), (STATE, 0), (STATE, 99)])
def test_who_does_not_say_who_it_is_any_more_is_replaced(place: int, word: int) -> None:
    with serving_hostile() as server:
        hostile = server.ready()[0]
        write(server, hostile, [(place, word)])
        server.until(lambda: hostile in server.system.gone, KILL_S + 15)
        server.until(lambda: len(server.ready()) == server.total() == MIN_WORKERS, 60)


@given(rubbish=writes, incarnation=st.integers(1, 5))
def test_what_stands_in_a_free_row_is_not_taken_for_the_word_of_its_next_worker(
    rubbish: list[tuple[int, int]], incarnation: int
) -> None:
    board = Scoreboard(1, capacity=4)
    for place, word in [(ECHO, incarnation), (STATE, STATE_READY), *rubbish]:
        board.words[board.base(0) + place] = word
    board.assign(0, incarnation, generation=1, spawned_ns=5)
    row = board.row(0)
    assert not row.started
    assert (row.state, row.begun, row.ended, row.service_ns) == (0, 0, 0, 0)
    assert not any(board.histogram(0))
