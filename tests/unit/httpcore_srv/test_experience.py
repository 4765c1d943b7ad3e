"""Experience: what was slow goes through the pool until a run of quick requests makes up for it."""

from __future__ import annotations

import pytest

from httpcore_srv.experience import (
    CALM_NS,
    LONGEST_RUN,
    MAX_KINDS,
    QUICK_RUN,
    SLOW_NS,
    UNKNOWN,
    Experience,
)

QUICK, SLOW = 1, 2  # kinds


def run_until_inline(experience: Experience, now_ns: int, kind: int = QUICK) -> int:
    """Return how many quick requests in a row it takes."""
    count = 1
    while not experience.was_quick(kind, now_ns, inline=False):
        count += 1
        assert count <= LONGEST_RUN
    return count


def run_until_forgotten(experience: Experience, kind: int) -> int:
    count = 0
    while kind in experience.slow_kinds:
        experience.was_quick(kind, 0, inline=True)
        count += 1
        assert count <= LONGEST_RUN
    return count


def test_nothing_is_slow_at_first() -> None:
    assert not Experience().slow_kinds


def test_what_cost_the_baton_is_of_a_slow_kind() -> None:
    experience = Experience()
    experience.disappointed(SLOW, 0)
    assert list(experience.slow_kinds) == [SLOW]


def test_what_took_long_in_the_pool_is_of_a_slow_kind() -> None:
    experience = Experience()
    experience.was_slow(SLOW, SLOW_NS, by_client=False)
    assert list(experience.slow_kinds) == [SLOW]


@pytest.mark.parametrize(
    ("duration_ns", "by_client"), [(SLOW_NS - 1, False), (SLOW_NS, True)], ids=["gil", "client"]
)
def test_what_may_have_waited_for_something_else_is_of_no_slow_kind(
    duration_ns: int, by_client: bool
) -> None:
    experience = Experience()
    experience.was_slow(SLOW, duration_ns, by_client=by_client)
    assert not experience.slow_kinds


def test_what_is_not_known_any_more_is_of_no_kind() -> None:
    experience = Experience()
    experience.disappointed(UNKNOWN, 0)
    assert not experience.slow_kinds


def test_a_run_of_quick_requests_brings_inline_running_back() -> None:
    experience = Experience()
    experience.disappointed(SLOW, 0)
    assert run_until_inline(experience, 0) == QUICK_RUN


def test_a_surprise_begins_the_run_anew() -> None:
    experience = Experience()
    for _ in range(QUICK_RUN - 1):
        assert not experience.was_quick(QUICK, 0, inline=False)
    experience.was_slow(SLOW, SLOW_NS, by_client=False)
    assert run_until_inline(experience, 0) == QUICK_RUN


def test_slow_requests_of_a_slow_kind_are_no_surprise() -> None:
    experience = Experience()
    experience.disappointed(SLOW, 0)
    for _ in range(QUICK_RUN - 1):
        assert not experience.was_quick(QUICK, 0, inline=False)
        experience.was_slow(SLOW, SLOW_NS, by_client=False)
    assert experience.was_quick(QUICK, 0, inline=False)


def test_slow_requests_of_ever_new_kinds_never_bring_inline_running_back() -> None:
    experience = Experience()
    for number in range(10 * QUICK_RUN):
        experience.was_slow(1000 + number, SLOW_NS, by_client=False)
        for _ in range(10):
            assert not experience.was_quick(QUICK, 0, inline=False)


def test_a_slow_kind_is_forgotten_after_a_run_of_quick_requests_of_it() -> None:
    experience = Experience()
    experience.disappointed(SLOW, 0)
    for _ in range(QUICK_RUN - 1):
        experience.was_quick(SLOW, 0, inline=True)
        experience.was_quick(QUICK, 0, inline=True)  # counts for itself only
    experience.was_slow(SLOW, SLOW_NS, by_client=False)
    assert run_until_forgotten(experience, SLOW) == QUICK_RUN


def test_trust_that_was_disappointed_soon_takes_twice_as_long_the_next_time() -> None:
    experience = Experience()
    now_ns = 0
    runs = []
    for _ in range(8):
        experience.disappointed(SLOW, now_ns)
        runs.append(run_until_inline(experience, now_ns))
        now_ns += CALM_NS - 1
    assert runs == [256, 512, 1024, 2048, 4096, 4096, 4096, 4096]


def test_trust_in_a_kind_that_was_disappointed_soon_takes_longer_too() -> None:
    experience = Experience()
    experience.disappointed(SLOW, 0)
    run_until_forgotten(experience, SLOW)
    experience.disappointed(SLOW, CALM_NS - 1)
    assert run_until_forgotten(experience, SLOW) == 2 * QUICK_RUN


def test_calm_time_makes_the_run_shorter_again() -> None:
    experience = Experience()
    for _ in range(5):
        experience.disappointed(SLOW, 0)
        run_until_inline(experience, 0)
    experience.disappointed(SLOW, 2 * CALM_NS)
    assert run_until_inline(experience, 2 * CALM_NS) == LONGEST_RUN // 4
    experience.disappointed(SLOW, 3600 * CALM_NS)
    assert run_until_inline(experience, 3600 * CALM_NS) == QUICK_RUN


def test_several_takeovers_after_one_trust_count_as_one_disappointment() -> None:
    experience = Experience()
    experience.disappointed(SLOW, 0)
    run_until_inline(experience, 0)
    for kind in range(SLOW, 10):
        experience.disappointed(kind, 0)
    assert run_until_inline(experience, 0) == 2 * QUICK_RUN


def test_requests_that_run_inline_already_give_no_new_trust() -> None:
    experience = Experience()
    experience.disappointed(SLOW, 0)
    run_until_inline(experience, 0)
    for _ in range(2 * QUICK_RUN):
        assert not experience.was_quick(QUICK, 2 * CALM_NS, inline=True)
    experience.disappointed(SLOW, 2 * CALM_NS)  # measured from when trust was given
    assert run_until_inline(experience, 2 * CALM_NS) == QUICK_RUN


def test_only_so_many_kinds_are_remembered_and_the_oldest_goes_first() -> None:
    experience = Experience()
    for kind in range(1, MAX_KINDS + 6):
        experience.was_slow(kind, SLOW_NS, by_client=False)
    assert list(experience.slow_kinds) == list(range(6, MAX_KINDS + 6))
