"""Pace: when a peer has been too slow, by what it has moved until now."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from httpcore_srv.pace import NS_PER_S, due_ns

S = NS_PER_S
BEGAN = 5_000 * S
TIMES = st.integers(0, 10**6 * S)
BYTES = st.integers(0, 1 << 40)
RATES = st.integers(0, 1 << 30)


def test_without_a_rate_only_a_pause_counts() -> None:
    assert due_ns(BEGAN, BEGAN, 0, 30 * S, 0) == BEGAN + 30 * S
    assert due_ns(BEGAN, BEGAN + 900 * S, 1, 30 * S, 0) == BEGAN + 930 * S


def test_a_rate_means_nothing_before_the_patience_is_over() -> None:
    assert due_ns(BEGAN, BEGAN, 0, 30 * S, 240) == BEGAN + 30 * S
    assert due_ns(BEGAN, BEGAN + 10 * S, 1, 30 * S, 240) == BEGAN + 30 * S


def test_a_byte_now_and_then_buys_what_it_is_worth() -> None:
    # 240 bytes a second: 9600 bytes are good for 40 seconds, whenever they came.
    assert due_ns(BEGAN, BEGAN + 39 * S, 9600, 30 * S, 240) == BEGAN + 40 * S
    assert due_ns(BEGAN, BEGAN + 1 * S, 9600, 30 * S, 240) == BEGAN + 31 * S


def test_a_fast_peer_is_bounded_by_its_pauses_only() -> None:
    moved_ns = BEGAN + 100 * S
    assert due_ns(BEGAN, moved_ns, 1 << 30, 30 * S, 240) == moved_ns + 30 * S


@given(TIMES, TIMES, BYTES, st.integers(1, 10**5 * S), RATES)
def test_nobody_is_too_slow_before_its_patience_is_over(
    began_ns: int, rest_ns: int, moved: int, patience_ns: int, rate: int
) -> None:
    due = due_ns(began_ns, began_ns + rest_ns, moved, patience_ns, rate)
    assert began_ns + patience_ns <= due <= began_ns + rest_ns + patience_ns


@given(TIMES, TIMES, BYTES, BYTES, st.integers(1, 10**5 * S), RATES)
def test_more_bytes_never_bring_the_end_nearer(
    began_ns: int, rest_ns: int, moved: int, more: int, patience_ns: int, rate: int
) -> None:
    def due(count: int) -> int:
        return due_ns(began_ns, began_ns + rest_ns, count, patience_ns, rate)

    assert due(moved) <= due(moved + more)


@given(TIMES, BYTES, st.integers(1, 10**5 * S), RATES)
def test_a_negative_count_is_no_more_than_none(
    began_ns: int, moved: int, patience_ns: int, rate: int
) -> None:
    # What the kernel says of a Unix socket's buffer is larger than what was sent.
    nothing = due_ns(began_ns, began_ns, 0, patience_ns, rate)
    assert due_ns(began_ns, began_ns, -moved, patience_ns, rate) == nothing
