"""Seldom: each kind of news once a minute."""

from __future__ import annotations

from httpcore_srv.seldom import PERIOD_NS, Seldom
from tests.fakes.worker import FakeClock


def test_news_is_said_at_once_and_then_not_for_a_minute() -> None:
    clock = FakeClock()
    seldom = Seldom(clock)
    assert seldom("disk full")
    for _ in range(5):
        clock.now_ns += PERIOD_NS // 6
        assert not seldom("disk full")
    clock.now_ns += PERIOD_NS // 6
    assert seldom("disk full")
    assert not seldom("disk full")


def test_each_kind_of_news_has_its_own_minute() -> None:
    clock = FakeClock()
    seldom = Seldom(clock)
    assert seldom("disk full")
    clock.now_ns += PERIOD_NS - 1
    assert seldom("no threads")
    clock.now_ns += 1
    assert seldom("disk full")
    assert not seldom("no threads")


def test_what_happens_all_the_time_is_said_once_a_minute() -> None:
    clock = FakeClock()
    seldom = Seldom(clock)
    said = 0
    for _ in range(10_000):
        clock.now_ns += PERIOD_NS // 2000
        said += seldom("full")
    assert said == 5


def test_the_real_clock_is_the_default() -> None:
    seldom = Seldom()
    assert seldom("full")
    assert not seldom("full")
