"""Upgrade and succession: the managers of the old and of the new server, on a fake machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spm import BootFailed, Command, Inheritance, Renewal
from spm.bridge import bridge_pair, news_packet
from spm.exit_status import ExitStatus
from tests.fakes.server import FakeServer, not_started, serving
from tests.fakes.system import FakeWorker, Successor

COMMAND = Command("/usr/bin/python3", ["/usr/bin/python3", "main.py"], "/", {"A": "b"})
FORMAT = 7
SOCKETS = [(3, "web")]


@pytest.fixture(autouse=True)
def spoken(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="smart_http")
    return caplog


class Files:
    """Whose the socket files are."""

    def __init__(self) -> None:
        self.owned = self.disowned = 0

    def to_pass_on(self) -> list[tuple[int, str]]:
        return SOCKETS

    def own(self) -> None:
        self.owned += 1

    def disown(self) -> None:
        self.disowned += 1


class Old:
    """A server that is asked for an upgrade; the test is the new one."""

    def __init__(self, server: FakeServer, files: Files) -> None:
        self.server = server
        self.files = files
        self.answers: list[Any] = []

    def ask(self) -> None:
        self.server.spm._upgrade.ask(self.answers.append)

    @property
    def new(self) -> Successor:
        assert self.server.system.successor is not None
        return self.server.system.successor

    def say(self, **news: Any) -> None:
        self.new.bridge.send(news_packet(news))

    def serve(self) -> None:
        """Say that the new one serves, and let the old one hear it."""
        self.say(news="serving", format=FORMAT)
        self.server.until(lambda: self.answers)

    def hear(self) -> list[tuple[bytes, int]]:
        """Return what has come over the bridge, with how many descriptors."""
        came = []
        self.new.bridge.setblocking(False)
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self.new.bridge, 1 << 18, 1)
            except BlockingIOError:
                return came
            if not packet:
                return came
            for fd in fds:
                os.close(fd)
            came.append((packet, len(fds)))

    @property
    def stage(self) -> str:
        return self.server.readout().upgrade


@contextmanager
def upgrading(**settings: Any) -> Iterator[Old]:
    """A server that serves, and may be replaced."""
    files = Files()
    renewal = Renewal(COMMAND, files, FORMAT)
    with serving(renewal=renewal, **settings) as server:
        old = Old(server, files)
        yield old
        if server.system.successor is not None:
            server.system.successor.bridge.close()


def hold(worker: FakeWorker) -> None:
    """Keep a worker from leaving."""
    worker.begin()


def parcel(text: bytes = b"hello") -> tuple[bytes, int, socket.socket]:
    ours, client = socket.socketpair()
    client.settimeout(10)
    return text, ours.detach(), client


# --- the old server -----------------------------------------------------------------------------


def test_the_new_server_gets_command_sockets_and_the_number_of_workers() -> None:
    with upgrading(min_workers=3) as old:
        old.ask()
        assert old.new.command is COMMAND
        assert old.new.sockets == SOCKETS
        assert old.new.workers == 3
        assert old.stage == "starting"
        assert old.answers == []


def test_until_the_new_one_serves_nothing_changes_here() -> None:
    with upgrading(min_workers=2) as old:
        old.ask()
        old.server.system.crash(old.server.ready()[0])
        old.server.run(5)
        assert len(old.server.ready()) == 2
        assert old.files.disowned == 0
        assert old.hear() == []


def test_when_it_serves_the_old_one_hands_over_and_ends() -> None:
    with upgrading(min_workers=2) as old:
        old.ask()
        pid = old.new.pid
        old.serve()
        assert old.answers == [{"ok": True, "pid": pid}]
        assert old.files.disowned == 1
        assert old.hear()[0] == (news_packet({"news": "yours"}), 0)
        old.server.run(5)
        assert old.server.over
        assert not old.server.system.workers


def test_the_old_one_waits_for_its_requests_and_starts_nobody_meanwhile() -> None:
    with upgrading(min_workers=2) as old:
        one, other = old.server.ready()
        hold(one)
        old.ask()
        old.serve()
        old.server.until(lambda: other.index not in old.server.system.workers)
        old.server.run(5)
        assert old.stage == "leaving"
        assert not old.server.over
        assert old.server.total() == 1
        one.end()
        old.server.run(5)
        assert old.server.over


def test_whoever_does_not_finish_has_the_graceful_timeout() -> None:
    with upgrading(graceful_timeout_s=5.0, kill_after_s=1.0) as old:
        (worker,) = old.server.ready()
        worker.begin()
        worker.hung = True
        old.ask()
        old.serve()
        old.server.run(20)
        assert old.server.over
        assert old.server.system.killed == [worker.pid]


def test_connections_go_over_the_bridge_when_no_sibling_takes_them() -> None:
    with upgrading() as old:
        (worker,) = old.server.ready()
        hold(worker)
        text, fd, client = parcel()
        assert not worker.siblings.send(text, fd, only_free=False)
        old.ask()
        old.serve()
        old.hear()
        assert worker.siblings.send(text, fd, only_free=False)
        os.close(fd)
        old.server.run(0.2)
        assert old.hear() == [(b"P" + text, 1)]
        assert client.recv(1) == b""  # no copy is left anywhere
        client.close()


def test_what_lies_in_a_dead_workers_inbox_goes_the_same_way() -> None:
    with upgrading() as old:
        (worker,) = old.server.ready()
        hold(worker)
        worker.hung = True
        old.ask()
        old.serve()
        old.hear()
        text, fd, client = parcel()
        assert old.server.system.inboxes.put(worker.index, text, fd)
        os.close(fd)
        old.server.system.crash(worker)
        old.server.run(1)
        assert old.hear() == [(b"P" + text, 1)]
        assert old.server.over
        client.close()


def fill(old: Old, worker: FakeWorker) -> tuple[int, list[socket.socket]]:
    """Send connections until the new server's side of the bridge is full."""
    clients: list[socket.socket] = []
    while True:
        text, fd, client = parcel(bytes(60_000))
        clients.append(client)
        sent = worker.siblings.send(text, fd, only_free=False)
        os.close(fd)
        if not sent:
            return len(clients) - 1, clients
        if len(clients) % 8 == 0:
            old.server.run(0.1)


