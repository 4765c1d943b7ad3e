"""Outbox: nothing is lost, nothing is sent twice, nobody waits for ever."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from httpcore_srv import outbox as outbox_module
from httpcore_srv.errors import PeerGone
from httpcore_srv.outbox import FileRange, Outbox, RevocableOutbox
from httpcore_srv.ports import Incident
from tests.fakes.store import full_disk, no_space
from tests.unit.httpcore_srv.outbox_rig import LARGE, OutboxRig, a_file, is_open

KINDS = [Outbox, RevocableOutbox]
MakeRig = Callable[..., OutboxRig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    rigs: list[OutboxRig] = []

    def make(*args: object, **options: object) -> OutboxRig:
        rigs.append(OutboxRig(*args, **options))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, make_rig: MakeRig) -> OutboxRig:
    return make_rig(request.param)


# -- pieces that others follow ----------------------------------------------------------------


def test_a_piece_that_the_socket_takes_costs_no_waiting(rig: OutboxRig) -> None:
    rig.outbox.send(b"one")
    rig.outbox.send(b"two")
    assert rig.stepped_aside == 0
    assert rig.read_all() == b"onetwo"


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_waits_for_a_client_until_all_is_taken(
    make_rig: MakeRig, kind: type[Outbox], tcp: bool
) -> None:
    rig = make_rig(kind, tcp=tcp)
    reader = rig.reader()
    rig.outbox.send(LARGE)
    rig.outbox.send(b"and more")
    rig.outbox.finish(b"")
    assert reader.everything() == LARGE + b"and more"
    assert rig.stepped_aside >= 1
    assert rig.incidents == []
    assert not rig.outbox.broken


def test_it_is_told_before_it_waits_and_not_after(rig: OutboxRig) -> None:
    unread: list[int] = []
    filled = rig.fill()
    rig.on_aside = lambda: unread.append(len(rig.read(filled)))
    rig.outbox.send(b"now")
    assert unread == [filled]
    assert rig.read_all() == b"now"


@pytest.mark.parametrize("how", ["send", "finish", "hint"])
def test_a_client_that_is_gone_is_found_out(rig: OutboxRig, how: str) -> None:
    rig.client.close()
    with pytest.raises(PeerGone):
        getattr(rig.outbox, how)(b"x")
    assert rig.outbox.broken


def test_a_client_that_goes_while_it_is_waited_for_is_found_out(rig: OutboxRig) -> None:
    rig.on_aside = rig.client.close
    with pytest.raises(PeerGone):
        rig.outbox.send(LARGE)
    assert rig.outbox.broken


def test_a_socket_that_is_closed_under_a_waiting_thread_is_the_same(rig: OutboxRig) -> None:
    # As the leader does, after it has written the thread off.
    rig.on_aside = rig.sock.close
    with pytest.raises(PeerGone):
        rig.outbox.send(LARGE)


# -- clients that are too slow -------------------------------------------------------------------


def test_a_client_that_takes_nothing_is_given_up(make_rig: MakeRig) -> None:
    rig = make_rig(write_ns=20_000_000)
    rig.on_aside = lambda: rig.tick(0.01)
    with pytest.raises(PeerGone, match="too slowly"):
        rig.outbox.send(LARGE)
    assert rig.incidents == [Incident.STALLED]
    assert rig.outbox.broken


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("then", ["send", "finish", "hint", "finish_file"])
def test_nothing_follows_a_piece_of_which_a_part_was_lost(
    make_rig: MakeRig, tmp_path: Path, kind: type[Outbox], then: str
) -> None:
    # An application may catch the exception and go on.
    rig = make_rig(kind, write_ns=20_000_000)
    rig.on_aside = lambda: rig.tick(0.01)
    with pytest.raises(PeerGone):
        rig.outbox.send(LARGE)
    had = rig.client.recv(len(LARGE))
    fd = a_file(tmp_path / "file", b"content")
    if then != "finish_file":
        os.close(fd)
    with pytest.raises(PeerGone):
        getattr(rig.outbox, then)(*([b"head", fd, 0, 7] if then == "finish_file" else [b"more"]))
    assert not is_open(fd)
    rig.outbox.finish(b"")
    assert LARGE.startswith(had + rig.read_all())
    assert rig.outbox.items == []


@pytest.mark.parametrize(
    ("room", "patience"), [(True, "write_ns"), (False, "crowded_ns")], ids=["aside", "crowded"]
)
def test_a_client_may_rest_for_less_long_where_its_thread_counts_as_busy(
    make_rig: MakeRig, room: bool, patience: str
) -> None:
    # The other one is so long that the test would not end.
    rig = make_rig(room=room, **{patience: 20_000_000})
    rig.on_aside = lambda: rig.tick(0.01)
    with pytest.raises(PeerGone, match="too slowly"):
        rig.outbox.send(LARGE)
    assert rig.incidents == [Incident.STALLED]


@pytest.mark.parametrize(("min_rate", "fast_enough"), [(0, True), (100, True), (1 << 20, False)])
def test_a_client_must_keep_the_rate_while_a_thread_waits_for_it(
    make_rig: MakeRig, min_rate: int, fast_enough: bool
) -> None:
    rig = make_rig(write_ns=3_000_000_000, min_rate=min_rate)
    content = LARGE[: 1 << 17]
    stopped = threading.Event()

    def trickle() -> None:
        rig.client.settimeout(10)
        taken = 0
        while taken < len(content) and not stopped.is_set():
            taken += len(rig.client.recv(1 << 13))
            rig.clock.advance(1)  # some thousand bytes a second

    thread = threading.Thread(target=trickle, daemon=True)
    rig.on_aside = thread.start
    try:
        if fast_enough:
            rig.outbox.send(content)
        else:
            with pytest.raises(PeerGone, match="too slowly"):
                rig.outbox.send(content)
    finally:
        stopped.set()
        rig.sock.shutdown(socket.SHUT_WR)
        thread.join(10)
    assert rig.incidents == ([] if fast_enough else [Incident.STALLED])


# -- the last piece ------------------------------------------------------------------------------


def test_a_last_piece_that_the_socket_takes_leaves_nothing(rig: OutboxRig) -> None:
    rig.outbox.finish(b"all")
    rig.outbox.finish(b"")
    assert rig.outbox.items == []
    assert rig.outbox.drain()
    assert rig.read_all() == b"all"
    assert (rig.store.used, rig.stepped_aside) == (0, 0)


def test_a_last_piece_of_which_the_socket_takes_nothing_waits_whole(rig: OutboxRig) -> None:
    filled = rig.fill()
    rig.outbox.finish(b"all of it")
    assert rig.store.used == len(b"all of it")
    rig.read(filled)
    rig.drain()
    assert rig.read_all() == b"all of it"


def test_a_closed_outbox_has_no_place_aside(rig: OutboxRig) -> None:
    rig.outbox.close()
    rig.outbox.send(b"x")  # as a thread may, that was written off
    assert rig.stepped_aside == 0


@pytest.mark.parametrize("tcp", [False, True])
def test_what_the_socket_does_not_take_waits_in_memory(make_rig: MakeRig, tcp: bool) -> None:
    rig = make_rig(tcp=tcp)
    rig.outbox.finish(LARGE)
    assert len(rig.outbox.items) == 1
    assert 0 < rig.store.used <= len(LARGE)
    assert rig.stepped_aside == 0
    reader = rig.reader()
    rig.drain()
    assert rig.store.used == 0
    assert reader.everything() == LARGE


def test_without_room_it_waits_in_a_file(rig: OutboxRig, tmp_path: Path) -> None:
    rig.store.limit(1000)
    rig.store.make = lambda: open(tmp_path / "spool", "w+b")  # noqa: SIM115
    rig.outbox.finish(LARGE)
    assert rig.store.used == 0
    assert Incident.SPOOLED in rig.incidents
    assert rig.store.made[0].closed
    assert rig.stepped_aside == 1, "the disk was waited for by a thread that may lead"
    (part,) = rig.outbox.items
    reader = rig.reader()
    rig.drain()
    assert not is_open(part.fd)  # type: ignore[union-attr]
    assert reader.everything() == LARGE
    assert not rig.outbox.cut_short


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["no file", "disk full", "no descriptor"])
def test_without_memory_and_disk_the_response_ends_there(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, kind: type[Outbox], fault: str
) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) if fault != "no file" else no_space()

    rig = make_rig(kind)
    rig.store.limit(0)
    if fault == "no file":
        rig.store.make = fails  # type: ignore[assignment]
    elif fault == "disk full":
        rig.store.make = full_disk
    else:
        monkeypatch.setattr(os, "dup", fails)
    with pytest.raises(PeerGone):
        rig.outbox.finish(LARGE)
    monkeypatch.undo()
    assert rig.incidents[-1] is Incident.NO_ROOM
    assert all(file.closed for file in rig.store.made)
    with pytest.raises(PeerGone):
        rig.outbox.finish(b"more")
    with pytest.raises(PeerGone):
        rig.outbox.send(b"more")
    fds = [item.fd for item in rig.outbox.items if isinstance(item, FileRange)]
    rig.outbox.close()
    assert not any(map(is_open, fds))
    assert LARGE.startswith(rig.read_all())


def test_many_outboxes_share_one_budget(make_rig: MakeRig) -> None:
    first, second = make_rig(), make_rig()
    second.outbox._terms = first.outbox._terms
    first.store.limit(len(LARGE) + 1000)
    first.outbox.finish(LARGE)
    taken = first.store.used
    first.store.make = lambda: open("/dev/null", "r+b")  # noqa: SIM115
    second.outbox.finish(LARGE)
    assert first.store.used == taken
    assert len(first.store.made) == 1
    second.outbox.close()
    first.outbox.clear()
    assert first.store.used == 0


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("offset", "count"), [(0, len(LARGE)), (1000, 5000), (5, 1), (0, 0), (len(LARGE), 0)]
)
def test_a_part_of_a_file_follows_its_head(
    make_rig: MakeRig, tmp_path: Path, kind: type[Outbox], offset: int, count: int
) -> None:
    rig = make_rig(kind, tcp=True)
    fd = a_file(tmp_path / "file", LARGE)
    rig.outbox.finish_file(b"head", fd, offset, count)
    assert is_open(fd) == (count > 0)
    reader = rig.reader()
    rig.drain()
    assert reader.everything() == b"head" + LARGE[offset : offset + count]
    assert not is_open(fd)
    assert not rig.outbox.cut_short


def test_a_file_that_is_shorter_than_promised_cuts_the_response(
    rig: OutboxRig, tmp_path: Path
) -> None:
    fd = a_file(tmp_path / "file", b"short")
    rig.outbox.finish_file(b"head", fd, 0, 1000)
    rig.drain()
    assert rig.outbox.cut_short
    assert not is_open(fd)
    assert rig.read_all() == b"headshort"


def test_a_fast_client_does_not_hold_the_loop(
    make_rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "SENDFILE_BYTES", 10)
    rig = make_rig()
    rig.outbox.finish_file(b"", a_file(tmp_path / "file", LARGE[:25]), 0, 25)
    assert [rig.outbox.drain() for _ in range(3)] == [False, False, True]
    assert rig.read_all() == LARGE[:25]


# -- interim responses -------------------------------------------------------------------------


def test_a_hint_that_the_socket_takes_is_sent(rig: OutboxRig) -> None:
    rig.outbox.hint(b"hint")
    rig.outbox.finish(b"rest")
    assert rig.read_all() == b"hintrest"
    assert rig.stepped_aside == 0


def test_a_hint_for_which_there_is_no_room_is_dropped(rig: OutboxRig) -> None:
    filled = rig.fill()
    rig.outbox.hint(b"hint")
    assert rig.stepped_aside == 0
    assert not rig.outbox.broken
    rig.read(filled)
    rig.outbox.finish(b"rest")
    assert rig.read_all() == b"rest"


@pytest.mark.parametrize("kind", KINDS)
def test_a_hint_of_which_a_part_was_sent_is_sent_whole(
    make_rig: MakeRig, kind: type[Outbox]
) -> None:
    rig = make_rig(kind, tcp=True)
    reader = rig.reader()
    rig.outbox.hint(LARGE)
    rig.outbox.finish(b"rest")
    rig.drain()
    assert reader.everything() == LARGE + b"rest"


@pytest.mark.parametrize("kind", KINDS)
def test_a_hint_that_got_stuck_half_way_is_the_end(make_rig: MakeRig, kind: type[Outbox]) -> None:
    # What follows would be read as a part of it.
    rig = make_rig(kind, tcp=True, write_ns=20_000_000)
    rig.on_aside = lambda: rig.tick(0.01)
    with pytest.raises(PeerGone):
        rig.outbox.hint(LARGE)
    reader = rig.reader()
    with pytest.raises(PeerGone):
        rig.outbox.finish(b"rest")
    assert LARGE.startswith(reader.everything())


# -- how long a client may take --------------------------------------------------------------------


def begin(rig: OutboxRig) -> int:
    """Leave the client more than it takes; return when the time began to run."""
    rig.outbox.finish(LARGE)
    rig.outbox.begin_wait()
    return rig.clock.now_ns


S = 1_000_000_000


def test_a_client_that_takes_nothing_has_its_patience_and_no_more(make_rig: MakeRig) -> None:
    rig = make_rig()
    began = begin(rig)
    for _ in range(3):
        rig.clock.advance(7)
        assert not rig.outbox.drain()
        assert rig.outbox.due_ns(30 * S) == began + 30 * S


@pytest.mark.parametrize("tcp", [False, True])
def test_every_byte_that_a_client_takes_buys_time_though_the_socket_takes_none(
    make_rig: MakeRig, tcp: bool
) -> None:
    rig = make_rig(tcp=tcp)
    begin(rig)
    before = outbox_module.unread_by_peer(rig.sock)
    rig.clock.advance(20)
    rig.client.recv(1 << 20)
    if tcp:
        rig.until_taken(before)
    moved = rig.clock.now_ns
    assert rig.outbox.due_ns(30 * S) == moved + 30 * S
    rig.clock.advance(5)
    assert rig.outbox.due_ns(30 * S) == moved + 30 * S


def test_what_is_given_to_the_socket_meanwhile_is_not_taken_by_the_client(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(tcp=True)
    rig.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rig.outbox.finish(LARGE)
    rig.outbox.begin_wait()
    began = rig.clock.now_ns
    rig.clock.advance(3)
    # More room in our own kernel is no deed of the client.
    rig.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    given = rig.outbox.items[0]
    assert not rig.outbox.drain()
    assert len(rig.outbox.items[0]) < len(given)  # type: ignore[arg-type]
    assert rig.outbox.due_ns(30 * S) == began + 30 * S


@pytest.mark.parametrize("tcp", [False, True])
def test_a_trickle_must_keep_the_rate_on_the_average(make_rig: MakeRig, tcp: bool) -> None:
    rig = make_rig(tcp=tcp, min_rate=1000)
    began = begin(rig)
    due = [rig.outbox.due_ns(30 * S)]
    taken = 0
    reader = rig.client
    reader.settimeout(10)
    while taken < 100_000:
        rig.clock.advance(1)
        taken += len(reader.recv(2000))
        rig.outbox.drain()
        due.append(rig.outbox.due_ns(30 * S))
    assert due[0] == began + 30 * S
    assert due == sorted(due)
    # A hundred thousand bytes are good for a hundred seconds; of the last of them the
    # acknowledgement may be on its way, and what has not been sent does not count.
    assert due[-1] <= began + 100 * S + S
    assert due[-1] > began + 30 * S


def test_the_time_of_one_wait_says_nothing_of_the_next(make_rig: MakeRig) -> None:
    rig = make_rig(min_rate=240)
    begin(rig)
    rig.clock.advance(100)
    rig.outbox.begin_wait()
    assert rig.outbox.due_ns(30 * S) == rig.clock.now_ns + 30 * S


def test_a_client_can_be_shown_that_it_will_not_get_all(make_rig: MakeRig) -> None:
    rig = make_rig(tcp=True)
    rig.outbox.send(b"a part")
    assert rig.read(6) == b"a part"
    rig.outbox.abort()
    assert rig.outbox.broken
    rig.sock.close()
    with pytest.raises(ConnectionResetError):
        rig.client.recv(1)


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["clear", "close"])
def test_what_is_dropped_is_given_back_and_closed(rig: OutboxRig, tmp_path: Path, how: str) -> None:
    rig.outbox.finish(LARGE)
    fd = a_file(tmp_path / "file", b"content")
    rig.outbox.finish_file(b"", fd, 0, 7)
    getattr(rig.outbox, how)()
    assert rig.outbox.items == []
    assert rig.store.used == 0
    assert not is_open(fd)
    getattr(rig.outbox, how)()
    assert rig.store.used == 0


def test_a_closed_outbox_and_its_owner_do_not_keep_each_other_alive(make_rig: MakeRig) -> None:
    rig = make_rig()

    class Owner:
        def __init__(self) -> None:
            self.outbox = Outbox(rig.sock, rig.outbox._terms, self.step_aside)

        def step_aside(self) -> bool:
            return True

    owner = Owner()
    gone = weakref.ref(owner)
    gc.disable()
    try:
        owner.outbox.close()
        del owner
        assert gone() is None
    finally:
        gc.enable()
