"""Bridge: words and connections between two servers; nothing is lost while both live."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spm.bridge import Bridge, bridge_pair
from spm.scoreboard import Scoreboard
from spm.siblings import MAX_MESSAGE_BYTES, Inboxes
from spm.system import System

LOOKS = 2000
LONG = bytes(60_000)


class Side:
    """One manager's loop with one end of a bridge."""

    def __init__(self, end: socket.socket) -> None:
        self.inboxes = Inboxes(1)
        self.system = System(
            lambda: (_ for _ in ()).throw(AssertionError),
            Scoreboard(1, 1),
            self.inboxes,
            preload=True,
            stale_ns=10**10,
        )
        self.news: list[Any] = []
        self.parcels: list[tuple[bytes, int]] = []
        self.gone = 0
        self.bridge = Bridge(
            self.system,
            end,
            on_news=self.news.append,
            on_parcel=lambda message, fd: self.parcels.append((message, fd)),
            on_gone=self._note_gone,
        )
        self.bridge.open()

    def _note_gone(self) -> None:
        self.gone += 1

    def close(self) -> None:
        self.bridge.close()
        for _, fd in self.parcels:
            os.close(fd)
        self.system.close()
        self.inboxes.close()


class Pair:
    """Both sides; looked at in turn."""

    def __init__(self) -> None:
        ours, theirs = bridge_pair()
        self.old, self.new = Side(ours), Side(theirs)

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(LOOKS):
            if condition():
                return
            self.old.system.wait(0.005)
            self.new.system.wait(0.005)
        raise AssertionError("never")

    def close(self) -> None:
        self.old.close()
        self.new.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def a_connection() -> tuple[int, socket.socket]:
    """Return a descriptor to give away, and the client's end."""
    ours, client = socket.socketpair()
    client.settimeout(10)
    return ours.detach(), client


def test_news_come_in_both_directions(pair: Pair) -> None:
    pair.new.bridge.tell({"news": "serving", "format": 1})
    pair.old.bridge.tell({"news": "yours"})
    pair.until(lambda: pair.old.news and pair.new.news)
    assert pair.old.news == [{"news": "serving", "format": 1}]
    assert pair.new.news == [{"news": "yours"}]


def test_a_connection_comes_with_its_message_and_is_closed_here(pair: Pair) -> None:
    fd, client = a_connection()
    message = b"N" * MAX_MESSAGE_BYTES  # the largest; and not taken for news
    pair.old.bridge.carry(message, fd)
    pair.until(lambda: pair.new.parcels)
    ((received, moved),) = pair.new.parcels
    assert received == message
    os.write(moved, b"hello")
    assert client.recv(10) == b"hello"
    os.close(moved)
    pair.new.parcels.clear()
    assert client.recv(10) == b""  # no copy is left with the sender
    client.close()


def test_more_than_fits_waits_and_comes_in_order(pair: Pair) -> None:
    sent = 0
    while pair.old.bridge.queued < 40:
        pair.old.bridge.carry(b"%06d" % sent + LONG, os.open("/dev/null", os.O_RDONLY))
        sent += 1
    pair.old.bridge.tell({"news": "yours"})
    pair.until(lambda: pair.new.news)
    assert [int(message[:6]) for message, _ in pair.new.parcels] == list(range(sent))
    assert pair.old.bridge.queued == pair.old.bridge.lost == 0


def test_too_many_descriptors_on_their_way_are_tried_again_at_the_next_tick(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def refuse(*arguments: object) -> int:
        nonlocal tries
        tries += 1
        raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")

    fd, client = a_connection()
    with monkeypatch.context() as patched:
        patched.setattr("spm.bridge.socket.send_fds", refuse)
        pair.old.bridge.carry(b"x", fd)
        for _ in range(10):
            pair.old.system.wait(0.001)
        assert tries == 1  # epoll says that there is room, and would say so over and over
    pair.old.bridge.flush()
    pair.until(lambda: pair.new.parcels)
    client.close()


def test_while_paused_nothing_is_taken_and_nothing_is_lost(pair: Pair) -> None:
    pair.new.bridge.pause()
    pair.old.bridge.tell({"news": "yours"})
    for _ in range(3):
        assert pair.new.system.wait(0.01) == []
    assert pair.new.news == []
    pair.new.bridge.resume()
    pair.until(lambda: pair.new.news)


def test_a_side_that_is_paused_does_not_spin_when_the_other_ends(pair: Pair) -> None:
    pair.new.bridge.pause()
    pair.old.bridge.close()
    looked = threading.Event()
    threading.Timer(0.05, looked.set).start()
    turns = 0
    while not looked.is_set():
        pair.new.system.wait(0.02)
        turns += 1
    assert turns < 20
    pair.new.bridge.resume()
    pair.until(lambda: pair.new.gone)


def test_the_end_comes_after_what_was_said_and_once(pair: Pair) -> None:
    fd, client = a_connection()
    pair.old.bridge.tell({"news": "yours"})
    pair.old.bridge.carry(b"last", fd)
    pair.old.bridge.close()
    pair.until(lambda: pair.new.gone)
    assert pair.new.news == [{"news": "yours"}]
    assert [message for message, _ in pair.new.parcels] == [b"last"]
    for _ in range(3):
        pair.new.system.wait(0.001)
    assert pair.new.gone == 1
    assert not pair.new.bridge.is_open
    client.close()


def test_what_cannot_be_sent_any_more_is_closed_and_counted(pair: Pair) -> None:
    clients = []
    while pair.old.bridge.queued < 10:
        fd, client = a_connection()
        clients.append(client)
        pair.old.bridge.carry(LONG, fd)
    pair.new.bridge.close()
    pair.until(lambda: pair.old.gone)
    assert pair.old.bridge.lost == 10
    fd, client = a_connection()
    clients.append(client)
    pair.old.bridge.carry(b"x", fd)
    pair.old.bridge.tell({"news": "yours"})
    assert pair.old.bridge.lost == 11
    for client in clients:
        assert client.recv(1) == b""
        client.close()


def test_a_side_out_of_descriptors_counts_what_it_loses(pair: Pair) -> None:
    fd, client = a_connection()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    pair.old.bridge.carry(b"x", fd)
    # No number above the ones in use.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        pair.until(lambda: pair.new.bridge.lost)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert pair.new.parcels == []
    assert client.recv(1) == b""
    client.close()