def test_a_full_bridge_loses_nothing_and_keeps_the_old_one_alive() -> None:
    with upgrading() as old:
        (worker,) = old.server.ready()
        hold(worker)
        old.ask()
        old.serve()
        old.hear()
        sent, clients = fill(old, worker)
        worker.end()
        old.server.run(2)
        assert not old.server.system.workers
        assert not old.server.over
        came = 0
        while not old.server.over:
            came += len(old.hear())
            old.server.run(0.1)
        came += len(old.hear())
        assert came == sent
        for client in clients:
            client.close()


def test_a_new_server_that_takes_nothing_does_not_hold_the_old_one_for_ever(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with upgrading(graceful_timeout_s=2.0) as old:
        (worker,) = old.server.ready()
        hold(worker)
        old.ask()
        old.serve()
        _, clients = fill(old, worker)
        worker.end()
        old.server.run(20)
        assert old.server.over
        assert "connections could not be handed over and are closed" in spoken.text
        for client in clients:
            client.close()


def test_without_the_new_one_the_rest_is_stopped_politely(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with upgrading() as old:
        (worker,) = old.server.ready()
        hold(worker)
        old.ask()
        old.serve()
        old.server.system.end_successor(ExitStatus(signal=9))
        old.server.run(1)
        assert "the new server has gone; stopping gracefully" in spoken.text
        assert "the new server has ended: killed by SIGKILL" in spoken.text
        text, fd, client = parcel()
        assert not worker.siblings.send(text, fd, only_free=False)
        os.close(fd)
        worker.end()
        old.server.run(1)
        assert old.server.over
        client.close()


def test_a_process_of_the_new_one_that_holds_the_bridge_hides_its_end_from_nobody() -> None:
    with upgrading() as old:
        (worker,) = old.server.ready()
        hold(worker)
        old.ask()
        old.serve()
        child = old.new.bridge.dup()
        old.server.system.end_successor(ExitStatus(signal=9))
        old.server.run(1)
        text, fd, client = parcel()
        assert not worker.siblings.send(text, fd, only_free=False)
        os.close(fd)
        worker.end()
        old.server.run(1)
        assert old.server.over
        client.close()
        child.close()


def test_what_was_on_its_way_then_is_counted(spoken: pytest.LogCaptureFixture) -> None:
    with upgrading() as old:
        (worker,) = old.server.ready()
        hold(worker)
        old.ask()
        old.serve()
        _, clients = fill(old, worker)
        old.server.system.end_successor(ExitStatus(signal=9))
        worker.end()
        old.server.run(1)
        assert old.server.over
        assert "connections could not be handed over and are closed" in spoken.text
        for client in clients:
            client.close()


def test_to_a_server_of_another_version_nothing_is_handed_over() -> None:
    with upgrading() as old:
        (worker,) = old.server.ready()
        hold(worker)
        old.ask()
        old.say(news="serving", format=FORMAT + 1)
        old.server.until(lambda: old.answers)
        assert old.answers[0]["ok"]
        text, fd, client = parcel()
        assert not worker.siblings.send(text, fd, only_free=False)
        os.close(fd)
        assert old.server.told_to_drain() == []
        worker.end()
        old.server.run(1)
        assert old.server.over  # stopped: each answer says that the connection ends
        client.close()


# --- it does not come up -------------------------------------------------------------------------


def test_a_new_server_that_ends_changes_nothing_and_may_be_tried_again() -> None:
    with upgrading(min_workers=2) as old:
        old.ask()
        old.server.system.end_successor(ExitStatus(status=2))
        old.server.until(lambda: old.answers)
        assert old.answers == [
            {"ok": False, "why": "the new server ended: exit status 2; its log says why"}
        ]
        assert old.stage == "idle"
        assert len(old.server.ready()) == 2
        old.answers.clear()
        old.ask()
        old.serve()
        assert old.answers[0]["ok"]


def test_its_own_words_are_passed_on_in_one_line() -> None:
    with upgrading() as old:
        old.ask()
        old.say(news="failed", why="no module named aap\nTraceback ...")
        old.server.run(0.1)
        old.server.system.end_successor(ExitStatus(status=2))
        old.server.until(lambda: old.answers)
        assert old.answers == [{"ok": False, "why": "no module named aap"}]


def test_a_new_server_that_hangs_is_ended_and_then_killed() -> None:
    with upgrading(boot_timeout_s=60.0) as old:
        old.ask()
        old.server.run(55)
        assert old.new.signals == []
        old.server.until(lambda: old.new.signals, 7)
        assert old.new.signals == [signal.SIGTERM]
        old.say(news="serving", format=FORMAT)  # too late: it is ending
        old.server.until(lambda: len(old.new.signals) > 1, 8)
        assert old.new.signals == [signal.SIGTERM, signal.SIGKILL]
        assert old.stage == "starting"
        old.server.system.end_successor(ExitStatus(signal=9))
        old.server.until(lambda: old.answers)
        assert old.answers == [{"ok": False, "why": "it did not serve within 60 s"}]
        assert len(old.server.ready()) == 1


def test_without_memory_for_a_process_it_is_refused() -> None:
    with upgrading() as old:
        old.server.system.forks_fail = 1
        old.ask()
        (answer,) = old.answers
        assert not answer["ok"]
        assert "no process can be started: Resource temporarily unavailable" in answer["why"]
        assert old.stage == "idle"


def test_the_pid_file_is_ours_again_if_the_new_one_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with upgrading(pid_file=str(path)) as old:
        old.ask()
        path.write_text("99999999\n")
        old.server.system.end_successor(ExitStatus(signal=9))
        old.server.until(lambda: old.answers)
        assert path.read_text() == f"{os.getpid()}\n"


def test_the_pid_file_of_the_new_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with upgrading(pid_file=str(path)) as old:
        old.ask()
        path.write_text("1\n")
        old.serve()
        old.server.run(5)
        assert old.server.over
        old.server.spm.finish()
        assert path.read_text() == "1\n"


# --- refused -----------------------------------------------------------------------------------


def why_not(old: Old) -> str:
    old.answers.clear()
    old.ask()
    (answer,) = old.answers
    assert not answer["ok"]
    why: str = answer["why"]
    assert "\n" not in why
    return why


def test_one_at_a_time() -> None:
    with upgrading() as old:
        hold(old.server.ready()[0])
        old.ask()
        pid = old.new.pid
        first = list(old.answers)
        assert why_not(old) == f"one is under way already: process {pid} is starting"
        assert first == []
        old.answers.clear()
        old.say(news="serving", format=FORMAT)
        old.server.until(lambda: old.stage == "leaving")
        assert why_not(old) == f"process {pid} has taken over already"


def test_a_container_ends_with_process_1(monkeypatch: pytest.MonkeyPatch) -> None:
    with upgrading() as old:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        assert why_not(old).startswith("this server is process 1")
        monkeypatch.undo()


def test_not_during_a_reload_and_no_reload_during_an_upgrade(
    spoken: pytest.LogCaptureFixture,
) -> None:
    with upgrading() as old:
        old.server.system.load_s = 10
        old.server.system.send_signal(signal.SIGHUP)
        old.server.until(lambda: old.server.readout().reload == "loading")
        assert "a reload is under way" in why_not(old)
        old.server.until(lambda: old.server.readout().reload == "idle", 30)
        old.ask()
        old.server.system.send_signal(signal.SIGHUP)
        old.server.run(1)
        assert old.server.readout().reload == "idle"
        assert "no reload: an upgrade is under way" in spoken.text


def test_not_while_stopping() -> None:
    with upgrading() as old:
        hold(old.server.ready()[0])
        old.server.system.send_signal(signal.SIGTERM)
        old.server.run(0.1)
        assert why_not(old) == "this server is stopping"


def test_not_by_a_server_that_does_not_know_how_it_was_started() -> None:
    with serving() as server:
        assert why_not(Old(server, Files())) == "it is not known how this server was started"


def test_sigusr2_asks_for_one() -> None:
    with upgrading() as old:
        old.server.system.send_signal(signal.SIGUSR2)
        old.server.until(lambda: old.server.system.successor)
        assert old.stage == "starting"


def test_a_stop_meanwhile_ends_both_and_waits_for_the_new_one() -> None:
    with upgrading() as old:
        old.ask()
        old.server.system.send_signal(signal.SIGTERM)
        old.server.run(5)
        assert old.new.signals == [signal.SIGTERM]
        assert not old.server.system.workers
        assert not old.server.over
        old.say(news="serving", format=FORMAT)  # it was about to; nobody hands over any more
        old.server.run(1)
        assert old.files.disowned == 0
        old.server.system.end_successor(ExitStatus())
        old.server.run(1)
        assert old.server.over
        assert old.answers == [{"ok": False, "why": "this server was stopped meanwhile"}]


# --- the new server ------------------------------------------------------------------------------


class New:
    """A server that replaces another one, which the test plays."""

    def __init__(self, server: FakeServer, files: Files, bridge: socket.socket) -> None:
        self.server = server
        self.files = files
        self.bridge = bridge

    def heard(self) -> bytes:
        try:
            return self.bridge.recv(1 << 18)
        except BlockingIOError:
            return b""


@contextmanager
def succeeding(workers: int = 1, **settings: Any) -> Iterator[New]:
    """A server that is to replace another one, before its start."""
    ours, theirs = bridge_pair()
    ours.setblocking(False)
    files = Files()
    # A living process for the predecessor.
    inheritance = Inheritance(theirs.detach(), os.getppid(), workers)
    renewal = Renewal(COMMAND, files, FORMAT, inheritance)
    with ours, not_started(renewal=renewal, **settings) as server:
        yield New(server, files, ours)


SERVING = news_packet({"news": "serving", "format": FORMAT})


def test_it_takes_control_when_as_many_workers_are_ready_as_served_before(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text(f"{os.getppid()}\n")
    with succeeding(3, pid_file=str(path), max_workers=8) as new:
        said: list[tuple[int, bytes, str]] = []
        new.server.system.start_s = 0.3

        def look() -> None:
            ready = len(new.server.ready())
            said.append((ready, new.heard(), path.read_text()))

        new.server.system.during_wait = look
        assert new.server.spm.start()
        new.server.run(2)
        silent = [(ready, pid) for ready, heard, pid in said if not heard]
        assert [ready for ready, heard, _ in said if heard] == [3]
        assert (0, f"{os.getppid()}\n") in silent
        assert path.read_text() == f"{os.getpid()}\n"
        assert new.files.owned == 0


def test_no_more_workers_are_waited_for_than_there_may_be() -> None:
    with succeeding(50, max_workers=2) as new:
        assert new.server.spm.start()
        new.server.until(lambda: new.heard() == SERVING)
        assert len(new.server.ready()) == 2


def test_the_socket_files_are_its_own_when_the_old_one_says_so() -> None:
    with succeeding() as new:
        assert new.server.spm.start()
        new.server.until(lambda: new.heard() == SERVING)
        assert new.files.owned == 0
        new.bridge.send(news_packet({"news": "yours"}))
        new.server.until(lambda: new.files.owned)


def test_connections_that_come_over_go_to_its_workers() -> None:
    with succeeding(2, max_workers=2) as new:
        assert new.server.spm.start()
        new.server.until(lambda: new.heard() == SERVING)
        clients = []
        for index in range(6):
            text, fd, client = parcel(b"%d" % index)
            clients.append(client)
            socket.send_fds(new.bridge, [b"P" + text], [fd])
            os.close(fd)
        new.server.run(0.5)
        got = [sorted(worker.parcels) for worker in new.server.ready()]
        assert sorted(text for each in got for text in each) == [
            b"%d" % index for index in range(6)
        ]
        assert all(got)
        for client in clients:
            client.close()


def test_connections_wait_until_there_is_a_worker_and_no_more_are_taken_in() -> None:
    with succeeding() as new:
        assert new.server.spm.start()
        new.server.until(lambda: new.heard() == SERVING)
        (worker,) = new.server.ready()
        new.server.system.start_s = 5
        new.server.system.crash(worker)
        new.server.run(0.05)
        sent = 0
        clients = []
        while sent < 400:
            text, fd, client = parcel(b"%d" % sent)
            try:
                socket.send_fds(new.bridge, [b"P" + text], [fd])
            except BlockingIOError:
                client.close()
                os.close(fd)
                new.server.run(0.05)
                break
            clients.append(client)
            os.close(fd)
            sent += 1
        new.server.run(1)
        assert 0 < new.server.spm._fleet.undelivered < sent
        new.server.until(lambda: new.server.ready(), 10)
        (worker,) = new.server.ready()
        new.server.until(lambda: len(worker.parcels) == sent)
        for client in clients:
            client.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_it_serves_also_if_the_old_one_dies(when: str, tmp_path: Path) -> None:
    with succeeding(pid_file=str(tmp_path / "server.pid")) as new:
        if when == "before":
            new.bridge.close()
        assert new.server.spm.start()
        new.server.until(lambda: new.server.ready())
        if when == "after":
            new.server.run(0.5)
            new.bridge.close()
        new.server.run(0.5)
        assert new.files.owned == 1
        assert (tmp_path / "server.pid").read_text() == f"{os.getpid()}\n"


def test_it_is_not_replaced_itself_before_the_old_one_has_left() -> None:
    with succeeding() as new:
        assert new.server.spm.start()
        new.server.run(0.5)
        answers: list[Any] = []
        new.server.spm._upgrade.ask(answers.append)
        assert f"process {os.getppid()} is still leaving" in answers.pop()["why"]
        new.bridge.close()
        new.server.run(0.5)
        new.server.spm._upgrade.ask(answers.append)
        assert answers == []
        assert new.server.system.successor is not None
        new.server.system.successor.bridge.close()


def test_why_it_cannot_start_is_told_to_the_old_one() -> None:
    with succeeding() as new:
        new.server.system.broken = ("no module named aap", 2)
        with pytest.raises(BootFailed, match="no module named aap"):
            new.server.spm.run()
        assert new.heard() == news_packet({"news": "failed", "why": "no module named aap"})
        assert new.files.owned == 0


def test_a_pid_file_of_somebody_else_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text("1\n")
    with succeeding(pid_file=str(path)) as new:
        with pytest.raises(BootFailed, match="process 1 is running"):
            new.server.spm.run()
        assert b"process 1 is running" in new.heard()
    assert path.read_text() == "1\n"


def test_when_it_is_stopped_the_old_one_hears_of_it() -> None:
    with succeeding() as new:
        assert new.server.spm.start()
        new.server.until(lambda: new.heard() == SERVING)
        new.server.system.send_signal(signal.SIGTERM)
        new.server.run(1)
        assert new.bridge.recv(10) == b""
