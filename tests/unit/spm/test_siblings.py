from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from spm.scoreboard import DRAIN, GENERATION, Scoreboard
from spm.siblings import MAX_MESSAGE_BYTES, Inboxes, Siblings
from spm.slot import Slot
from tests.fakes.system import publish

NOW_NS = 100_000_000_000
SLOTS = 4
CAPACITY = 2


class Crew:
    """Four slots, all ready and idle, seen from slot 0."""

    def __init__(self) -> None:
        self.board = Scoreboard(SLOTS, CAPACITY)
        self.inboxes = Inboxes(SLOTS)
        self.slots = []
        for index in range(SLOTS):
            self.board.assign(index, 10 + index, 1, 0)
            slot = Slot(self.board, index, 10 + index)
            slot.started()
            slot.ready()
            publish(slot, NOW_NS, 0, 0, 0, 1)
            self.slots.append(slot)

    def seen_from(self, index: int) -> Siblings:
        return Siblings(self.inboxes, self.board, index, clock=lambda: NOW_NS)

    def send(self, message: bytes = b"state", *, only_free: bool = True) -> int | None:
        """Send a pipe's end from slot 0; return who got it."""
        reader, writer = os.pipe()
        try:
            if not self.seen_from(0).send(message, reader, only_free=only_free):
                return None
            for index in range(SLOTS):
                parcel = self.inboxes.take(index)
                if parcel is not None:
                    assert parcel[0] == message
                    os.write(writer, b"hello")
                    assert os.read(parcel[1], 5) == b"hello"
                    os.close(parcel[1])
                    return index
            raise AssertionError("sent, and in no inbox")
        finally:
            os.close(reader)
            os.close(writer)

    def only(self, index: int) -> None:
        """Leave one candidate besides slot 0."""
        for other in range(1, SLOTS):
            if other != index:
                self.slots[other].draining()


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.inboxes.close()


def test_a_descriptor_arrives_with_its_message(crew: Crew) -> None:
    assert crew.send() in (1, 2, 3)


def test_an_empty_inbox_gives_none(crew: Crew) -> None:
    assert crew.seen_from(1).receive() is None


def test_a_nudge_comes_as_an_empty_message_without_a_descriptor(crew: Crew) -> None:
    crew.inboxes.nudge(1)
    assert crew.seen_from(1).receive() == (b"", -1)
    assert crew.seen_from(1).receive() is None


def test_a_received_descriptor_is_not_inherited_by_programs(crew: Crew) -> None:
    reader, writer = os.pipe()
    crew.seen_from(0).send(b"", reader, only_free=False)
    parcel = next(p for p in map(crew.inboxes.take, range(SLOTS)) if p is not None)
    assert not os.get_inheritable(parcel[1])
    for fd in (reader, writer, parcel[1]):
        os.close(fd)


def not_ready(crew: Crew) -> None:
    crew.slots[1].draining()


def told_to_drain(crew: Crew) -> None:
    crew.board.command(1, DRAIN)


def other_worker_in_the_row(crew: Crew) -> None:
    crew.board.assign(1, 99, 1, 0)


def older_generation(crew: Crew) -> None:
    crew.board.assign(1, 11, 0, 0)


def silent(crew: Crew) -> None:
    publish(crew.slots[1], NOW_NS - 11_000_000_000, 0, 0, 0, 1)


def dead(crew: Crew) -> None:
    crew.board.clear(1)


def out_of_descriptors(crew: Crew) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    publish(crew.slots[1], NOW_NS, 0, 0, limit - 100, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        not_ready,
        told_to_drain,
        other_worker_in_the_row,
        older_generation,
        silent,
        dead,
        out_of_descriptors,
    ],
)
def test_nothing_is_sent_to_a_worker_that_cannot_serve_it(
    crew: Crew, spoil: Callable[[Crew], None]
) -> None:
    crew.only(1)
    assert crew.send(only_free=False) == 1
    spoil(crew)
    assert crew.send(only_free=False) is None


def test_nothing_is_sent_to_oneself(crew: Crew) -> None:
    for index in range(1, SLOTS):
        crew.slots[index].draining()
    assert crew.send(only_free=False) is None


def test_a_newer_generation_may_get_it(crew: Crew) -> None:
    crew.only(1)
    crew.board.words[crew.board.base(1) + GENERATION] = 2
    assert crew.send() == 1


@pytest.mark.parametrize(("busy", "waiting"), [(2, 0), (1, 1), (0, 2), (9, 9)])
def test_a_full_worker_gets_nothing_from_a_full_one_but_does_from_a_draining_one(
    crew: Crew, busy: int, waiting: int
) -> None:
    crew.only(1)
    publish(crew.slots[1], NOW_NS, busy, waiting, 0, 1)
    assert crew.send(only_free=True) is None
    assert crew.send(only_free=False) == 1


def test_threads_not_yet_started_count_as_free(crew: Crew) -> None:
    crew.only(1)
    publish(crew.slots[1], NOW_NS, 1, 0, 0, threads=1)
    assert crew.send(only_free=True) == 1


