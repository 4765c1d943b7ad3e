from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from spm.lifeline import MESSAGE_LIMIT, Lifeline


@pytest.fixture
def ends() -> Iterator[tuple[Lifeline, Lifeline]]:
    pair = Lifeline.pair()
    yield pair
    for end in pair:
        end.close()


def readable(end: Lifeline) -> bool:
    return bool(select.select([end], [], [], 0)[0])


def test_a_poke_makes_the_other_end_readable_until_it_is_read(
    ends: tuple[Lifeline, Lifeline],
) -> None:
    manager, worker = ends
    assert not readable(worker)
    manager.poke()
    assert readable(worker)
    assert worker.read()
    assert not readable(worker)


def test_reading_nothing_does_not_block(ends: tuple[Lifeline, Lifeline]) -> None:
    assert ends[0].read()
    assert ends[0].messages() == ([], True)


def test_reading_after_the_other_end_is_gone_says_so(ends: tuple[Lifeline, Lifeline]) -> None:
    manager, worker = ends
    worker.close()
    assert not manager.read()


def test_a_poke_into_a_full_or_broken_lifeline_is_no_error(
    ends: tuple[Lifeline, Lifeline],
) -> None:
    manager, worker = ends
    for _ in range(10_000):
        manager.poke()
    assert worker.read()
    worker.close()
    manager.poke()
    assert not manager.tell(b"too late")


def test_many_pokes_do_not_keep_a_reader_for_ever(ends: tuple[Lifeline, Lifeline]) -> None:
    manager, worker = ends
    for _ in range(200):
        manager.poke()
    looks = 0
    while readable(worker):
        assert worker.read()
        looks += 1
    assert looks > 1


def test_messages_arrive_whole_and_in_order_and_pokes_are_left_out(
    ends: tuple[Lifeline, Lifeline],
) -> None:
    manager, worker = ends
    worker.tell(b"one")
    worker.poke()
    worker.tell(b"two")
    assert manager.messages() == ([b"one", b"two"], True)


def test_a_message_is_cut_at_the_limit(ends: tuple[Lifeline, Lifeline]) -> None:
    manager, worker = ends
    worker.tell(b"x" * (MESSAGE_LIMIT + 1))
    assert manager.messages() == ([b"x" * MESSAGE_LIMIT], True)


def test_last_words_are_heard_although_pokes_to_the_dead_were_never_read(
    ends: tuple[Lifeline, Lifeline],
) -> None:
    manager, worker = ends
    manager.poke()
    worker.tell(b"goodbye")
    worker.close()
    assert manager.messages() == ([b"goodbye"], False)


def test_hanging_up_shows_the_end_to_one_side_and_leaves_the_other_listening(
    ends: tuple[Lifeline, Lifeline],
) -> None:
    manager, worker = ends
    manager.hang_up()
    assert not worker.read()
    worker.tell(b"leaving")
    assert manager.messages() == ([b"leaving"], True)
    worker.close()
    assert not manager.read()
    manager.hang_up()
