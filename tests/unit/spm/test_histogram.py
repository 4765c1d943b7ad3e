from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from spm.histogram import (
    BUCKETS,
    add,
    bucket_of,
    lower_bound_ns,
    quantile_ns,
    subtract,
    upper_bound_ns,
)

durations = st.integers(0, (1 << 41) - 1)
counts = st.lists(st.integers(0, 1000), min_size=BUCKETS, max_size=BUCKETS)


@settings(deadline=None)
@given(st.integers(-(1 << 70), 1 << 70))
def test_every_number_has_a_bucket(duration_ns: int) -> None:
    assert 0 <= bucket_of(duration_ns) < BUCKETS


@settings(deadline=None)
@given(durations)
def test_a_bucket_holds_what_lies_between_its_bounds(duration_ns: int) -> None:
    bucket = bucket_of(duration_ns)
    assert lower_bound_ns(bucket) <= duration_ns < upper_bound_ns(bucket)


@settings(deadline=None)
@given(durations, durations)
def test_a_longer_duration_never_has_a_lower_bucket(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert bucket_of(low) <= bucket_of(high)


def test_buckets_follow_each_other_without_a_gap() -> None:
    for bucket in range(BUCKETS - 1):
        assert upper_bound_ns(bucket) == lower_bound_ns(bucket + 1)
        assert bucket_of(upper_bound_ns(bucket)) == bucket + 1


def test_there_are_four_buckets_to_an_octave_from_16_us_to_1100_s() -> None:
    assert lower_bound_ns(1) == 16_384
    assert lower_bound_ns(5) == 32_768
    assert lower_bound_ns(BUCKETS - 1) == 1 << 40


@settings(deadline=None)
@given(st.lists(st.integers(20_000, 10**12), min_size=1, max_size=300), st.floats(0, 1))
def test_a_quantile_is_right_to_within_a_quarter_octave(
    durations_ns: list[int], fraction: float
) -> None:
    histogram = [0] * BUCKETS
    for duration_ns in durations_ns:
        histogram[bucket_of(duration_ns)] += 1
    ranked = sorted(durations_ns)
    exact = ranked[max(0, min(len(ranked) - 1, -int(-fraction * len(ranked) // 1) - 1))]
    assert exact * 0.75 <= quantile_ns(histogram, fraction) <= exact * 1.34


def test_the_quantile_of_nothing_is_zero() -> None:
    assert quantile_ns([0] * BUCKETS, 0.99) == 0


def test_durations_beyond_the_last_bucket_are_told_as_twice_its_beginning() -> None:
    histogram = [0] * BUCKETS
    histogram[BUCKETS - 1] = 1
    assert quantile_ns(histogram, 1.0) == 2 << 40


@settings(deadline=None)
@given(counts, counts)
def test_what_is_added_can_be_taken_away(a: list[int], b: list[int]) -> None:
    assert subtract(add(a, b), b) == a


@settings(deadline=None)
@given(counts, counts)
def test_a_difference_is_never_less_than_nothing(a: list[int], b: list[int]) -> None:
    assert min(subtract(a, b)) >= 0
