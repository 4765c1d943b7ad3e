"""Timers: deadlines are met, moved and forgotten."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpcore_srv.timers import NEVER_NS, TICK_NS, Timers
from tests.fakes.worker import FakeClock

START_NS = 1_000 * TICK_NS + 12_345


class Item:
    """Something with a deadline; remembers how often it expired."""

    def __init__(self, on_expire: Callable[[], None] = lambda: None) -> None:
        self.deadline_ns = 0
        self.due_tick = 0
        self.expired = 0
        self.on_expire = on_expire

    def expire(self) -> None:
        self.expired += 1
        self.on_expire()


@pytest.fixture
def timers() -> Timers:
    return Timers()


def test_nothing_is_due_of_nothing(timers: Timers) -> None:
    assert timers.next_ns == NEVER_NS
    timers.fire(START_NS)
    assert timers.next_ns == NEVER_NS


@pytest.mark.parametrize("after_ns", [0, 1, TICK_NS - 1, TICK_NS, 10 * TICK_NS + 7])
def test_an_item_expires_once_less_than_two_ticks_after_its_deadline(
    timers: Timers, after_ns: int
) -> None:
    item = Item()
    deadline_ns = START_NS + after_ns
    timers.schedule(item, deadline_ns)
    assert timers.next_ns >= deadline_ns
    timers.fire(deadline_ns - 1)
    assert item.expired == 0
    assert deadline_ns <= timers.next_ns <= deadline_ns + TICK_NS
    timers.fire(timers.next_ns)
    timers.fire(timers.next_ns)
    assert item.expired == 1
    assert timers.next_ns == NEVER_NS


def test_a_deadline_that_has_passed_already_expires_at_the_next_moment(timers: Timers) -> None:
    item = Item()
    timers.schedule(item, START_NS - 50 * TICK_NS)
    assert timers.next_ns <= START_NS
    timers.fire(START_NS)
    assert item.expired == 1


def test_a_deadline_moved_later_expires_at_the_later_moment_only(timers: Timers) -> None:
    item = Item()
    timers.schedule(item, START_NS)
    timers.schedule(item, START_NS + 30 * TICK_NS)
    timers.fire(START_NS + 29 * TICK_NS)
    assert item.expired == 0
    timers.fire(START_NS + 31 * TICK_NS)
    assert item.expired == 1


def test_moving_a_deadline_later_leaves_the_next_moment_as_it_is(timers: Timers) -> None:
    # The moving is one store: that is what makes a deadline per request affordable.
    item = Item()
    timers.schedule(item, START_NS)
    due_ns = timers.next_ns
    for step in range(100):
        timers.schedule(item, START_NS + step * TICK_NS)
        assert timers.next_ns == due_ns


def test_storing_a_later_deadline_is_enough_to_move_it(timers: Timers) -> None:
    item = Item()
    timers.schedule(item, START_NS)
    item.deadline_ns = START_NS + 30 * TICK_NS
    timers.fire(START_NS + 2 * TICK_NS)
    assert item.expired == 0
    timers.fire(START_NS + 31 * TICK_NS)
    assert item.expired == 1


def test_a_deadline_moved_earlier_expires_at_the_earlier_moment_and_once(timers: Timers) -> None:
    item = Item()
    timers.schedule(item, START_NS + 30 * TICK_NS)
    timers.schedule(item, START_NS)
    assert timers.next_ns <= START_NS + TICK_NS
    timers.fire(START_NS + TICK_NS)
    assert item.expired == 1
    timers.fire(START_NS + 100 * TICK_NS)
    assert item.expired == 1


def test_a_forgotten_item_never_expires(timers: Timers) -> None:
    item = Item()
    timers.schedule(item, START_NS)
    timers.forget(item)
    timers.fire(START_NS + 100 * TICK_NS)
    assert item.expired == 0


def test_forgetting_twice_or_what_was_never_there_does_nothing(timers: Timers) -> None:
    item, other = Item(), Item()
    timers.schedule(other, START_NS)
    timers.forget(item)
    timers.forget(item)
    timers.fire(START_NS + TICK_NS)
    assert other.expired == 1


def test_a_forgotten_item_can_be_scheduled_again(timers: Timers) -> None:
    item = Item()
    timers.schedule(item, START_NS)
    timers.forget(item)
    timers.schedule(item, START_NS + 5 * TICK_NS)
    timers.fire(START_NS + 6 * TICK_NS)
    assert item.expired == 1


def test_a_forgotten_item_is_not_kept_alive(timers: Timers) -> None:
    item = Item()
    timers.schedule(item, START_NS)
    timers.forget(item)
    reference = weakref.ref(item)
    del item
    gc.collect()
    assert reference() is None


def test_an_item_that_expired_can_be_scheduled_again(timers: Timers) -> None:
    item = Item()
    for round_ in range(1, 4):
        timers.schedule(item, START_NS + round_ * 5 * TICK_NS)
        timers.fire(START_NS + (round_ * 5 + 1) * TICK_NS)
        assert item.expired == round_


def test_an_expiry_may_schedule_the_same_item_again(timers: Timers) -> None:
    item = Item(lambda: timers.schedule(item, item.deadline_ns + 10 * TICK_NS))
    timers.schedule(item, START_NS)
    timers.fire(START_NS + TICK_NS)
    assert item.expired == 1
    timers.fire(START_NS + 11 * TICK_NS)
    assert item.expired == 2


def test_an_expiry_may_forget_its_neighbour(timers: Timers) -> None:
    # Whichever of the two comes first takes the other out of the bucket under way.
    items = [Item(lambda: timers.forget(items[1])), Item(lambda: timers.forget(items[0]))]
    for item in items:
        timers.schedule(item, START_NS)
    timers.fire(START_NS + TICK_NS)
    assert sum(item.expired for item in items) == 1
    timers.fire(START_NS + 100 * TICK_NS)
    assert sum(item.expired for item in items) == 1


def test_an_expiry_may_move_its_neighbour_later(timers: Timers) -> None:
    later_ns = START_NS + 20 * TICK_NS

    def move(other: int) -> None:
        if not items[other].expired:
            timers.schedule(items[other], later_ns)

    items = [Item(lambda: move(1)), Item(lambda: move(0))]
    for item in items:
        timers.schedule(item, START_NS)
    timers.fire(START_NS + TICK_NS)
    assert sum(item.expired for item in items) == 1
    timers.fire(later_ns + TICK_NS)
    assert [item.expired for item in items] == [1, 1]


def test_a_full_bucket_expires_whole(timers: Timers) -> None:
    items = [Item() for _ in range(1000)]
    for number, item in enumerate(items):
        timers.schedule(item, START_NS + number)
    timers.fire(START_NS + 2 * TICK_NS)
    assert all(item.expired == 1 for item in items)


def test_the_next_moment_is_the_earliest_of_all(timers: Timers) -> None:
    offsets = [70, 20, 90, 10, 50]
    items = [Item() for _ in offsets]
    for item, offset in zip(items, offsets, strict=True):
        timers.schedule(item, START_NS + offset * TICK_NS)
    order = []
    while timers.next_ns != NEVER_NS:
        timers.fire(timers.next_ns)
        order += [o for o, i in zip(offsets, items, strict=True) if i.expired and o not in order]
    assert order == sorted(offsets)


def test_with_a_shortest_timeout_a_store_may_move_a_deadline_nearer_too() -> None:
    clock = FakeClock()
    timers = Timers(clock, 10 * TICK_NS)
    item = Item()
    timers.schedule(item, clock.now_ns + 1000 * TICK_NS)
    for _ in range(25):  # it is looked at now and then, and stays
        clock.now_ns += TICK_NS
        timers.fire(clock.now_ns)
        assert timers.next_ns <= clock.now_ns + 11 * TICK_NS
    assert item.expired == 0
    item.deadline_ns = clock.now_ns + 10 * TICK_NS
    clock.now_ns += 9 * TICK_NS
    timers.fire(clock.now_ns)
    assert item.expired == 0
    clock.now_ns += 2 * TICK_NS
    timers.fire(clock.now_ns)
    assert item.expired == 1


SHORTEST_NS = 7 * TICK_NS

_STEP = st.tuples(
    st.sampled_from(["schedule", "store", "forget", "advance"]),
    st.integers(0, 4),
    st.integers(-3 * TICK_NS, 40 * TICK_NS),
)


@given(st.lists(_STEP, max_size=60))
def test_no_item_expires_early_or_is_missed(steps: list[tuple[str, int, int]]) -> None:
    clock = FakeClock()
    timers = Timers(clock, SHORTEST_NS)
    items = [Item() for _ in range(5)]
    wanted: dict[int, int] = {}  # item -> deadline
    for what, number, amount in steps:
        item = items[number]
        if what == "schedule":
            wanted[number] = clock.now_ns + amount
            timers.schedule(item, wanted[number])
        elif what == "store" and number in wanted:
            wanted[number] = item.deadline_ns = clock.now_ns + max(amount, SHORTEST_NS)
        elif what == "forget":
            wanted.pop(number, None)
            timers.forget(item)
        elif what == "advance":
            clock.now_ns += abs(amount)
            before = [each.expired for each in items]
            timers.fire(clock.now_ns)
            for index, each in enumerate(items):
                deadline_ns = wanted.get(index, NEVER_NS)
                if each.expired > before[index]:
                    assert each.expired == before[index] + 1
                    assert deadline_ns <= clock.now_ns
                    del wanted[index]
                else:
                    assert deadline_ns + TICK_NS > clock.now_ns
        due_ns = min(wanted.values(), default=NEVER_NS)
        assert timers.next_ns <= max(due_ns, clock.now_ns) + TICK_NS
