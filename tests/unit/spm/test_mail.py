"""Connections that lie in the inbox of a worker that does not read it."""

from __future__ import annotations

import os

import pytest

from spm.scoreboard import Scoreboard
from spm.siblings import Inboxes, Siblings
from spm.slot import Slot
from tests.fakes.server import FakeServer, serving
from tests.fakes.system import FakeWorker


def send(server: FakeServer, worker: FakeWorker) -> None:
    """Put a connection into a worker's inbox, as a sibling does that still believes in it."""
    fd = os.open(os.devnull, os.O_RDONLY)
    assert server.system.inboxes.put(worker.index, b"parcel", fd)
    os.close(fd)


def test_mail_does_not_wait_for_a_worker_that_is_slow_to_start() -> None:
    with serving(min_workers=2, max_workers=2) as server:
        dead, other = server.ready()
        server.system.start_s = 60.0
        server.system.crash(dead)
        server.until(lambda: server.system.alive("starting"))
        (successor,) = server.system.alive("starting")
        assert successor.index == dead.index
        send(server, successor)
        server.until(lambda: other.parcels == [b"parcel"], 3)


@pytest.mark.parametrize("stopped", [False, True])
def test_mail_does_not_wait_for_a_worker_that_hangs_while_it_leaves(stopped: bool) -> None:
    with serving(min_workers=2, max_workers=2, graceful_timeout_s=60) as server:
        hung, other = server.ready()
        hung.hung, hung.stopped = not stopped, stopped
        handle = next(handle for handle in server.spm._fleet if handle.slot == hung.index)
        server.spm._fleet.drain(handle)
        send(server, hung)
        server.until(lambda: other.parcels == [b"parcel"], 3)


def test_mail_is_left_to_a_worker_that_serves() -> None:
    with serving(min_workers=2, max_workers=2) as server:
        worker, other = server.ready()
        worker.hung = True
        send(server, worker)
        server.run(5)
        assert other.parcels == []
        worker.hung = False
        server.until(lambda: worker.parcels == [b"parcel"], 3)


def test_who_says_that_it_is_ready_can_be_sent_connections_in_that_moment() -> None:
    # In a reload the old workers are told to leave as soon as the new ones say so.
    board, inboxes = Scoreboard(2, capacity=2), Inboxes(2)
    for index in range(2):
        board.assign(index, index + 1, generation=1, spawned_ns=5)
    slot = Slot(board, 1, 2)
    slot.started()
    slot.ready()
    fd = os.open(os.devnull, os.O_RDONLY)
    assert Siblings(inboxes, board, 0).send(b"parcel", fd, only_free=True)
    os.close(fd)
    received = inboxes.take(1)
    assert received is not None
    assert received[0] == b"parcel"
    os.close(received[1])
    inboxes.close()
