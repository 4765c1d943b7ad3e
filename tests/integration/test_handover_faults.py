"""Processes that die, hang or run out of something at each step by which connections move.

The worker that leaves is the one of the old generation of a reload: it drains as in a
scale-down, and its connections go to the worker of the new one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.raw_client import RawClient, request
from tests.integration.server_process import (
    APPS,
    Hold,
    ServerProcess,
    ask,
    eventually,
)

ONE = ("--min-workers", "1", "--max-workers", "1", "--max-threads", "8")
MANY = 24
Start = Callable[..., "Moving"]


class Moving:
    """A server with one worker, and kept connections to it."""

    def __init__(self, server: ServerProcess, steps: Path) -> None:
        self.server = server
        (self.old,) = server.workers()
        self._steps = steps
        self._connections: list[http.client.HTTPConnection] = []

    def connect(self, count: int) -> None:
        """Open connections, each of which the old worker has served once."""
        for _ in range(count):
            self._connections.append(self.server.connection())
            assert json.loads(ask(self._connections[-1], "/").body)["pid"] == self.old

    def arm(self, step: str, action: str, pid: int = 0, count: int = 1) -> None:
        """Say what is to happen at a step."""
        (self._steps / step).symlink_to(f"{action} {pid} {count}")

    def wait_at(self, step: str) -> int:
        """Wait until a process stands there; return which."""
        found = self._steps / f"{step}.at"
        eventually(found.exists, hint=self.server.report)
        return int(found.read_text())

    def go_on(self, step: str) -> None:
        """Let the process go on that stands there."""
        (self._steps / step).unlink()
        (self._steps / f"{step}.go").touch()

    def reload(self) -> None:
        """Let the old worker leave."""
        self.server.send(signal.SIGHUP)

    def reloaded(self) -> int:
        """Wait until only the new generation is there; return its worker."""
        self.server.wait_for_log("reload complete")
        status = self.server.eventually(
            lambda s: s["reload"] == "idle" and s["total"] == s["idle"] == 1
        )
        (worker,) = status["workers"]
        assert worker["generation"] == 2
        return int(worker["pid"])

    def ask_all(self) -> list[int]:
        """Ask on each connection once more; return who answered those that were answered."""
        pids = []
        for connection in self._connections:
            # Without this a lost connection would be opened anew and hide its loss.
            connection.auto_open = 0
            try:
                pids.append(json.loads(ask(connection, "/").body)["pid"])
            except (http.client.HTTPException, ConnectionError):
                continue
        return pids

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()


@pytest.fixture
def start(serve: Serve, hold: Hold, tmp_path: Path) -> Iterator[Start]:
    steps = tmp_path / "steps"
    steps.mkdir()
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str, **environ: str) -> Moving:
            server = serve(
                "fault_steps:app",
                *ONE,
                *arguments,
                chdir=APPS,
                environ={"STEPS": str(steps), "HOLD": str(hold.path), **environ},
            )
            moving = Moving(server, steps)
            stack.callback(moving.close)
            return moving

        yield begin


# -- the sender is killed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "count", "survivors"),
    [
        ("ordered", 1, 0),
        ("packed", 1, 0),
        ("sending", 1, 0),
        ("sent", 1, 1),
        ("packed", 3, 2),
        ("sending", 3, 2),
        ("sent", 3, 3),
        ("exiting", 1, 5),
        ("looking", 1, 5),
        ("looked", 1, 5),
        ("closing", 1, 5),
    ],
)
def test_a_sender_that_is_killed_takes_with_it_what_it_has_not_sent(
    start: Start, step: str, count: int, survivors: int
) -> None:
    moving = start()
    moving.connect(5)
    moving.arm(step, "kill", moving.old, count)
    moving.reload()
    new = moving.reloaded()
    assert moving.ask_all() == [new] * survivors
    assert json.loads(moving.server.get("/").body)["pid"] == new
    status = moving.server.eventually(lambda s: s["requests"] == 5 + survivors + 1)
    # Nothing ran, so no request is lost; that it would end was known.
    assert (status["lost"], status["restarts"], status["errors"]) == (0, 0, 0)
    moving.server.wait_for_log(f"worker {moving.old} (slot 0) died: killed by SIGKILL")


def test_a_sender_that_is_killed_when_it_has_stopped_listening_takes_no_new_client_with_it(
    start: Start,
) -> None:
    moving = start()
    moving.connect(5)
    moving.arm("unlistened", "wait", moving.old)
    moving.reload()
    moving.wait_at("unlistened")
    fresh = [moving.server.connect() for _ in range(3)]
    os.kill(moving.old, signal.SIGKILL)
    new = moving.reloaded()
    # What could be handed over was, just before that; or nobody could take it yet.
    assert moving.ask_all() in ([], [new] * 5)
    for sock in fresh:
        with sock:
            sock.sendall(request("/"))
            assert b" 200 OK" in sock.recv(65536)


# -- the receiver is killed ---------------------------------------------------------------------


@pytest.mark.parametrize(("step", "survivors"), [("receiving", 5), ("received", 4), ("adopted", 4)])
def test_a_receiver_that_is_killed_takes_with_it_only_what_it_has_taken(
    start: Start, step: str, survivors: int
) -> None:
    moving = start()
    moving.connect(5)
    moving.arm("sent", "wait", moving.old, 5)
    moving.arm(step, "wait", -moving.old)
    moving.reload()
    receiver = moving.wait_at(step)
    moving.wait_at("sent")
    assert receiver != moving.old
    os.kill(receiver, signal.SIGKILL)
    moving.go_on(step)
    moving.go_on("sent")
    new = moving.reloaded()
    assert moving.ask_all() == [new] * survivors
    status = moving.server.status()
    assert (status["lost"], status["restarts"]) == (0, 1)


def test_both_are_killed_and_what_was_on_its_way_arrives(start: Start) -> None:
    moving = start()
    moving.connect(5)
    moving.arm("sent", "wait", moving.old, 3)
    moving.arm("receiving", "wait", -moving.old)
    moving.reload()
    receiver = moving.wait_at("receiving")
    moving.wait_at("sent")
    for pid in (receiver, moving.old):
        os.kill(pid, signal.SIGKILL)
    moving.go_on("receiving")
    moving.go_on("sent")
    new = moving.reloaded()
    assert moving.ask_all() == [new] * 3


# -- the template is killed ---------------------------------------------------------------------


@pytest.mark.parametrize("step", ["forking", "forked"])
def test_a_template_that_is_killed_around_a_fork_leaves_no_worker_that_nobody_knows(
    start: Start, step: str
) -> None:
    moving = start()
    template = moving.server.template()
    moving.arm(step, "kill", template)
    os.kill(moving.old, signal.SIGKILL)
    moving.server.wait_for_log("the template died")
    answer = moving.server.get("/")
    assert answer.status == 200
    status = moving.server.eventually(
        lambda s: s["total"] == s["idle"] == 1 and s["restarts"] == 1 and s["connections"] == 0
    )
    (worker,) = status["workers"]
    # Manager, template, worker: who was forked and never reported has left.
    eventually(lambda: len(moving.server.group()) == 3, hint=moving.server.report)
    assert set(moving.server.group()) == {
        moving.server.pid,
        moving.server.template(),
        worker["pid"],
    }
    assert "Traceback" not in moving.server.log()


@pytest.mark.parametrize("step", ["forking", "forked"])
def test_a_template_that_is_killed_in_a_reload_is_succeeded_and_the_reload_goes_on(
    start: Start, step: str
) -> None:
    moving = start()
    moving.connect(5)
    # The first of the two templates that comes there is the new one: the old one forks no more.
    moving.arm(step, "wait")
    moving.reload()
    template = moving.wait_at(step)
    os.kill(template, signal.SIGKILL)
    moving.go_on(step)
    new = moving.reloaded()
    assert moving.ask_all() == [new] * 5


# -- somebody hangs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "survivors"), [("ordered", 0), ("sending", 0), ("sent", 1), ("exiting", 5)]
)
def test_a_sender_that_hangs_does_not_hold_the_reload_up(
    start: Start, step: str, survivors: int
) -> None:
    moving = start("--graceful-timeout", "0.5")
    moving.connect(5)
    moving.arm(step, "wait", moving.old)
    moving.reload()
    assert moving.wait_at(step) == moving.old
    new = moving.reloaded()
    assert moving.ask_all() == [new] * survivors
    log = moving.server.log()
    assert f"worker {moving.old} (slot 0) has not finished in time" in log
    assert f"worker {moving.old} (slot 0) does not leave; sent SIGKILL" in log


# -- something runs out -------------------------------------------------------------------------


def test_what_does_not_fit_into_an_inbox_stays_where_it_is_and_goes_later(start: Start) -> None:
    moving = start(INBOX_BYTES="4608")
    moving.connect(MANY)
    moving.arm("receiving", "wait", -moving.old)
    moving.reload()
    moving.wait_at("receiving")
    # The new worker reads nothing. Some lie in its inbox, the others are served as before.
    status = moving.server.eventually(lambda s: s["handed_over"] > 0)
    assert status["kill_pending"] == 1
    assert 0 < moving.server.eventually(lambda s: s["connections"] > 0)["connections"] < MANY
    moving.go_on("receiving")
    new = moving.reloaded()
    assert moving.ask_all() == [new] * MANY


def test_descriptors_that_may_not_be_on_their_way_stay_where_they_are_and_go_later(
    start: Start,
) -> None:
    moving = start(FEW_ON_THEIR_WAY="1")
    moving.connect(MANY)
    moving.arm("receiving", "wait", -moving.old)
    before = resource.prlimit(moving.old, resource.RLIMIT_NOFILE)
    resource.prlimit(moving.old, resource.RLIMIT_NOFILE, (MANY // 3, before[1]))
    moving.reload()
    moving.wait_at("receiving")
    status = moving.server.eventually(lambda s: s["handed_over"] > 0)
    assert (status["kill_pending"], status["handed_over"] < MANY) == (1, True)
    moving.go_on("receiving")
    new = moving.reloaded()
    assert moving.ask_all() == [new] * MANY


def test_a_receiver_without_descriptors_loses_nothing(start: Start) -> None:
    moving = start()
    moving.connect(MANY)
    moving.arm("receiving", "wait", -moving.old)
    moving.arm("looked", "wait", moving.old)
    moving.reload()
    receiver = moving.wait_at("receiving")
    before = resource.prlimit(receiver, resource.RLIMIT_NOFILE)
    moving.wait_at("looked")  # all have been sent
    room = len(os.listdir(f"/proc/{receiver}/fd")) + 4
    resource.prlimit(receiver, resource.RLIMIT_NOFILE, (room, before[1]))
    moving.go_on("receiving")
    moving.go_on("looked")
    moving.server.eventually(lambda s: s["total"] == 1 and s["connections"] > 0)
    resource.prlimit(receiver, resource.RLIMIT_NOFILE, before)
    assert moving.reloaded() == receiver
    assert moving.ask_all() == [receiver] * MANY


def test_the_last_descriptor_goes_to_a_new_client_and_no_idle_one_is_closed_for_nobody(
    start: Start,
) -> None:
    moving = start()
    moving.connect(MANY)
    before = resource.prlimit(moving.old, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{moving.old}/fd")}
    room = min(set(range(len(taken) + 1)) - taken) + 1
    resource.prlimit(moving.old, resource.RLIMIT_NOFILE, (room, before[1]))
    # After it has let this one in it looks for another. There is none to make room for.
    with RawClient(moving.server) as client:
        assert client.get("/").status == 200
        assert moving.ask_all() == [moving.old] * MANY
        resource.prlimit(moving.old, resource.RLIMIT_NOFILE, before)
    assert moving.server.status()["incidents"]["idle_closed"] == 0


# -- what a connection may be in the middle of ---------------------------------------------------


def said(client: RawClient) -> tuple[int, str, str]:
    """Return who answers, the path, and the content that has come there."""
    answer = client.response()
    assert answer.status == 200
    assert "connection" not in answer.headers
    values = json.loads(answer.body)
    return values["pid"], values["path"], values["body"]


def test_half_a_head_goes_on_with_the_new_worker(start: Start) -> None:
    moving = start()
    with RawClient(moving.server) as client:
        head = request("/half", headers={"X-Field": "value"})
        client.send(head[:30])
        moving.server.eventually(lambda s: s["connections"] == 1)
        moving.reload()
        new = moving.reloaded()
        client.send(head[30:])
        assert said(client) == (new, "/half", "")
        client.ask("/next")
        assert said(client) == (new, "/next", "")


def test_half_a_body_is_finished_with_the_old_worker(start: Start) -> None:
    moving = start()
    with RawClient(moving.server) as client:
        whole = request("/half", "POST", body=b"0123456789" * 5000)
        client.send(whole[:20_000])
        moving.server.eventually(lambda s: s["connections"] == 1)
        moving.reload()
        moving.server.eventually(lambda s: s["kill_pending"] == 1)
        client.send(whole[20_000:])
        assert said(client) == (moving.old, "/half", "0123456789" * 5000)
        new = moving.reloaded()
        client.ask("/next")
        assert said(client) == (new, "/next", "")


def test_a_body_that_was_called_for_is_awaited_by_who_called(start: Start) -> None:
    moving = start()
    with RawClient(moving.server) as client:
        client.send(request("/asked", "POST", {"Expect": "100-continue", "Content-Length": "4"}))
        assert client.response().status == 100
        moving.reload()
        moving.server.eventually(lambda s: s["kill_pending"] == 1)
        client.send(b"body")
        assert said(client) == (moving.old, "/asked", "body")
        new = moving.reloaded()
        client.send(request("/next", "POST", {"Expect": "100-continue", "Content-Length": "4"}))
        assert client.response().status == 100
        client.send(b"more")
        assert said(client) == (new, "/next", "more")


@pytest.mark.parametrize("size", [100, 30_000, 300_000])
def test_what_is_pipelined_behind_a_running_request_is_answered_in_order(
    start: Start, hold: Hold, size: int
) -> None:
    moving = start()
    with RawClient(moving.server) as client:
        body = b"0123456789" * (size // 10)
        client.send(request("/hold") + request("/post", "POST", body=body) + request("/last"))
        hold.wait()
        moving.reload()
        moving.server.eventually(lambda s: s["kill_pending"] == 1)
        hold.release()
        assert said(client) == (moving.old, "/hold", "")
        _, *post = said(client)
        assert post == ["/post", body.decode()]
        assert said(client)[1:] == ("/last", "")
        new = moving.reloaded()
        client.ask("/next")
        assert said(client) == (new, "/next", "")


def test_a_stream_under_way_ends_where_it_began(start: Start, hold: Hold) -> None:
    moving = start()
    with RawClient(moving.server) as client:
        client.ask("/stream")
        hold.wait()
        moving.reload()
        moving.server.eventually(lambda s: s["kill_pending"] == 1)
        hold.release()
        assert client.response().body == b"%d 0 1 2 3 4" % moving.old
        new = moving.reloaded()
        client.ask("/next")
        assert said(client) == (new, "/next", "")


def test_a_response_of_which_half_is_sent_is_sent_whole(start: Start) -> None:
    moving = start()
    size = 24 << 20
    with RawClient(moving.server, receive_buffer=4096) as client:
        client.ask(f"/large?{size}")
        client.receive()
        moving.reload()
        moving.server.eventually(lambda s: s["kill_pending"] == 1)
        assert client.response().body == b"%d\n" % moving.old + bytes(size)
        new = moving.reloaded()
        client.ask("/next")
        assert said(client) == (new, "/next", "")


def test_a_connection_for_a_tunnel_ends_where_it_is(start: Start, hold: Hold) -> None:
    moving = start("--connect", "pass")
    with RawClient(moving.server) as client:
        client.send(b"CONNECT /hold:443 HTTP/1.1\r\nHost: /hold:443\r\n\r\n")
        refused = client.response()
        assert refused.status == 400
    with RawClient(moving.server) as client, RawClient(moving.server) as other:
        other.ask("/hold")
        hold.wait()
        client.send(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.exa")
        moving.reload()
        moving.server.eventually(lambda s: s["kill_pending"] == 1)
        hold.release()
        new = moving.reloaded()
        client.send(b"mple:443\r\n\r\n")
        answer = client.response()
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        assert json.loads(answer.body)["pid"] == new
        assert client.rest() == b""


# -- wake-ups -----------------------------------------------------------------------------------


def test_a_wake_up_that_went_to_a_stuck_worker_is_made_good_by_one_that_is_partly_busy(
    serve: Serve, hold: Hold, tmp_path: Path
) -> None:
    server = serve(
        "fault_steps:app",
        *("--min-workers", "2", "--max-workers", "2", "--max-threads", "4"),
        chdir=APPS,
        environ={"STEPS": str(tmp_path), "HOLD": str(hold.path)},
    )
    kept: dict[int, http.client.HTTPConnection] = {}
    while len(kept) < 2:
        connection = server.connection()
        pid = json.loads(ask(connection, "/sleep").body)["pid"]
        if kept.setdefault(pid, connection) is not connection:
            connection.close()
    for connection in kept.values():
        for _ in range(3):  # from now on they work with their pools, so that they stand in epoll
            ask(connection, "/sleep")
    stuck, busy = kept.values()
    busy.request("GET", "/hold")
    hold.wait()
    stuck.request("GET", "/gil?150000000")
    eventually((tmp_path / "gil").exists, hint=server.report)
    # The kernel wakes the one that has accepted nothing for longest: the stuck one.
    assert kept[json.loads(server.get("/").body)["pid"]] is busy
    hold.release()
    for connection in kept.values():
        assert connection.getresponse().read()
        connection.close()