def test_the_least_busy_one_gets_it(crew: Crew) -> None:
    publish(crew.slots[1], NOW_NS, 1, 0, 0, 2)
    publish(crew.slots[2], NOW_NS, 0, 0, 50, 2)
    publish(crew.slots[3], NOW_NS, 0, 1, 0, 2)
    assert crew.send() == 2


def test_among_equally_busy_ones_the_one_with_fewest_connections_gets_it(crew: Crew) -> None:
    for index, connections in ((1, 30), (2, 10), (3, 20)):
        publish(crew.slots[index], NOW_NS, 1, 0, connections, 2)
    assert crew.send() == 2


def test_among_equals_chance_decides() -> None:
    chosen = set()
    for _ in range(60):
        crew = Crew()
        chosen.add(crew.send())
        crew.inboxes.close()
    assert chosen == {1, 2, 3}


def test_many_at_once_are_spread_although_no_target_has_looked_yet(crew: Crew) -> None:
    siblings = crew.seen_from(0)
    reader, writer = os.pipe()
    for _ in range(60):
        assert siblings.send(b"", reader, only_free=False)
    got: Counter[int] = Counter()
    for index in range(SLOTS):
        while (parcel := crew.inboxes.take(index)) is not None:
            os.close(parcel[1])
            got[index] += 1
    assert got == {1: 20, 2: 20, 3: 20}
    os.close(reader)
    os.close(writer)


def test_what_was_sent_counts_as_load_until_the_target_has_looked(crew: Crew) -> None:
    crew.only(1)
    siblings = crew.seen_from(0)
    reader, writer = os.pipe()
    sent = [siblings.send(b"", reader, only_free=True) for _ in range(3)]
    assert sent == [True, True, False]
    publish(crew.slots[1], NOW_NS + 1, 0, 0, 2, 1)
    assert siblings.send(b"", reader, only_free=True)
    while (parcel := crew.inboxes.take(1)) is not None:
        os.close(parcel[1])
    os.close(reader)
    os.close(writer)


def test_when_the_best_inbox_is_full_the_next_best_gets_it(crew: Crew) -> None:
    publish(crew.slots[2], NOW_NS, 1, 0, 0, 2)
    crew.slots[3].draining()
    filler = b"x" * 60_000
    while crew.inboxes.put(1, filler, -1):
        pass
    reader, writer = os.pipe()
    assert crew.seen_from(0).send(filler, reader, only_free=True)
    parcel = crew.inboxes.take(2)
    assert parcel is not None
    for fd in (reader, writer, parcel[1]):
        os.close(fd)


def test_the_relay_is_for_what_no_sibling_takes_while_it_is_open(crew: Crew) -> None:
    reader, writer = os.pipe()
    relay = crew.inboxes.relay
    crew.board.set_relay(is_open=True)
    assert crew.seen_from(0).send(b"a", reader, only_free=False)
    assert crew.inboxes.take(relay) is None  # a sibling has it
    for slot in crew.slots:
        slot.draining()
    for only_free in (False, True):
        assert crew.seen_from(0).send(b"b", reader, only_free=only_free)
        parcel = crew.inboxes.take(relay)
        assert parcel is not None
        assert parcel[0] == b"b"
        os.close(parcel[1])
    crew.board.beat(NOW_NS)
    assert crew.seen_from(0).send(b"c", reader, only_free=False)
    crew.board.set_relay(is_open=False)
    assert not crew.seen_from(0).send(b"d", reader, only_free=False)
    for index in (*range(SLOTS), relay):
        while (parcel := crew.inboxes.take(index)) is not None:
            os.close(parcel[1])
    os.close(reader)
    os.close(writer)


def test_a_message_that_is_too_long_is_not_sent(crew: Crew) -> None:
    reader, writer = os.pipe()
    message = b"x" * (MAX_MESSAGE_BYTES + 1)
    assert not crew.seen_from(0).send(message, reader, only_free=False)
    assert crew.seen_from(0).send(message[:-1], reader, only_free=False)
    for index in range(SLOTS):
        parcel = crew.inboxes.take(index)
        if parcel is not None:
            assert parcel[0] == message[:-1]
            os.close(parcel[1])
    os.close(reader)
    os.close(writer)


def test_an_inbox_takes_a_thousand_connections_unread(crew: Crew) -> None:
    # In a process of its own, so that so many descriptors on their way are nobody else's.
    code = """
import os
from spm.siblings import Inboxes
inboxes = Inboxes(1)
fd = os.open(os.devnull, os.O_RDONLY)
count = 0
while count < 1000 and inboxes.put(0, b"x" * 100, fd):
    count += 1
print(count)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert int(done.stdout) >= 500


def test_a_worker_keeps_only_its_own_reading_end(crew: Crew) -> None:
    crew.inboxes.keep_only_reader(1)
    assert crew.inboxes.put(1, b"", -1)
    assert crew.inboxes.take(1) == (b"", -1)
    assert [crew.inboxes.fileno(index) == -1 for index in range(SLOTS)] == [True, False, True, True]
