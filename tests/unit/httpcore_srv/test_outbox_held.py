"""Outbox: whole responses held for a moment, and who sends them when their thread is stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from httpcore_srv.errors import PeerGone
from httpcore_srv.outbox import HELD_BYTES, Outbox, RevocableOutbox
from tests.fakes.worker import BOUND_S
from tests.unit.httpcore_srv.outbox_rig import LARGE, HeldSocket, OutboxRig, a_file, is_open


@pytest.fixture(params=[Outbox, RevocableOutbox], ids=["simple", "revocable"])
def rig(request: pytest.FixtureRequest) -> Iterator[OutboxRig]:
    rig = OutboxRig(request.param)
    rig.outbox.gathers = True
    yield rig
    rig.close()


def pending(rig: OutboxRig) -> bytes:
    """Return what the client could read now."""
    rig.client.setblocking(False)
    try:
        return rig.client.recv(1 << 20)
    except BlockingIOError:
        return b""


# -- the leader holds and sends ------------------------------------------------------------------


def test_what_is_held_goes_out_together_when_told_and_once(rig: OutboxRig) -> None:
    for data in (b"one ", b"two ", b"three"):
        rig.outbox.finish(data)
    assert pending(rig) == b""
    rig.outbox.send_held()
    assert pending(rig) == b"one two three"
    rig.outbox.send_held()
    assert rig.read_all() == b""


def test_a_response_without_a_byte_is_no_response_that_is_held(rig: OutboxRig) -> None:
    rig.outbox.finish(b"")
    assert rig.outbox.held == []


@pytest.mark.parametrize("size", [HELD_BYTES, HELD_BYTES + 1])
def test_only_what_is_small_is_held(rig: OutboxRig, size: int) -> None:
    rig.outbox.finish(b"x" * size)
    assert bool(rig.outbox.held) == (size == HELD_BYTES)
    rig.outbox.gathers = False
    rig.outbox.finish(b"y")
    rig.drain_through()
    assert rig.taken == b"x" * size + b"y"


USES: dict[str, Callable[[OutboxRig], None]] = {
    "send": lambda rig: rig.outbox.send(b"next"),
    "hint": lambda rig: rig.outbox.hint(b"next"),
    "large": lambda rig: rig.outbox.finish(b"ne", b"xt"),
    "too large to be held": lambda rig: rig.outbox.finish(b"next" + bytes(HELD_BYTES)),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_held_comes_before_whatever_is_sent(rig: OutboxRig, use: str) -> None:
    rig.outbox.finish(b"held, ")
    USES[use](rig)
    rig.outbox.send_held()
    rig.drain_through()
    assert rig.taken.rstrip(b"\0") == b"held, next"


def test_what_is_held_comes_before_a_file(rig: OutboxRig, tmp_path: Path) -> None:
    rig.outbox.finish(b"held, ")
    rig.outbox.finish_file(b"head, ", a_file(tmp_path / "file", b"file"), 0, 4)
    rig.drain_through()
    assert rig.taken == b"held, head, file"


@pytest.mark.parametrize("size", [1, 8192])
def test_of_what_is_held_the_socket_may_take_a_part(rig: OutboxRig, size: int) -> None:
    filled = rig.fill()
    parts = [bytes([i]) * size for i in range(20)]
    for part in parts:
        rig.outbox.finish(part)
    rig.read(1 if size == 1 else 4096)
    rig.outbox.send_held()
    assert rig.outbox.items
    assert rig.outbox.held == []
    rig.drain_through()
    assert rig.taken == b"f" * (filled - (1 if size == 1 else 4096)) + b"".join(parts)


def test_a_client_that_has_gone_is_noticed_when_what_is_held_is_sent(rig: OutboxRig) -> None:
    rig.outbox.finish(b"one")
    rig.client.close()
    rig.outbox.send_held()
    assert rig.outbox.broken
    rig.outbox.gathers = False
    with pytest.raises(PeerGone):
        rig.outbox.finish(b"two")


def test_without_room_for_the_rest_of_what_is_held_nothing_may_follow(
    rig: OutboxRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(rest: memoryview) -> int:
        raise OSError(28, "No space left on device")

    rig.fill()
    monkeypatch.setattr(rig.store, "take", lambda size: False)
    monkeypatch.setattr(rig.store, "spool", full_disk)
    rig.outbox.finish(b"one")
    rig.outbox.send_held()
    assert rig.outbox.broken
    assert rig.outbox.items == []


def test_what_is_held_goes_with_its_connection(rig: OutboxRig) -> None:
    rig.outbox.finish(b"one")
    rig.outbox.close()
    rig.outbox.send_held()
    assert not rig.outbox.send_held_of_stuck()
    assert rig.read_all() == b""


# -- nothing follows what was lost ---------------------------------------------------------------


def lose(rig: OutboxRig) -> None:
    """Have the client get a part of a 103 and stall, and the application not mind."""
    rig.outbox.gathers = False
    rig.tick(1e6)
    with pytest.raises(PeerGone):
        rig.outbox.hint(LARGE)
    rig.tick(0)
    assert rig.outbox.broken


@pytest.mark.parametrize("content", [b"", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("gathers", [False, True])
def test_no_response_follows_a_103_that_was_cut(
    rig: OutboxRig, content: bytes, gathers: bool
) -> None:
    lose(rig)
    reader = rig.reader()
    rig.outbox.gathers = gathers
    try:
        rig.outbox.finish(b"response", content)
    except PeerGone:
        pass
    else:
        rig.outbox.send_held()
    assert rig.outbox.broken
    assert rig.outbox.items == []
    assert b"response" not in reader.everything()


def test_no_file_follows_a_103_that_was_cut(rig: OutboxRig, tmp_path: Path) -> None:
    lose(rig)
    fd = a_file(tmp_path / "file", b"file")
    with pytest.raises(PeerGone):
        rig.outbox.finish_file(b"head", fd, 0, 4)
    assert not is_open(fd)
    assert rig.outbox.items == []


# -- the thread is stuck, and the leader sends ---------------------------------------------------


def test_the_next_leader_sends_what_a_stuck_thread_holds(rig: OutboxRig) -> None:
    rig.outbox.finish(b"one")
    assert not rig.outbox.send_held_of_stuck()
    assert pending(rig) == b"one"
    assert rig.outbox.held == []


def test_from_then_on_the_thread_sends_for_itself(rig: OutboxRig) -> None:
    rig.outbox.finish(b"one, ")
    rig.outbox.send_held_of_stuck()
    rig.outbox.finish(b"two")
    assert rig.outbox.held == []
    assert pending(rig) == b"one, two"


@pytest.mark.parametrize("use", [*USES, "finish"])
def test_the_thread_takes_back_what_the_leader_could_not_send(rig: OutboxRig, use: str) -> None:
    rig.outbox.finish(b"held, ")
    filled = rig.fill()
    assert rig.outbox.send_held_of_stuck(), "all was sent into a full socket"
    assert rig.outbox.held
    assert rig.read(filled) == b"f" * filled
    USES.get(use, lambda rig: rig.outbox.finish(b"next"))(rig)
    rig.drain_through()
    assert rig.taken.rstrip(b"\0") == b"held, next"


def test_the_leader_may_try_again_and_again(rig: OutboxRig) -> None:
    filled = rig.fill()
    held = bytes(range(250)) * 60
    rig.outbox.finish(held)
    tries = 0
    while rig.outbox.send_held_of_stuck():
        rig.take(100)
        tries += 1
    assert tries > 1
    rig.drain_through()
    assert rig.taken == b"f" * filled + held


def test_a_hint_into_a_full_socket_is_dropped_and_what_is_held_is_not(rig: OutboxRig) -> None:
    rig.outbox.finish(b"held, ")
    filled = rig.fill()
    rig.outbox.hint(b"hint, ")
    assert rig.read(filled) == b"f" * filled
    rig.outbox.gathers = False
    rig.outbox.finish(b"response")
    rig.drain_through()
    assert rig.taken == b"held, response"


def test_a_client_that_has_gone_is_noticed_by_the_leader_of_a_stuck_thread(rig: OutboxRig) -> None:
    rig.outbox.finish(b"one")
    rig.client.close()
    assert not rig.outbox.send_held_of_stuck()
    assert rig.outbox.broken
    assert rig.outbox.held == []
    with pytest.raises(PeerGone):
        rig.outbox.finish(b"two")


# -- each order in which the leader and the stuck thread can meet --------------------------------


class Meeting(list[bytes]):
    """What is held; the leader comes just before, or just after, something is added to it."""

    def __init__(self, leader: Callable[[], object], *, before: bool) -> None:
        super().__init__()
        self._leader: Callable[[], object] | None = leader
        self._before = before

    def append(self, data: bytes) -> None:
        leader, self._leader = self._leader, None
        if leader and self._before:
            leader()
        super().append(data)
        if leader and not self._before:
            leader()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("earlier", [b"", b"earlier, "])
def test_the_leader_comes_while_the_thread_holds_its_response(
    rig: OutboxRig, before: bool, earlier: bytes
) -> None:
    outbox = rig.outbox
    held = Meeting(outbox.send_held_of_stuck, before=before)
    if earlier:
        list.append(held, earlier)
    outbox.held = held
    outbox.finish(b"response")
    assert outbox.held == []
    assert rig.read_all() == earlier + b"response"


@pytest.mark.parametrize("use", [*USES, "finish"])
def test_the_thread_waits_until_the_leader_has_sent(rig: OutboxRig, use: str) -> None:
    outbox = rig.outbox
    outbox.finish(b"held, ")
    slow = HeldSocket(rig.sock)
    outbox._send = slow.send  # type: ignore[assignment]
    leader = threading.Thread(target=outbox.send_held_of_stuck, daemon=True)
    leader.start()
    assert slow.entered.wait(BOUND_S)
    outbox._send = rig.sock.send  # type: ignore[assignment]
    outbox.gathers = False
    thread = threading.Thread(
        target=USES.get(use, lambda rig: rig.outbox.finish(b"next")), args=(rig,), daemon=True
    )
    thread.start()
    thread.join(0.05)  # it waits for the lock, or is about to; it must not be first
    slow.go_on.set()
    for each in (leader, thread):
        each.join(BOUND_S)
        assert not each.is_alive()
    rig.drain_through()
    assert rig.taken.rstrip(b"\0") == b"held, next"


# -- taken from its thread -----------------------------------------------------------------------


@pytest.fixture
def revoked() -> Iterator[OutboxRig]:
    """An outbox with the rest of an earlier response, whose thread has been given up."""
    rig = OutboxRig(RevocableOutbox)
    outbox = rig.outbox
    assert isinstance(outbox, RevocableOutbox)
    outbox.gathers = True
    outbox.finish(b"earlier")
    outbox.renew()  # the next request begins, and is stuck
    assert outbox.revoke()
    yield rig
    rig.close()


@pytest.mark.parametrize("use", [*USES, "finish"])
@pytest.mark.parametrize("gathers", [False, True])
def test_a_thread_that_was_given_up_does_not_take_what_others_left(
    revoked: OutboxRig, use: str, gathers: bool
) -> None:
    revoked.outbox.gathers = gathers
    with pytest.raises(PeerGone):
        USES.get(use, lambda rig: rig.outbox.finish(b"next"))(revoked)
    assert revoked.outbox.held == [b"earlier"]


def test_a_thread_that_was_given_up_sends_no_file_with_what_others_left(
    revoked: OutboxRig, tmp_path: Path
) -> None:
    fd = a_file(tmp_path / "file", b"file")
    with pytest.raises(PeerGone):
        revoked.outbox.finish_file(b"head", fd, 0, 4)
    assert not is_open(fd)
    assert revoked.outbox.held == [b"earlier"]
    assert revoked.outbox.items == []


@pytest.mark.parametrize("use", ["send", "hint"])
def test_a_thread_that_sends_what_others_left_cannot_be_given_up_meanwhile(use: str) -> None:
    rig = OutboxRig(RevocableOutbox)
    outbox = rig.outbox
    assert isinstance(outbox, RevocableOutbox)
    outbox.held.append(b"earlier, ")
    given_up: list[bool] = []

    def sending(data: Any, flags: int = 0) -> int:
        given_up.append(outbox.revoke())
        return rig.sock.send(data, flags)

    outbox._send = sending  # type: ignore[assignment]
    USES[use](rig)
    assert given_up == [False]
    assert rig.read_all() == b"earlier, next"
    rig.close()
