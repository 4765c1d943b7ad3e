"""Processes that are killed, stopped or crash: who is hurt, who is not, and what is left."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import Ending, KeepAliveClients
from tests.integration.server_process import (
    APPS,
    PATIENCE_S,
    Background,
    Hold,
    ServerProcess,
    ask,
    eventually,
)


@dataclass(frozen=True)
class Kill:
    """A SIGKILL that was sent between two moments (time.monotonic)."""

    pid: int
    before_s: float
    after_s: float

    @classmethod
    def one_of(cls, pids: list[int]) -> Kill:
        pid = random.choice(pids)
        before_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return cls(pid, before_s, time.monotonic())

    def explains(self, ending: Ending) -> bool:
        """Whether the connection was well before it and was found broken after it."""
        return ending.well_s <= self.after_s and self.before_s <= ending.failed_s


def kill_workers(server: ServerProcess, clients: KeepAliveClients, times: int) -> list[Kill]:
    """Kill a random worker, wait until it is replaced and work goes on; several times."""
    kills = []
    totals = []
    for number in range(times):
        kills.append(Kill.one_of(server.workers()))
        status = server.eventually(
            lambda s, deaths=number + 1: s["restarts"] == deaths and s["busy"] + s["idle"] >= 2
        )
        totals.append(status["requests"] + status["lost"])
        clients.wait_for(50)
    assert totals == sorted(totals)
    return kills


def test_killed_workers_break_their_own_connections_and_no_other(serve: Serve) -> None:
    # More threads than clients: no worker is ever full, so no connection moves to another
    # one, and the worker that answered last is the one that a connection belongs to.
    limits = ("--min-workers", "3", "--max-workers", "3", "--max-threads", "48")
    server = serve("app:app", *limits)
    with KeepAliveClients(server.address, 24, pause_s=0.01) as clients:
        clients.wait_for(100)
        kills = kill_workers(server, clients, 5)
    killed = {kill.pid: kill for kill in kills}
    for ending in (*clients.failures, *clients.closings):
        if ending.worker is not None:
            assert ending.worker in killed, ending
            assert killed[ending.worker].explains(ending), ending
        else:
            assert any(kill.explains(ending) for kill in kills), ending
    assert clients.announced == 0
    assert clients.opened <= 24 + len(clients.failures) + len(clients.closings)
    status = server.eventually(lambda s: s["idle"] == 3 and s["connections"] == 0)
    assert (status["total"], status["restarts"], status["errors"]) == (3, 5, 0)
    # A request that a dead worker had begun is lost; one that it had not read is not counted.
    counted = status["requests"] + status["lost"]
    assert clients.answers <= counted <= clients.answers + len(clients.failures)


def test_workers_killed_while_connections_move_hurt_only_in_that_moment(serve: Serve) -> None:
    limits = ("--min-workers", "2", "--max-workers", "4", "--max-threads", "2")
    server = serve("app:app", *limits)
    with KeepAliveClients(server.address, 16, "/sleep?ms=20", pause_s=0.01) as clients:
        server.eventually(lambda s: s["busy"] + s["idle"] >= 3)
        kills = kill_workers(server, clients, 4)
        status = server.status()
    for ending in (*clients.failures, *clients.closings):
        assert any(kill.explains(ending) for kill in kills), ending
    status = server.eventually(lambda s: s["busy_threads"] == 0 and s["connections"] == 0)
    assert status["restarts"] == 4
    counted = status["requests"] + status["lost"]
    assert clients.answers <= counted <= clients.answers + len(clients.failures)


def test_without_its_template_the_server_goes_on_and_still_scales(serve: Serve) -> None:
    limits = ("--min-workers", "1", "--max-workers", "3", "--max-threads", "2")
    server = serve("app:app", *limits)
    template = server.template()
    with KeepAliveClients(server.address, 4, "/sleep?ms=5", pause_s=0.01) as clients:
        clients.wait_for(20)
        os.kill(template, signal.SIGKILL)
        clients.wait_for(100)
    assert clients.failures == clients.closings == []
    server.wait_for_log("the template died")
    with KeepAliveClients(server.address, 12, "/sleep?ms=100", pause_s=0.0) as clients:
        server.eventually(lambda s: s["busy"] + s["idle"] == 3)
        clients.wait_for(24)
    assert clients.failures == clients.closings == []
    assert server.template() != template
    assert server.status()["restarts"] == 0


def test_template_and_all_workers_killed_at_once_come_back(serve: Serve) -> None:
    server = serve("app:app", "--min-workers", "2", "--max-workers", "2")
    before = server.workers()
    for pid in (server.template(), *before):
        os.kill(pid, signal.SIGKILL)
    # The listener is the manager's as well: this one waits in its queue until somebody comes.
    assert server.get("/json").status == 200
    # Workers that were asked of the dead template and never came to be may count as well.
    status = server.eventually(lambda s: s["idle"] == 2 and s["restarts"] >= 2)
    assert not set(before) & {worker["pid"] for worker in status["workers"]}


def test_without_a_manager_workers_finish_and_leave(serve: Serve, hold: Hold) -> None:
    environ = {"HOLD": str(hold.path)}
    server = serve("trouble:app", "--min-workers", "2", chdir=APPS, environ=environ)
    request = Background(server, "/hold")
    hold.wait()
    assert server.eventually(lambda s: s["busy"] == 1)["idle"] == 1
    server.send(signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    # The idle worker and the template leave; the one that has something to do does it first.
    eventually(lambda: len(server.group()) == 1, hint=server.report)
    hold.release()
    answer = request.result()
    assert not isinstance(answer, Exception), answer
    assert json.loads(answer.body)["path"] == "/hold"
    eventually(lambda: not server.group(), hint=server.report)


def test_after_a_killed_manager_the_next_one_starts_in_the_same_place(
    prepare: Serve, tmp_path: Path
) -> None:
    place = ("--pid", str(tmp_path / "shared.pid"), "-b", f"unix:{tmp_path / 'app.sock'}")
    first = prepare("app:app", *place, "-b", "127.0.0.1:0").start()
    left = first.runtime / "smart-http" / f"{first.pid}.sock"
    first.send(signal.SIGKILL)
    first.wait()
    eventually(lambda: not first.group(), hint=first.report)
    assert left.exists()
    runtime = {"XDG_RUNTIME_DIR": str(first.runtime)}
    port = str(first.address[1])
    second = prepare("app:app", *place, "-b", f"127.0.0.1:{port}", environ=runtime)
    second.runtime = first.runtime
    second.start()
    assert second.get("/json").status == 200
    assert not left.exists()
    assert second.stop() == 0
    assert not (tmp_path / "shared.pid").exists()
    assert not (tmp_path / "app.sock").exists()


def test_a_stopped_worker_stops_nobody_else(serve: Serve) -> None:
    server = serve("app:app", "--min-workers", "2", "--max-workers", "2", "--max-threads", "8")
    connections = [server.connection() for _ in range(8)]
    stopped = 0
    try:
        owners = {
            json.loads(ask(connection, "/whoami").body)["pid"]: connection
            for connection in connections
        }
        stopped, healthy = server.workers()
        os.kill(stopped, signal.SIGSTOP)
        for _ in range(20):
            if healthy in owners:
                assert ask(owners[healthy], "/json").status == 200
        with KeepAliveClients(server.address, 8, pause_s=0.01) as clients:
            clients.wait_for(200)
        assert clients.failures == []
        # Whom the kernel had woken for a new connection does not matter: the other takes it.
        assert set(clients.workers) == {healthy}
        assert server.status()["total"] == 2
        os.kill(stopped, signal.SIGCONT)
        if stopped in owners:
            assert ask(owners[stopped], "/json").status == 200
    finally:
        if stopped:
            os.kill(stopped, signal.SIGCONT)
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("path", "how"), [("/exit", "exit status 7"), ("/segfault", "killed by SIGSEGV")]
)
def test_a_request_that_kills_its_worker_costs_nobody_else_the_server(
    serve: Serve, path: str, how: str
) -> None:
    server = serve("trouble:app", "--min-workers", "2", "--max-workers", "2", chdir=APPS)
    for number in range(1, 5):
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            server.get(path)
        assert server.get("/").status == 200
        server.eventually(lambda s, deaths=number: s["restarts"] == deaths)
    status = server.eventually(lambda s: s["idle"] == 2)
    assert (status["total"], status["lost"]) == (2, 4)
    assert server.log().count(f"died: {how}") == 4


def test_a_crash_loop_slows_the_forking_down_and_not_the_answers(serve: Serve) -> None:
    server = serve("trouble:app", "--min-workers", "1", "--max-workers", "2", chdir=APPS)
    over_s = time.monotonic() + 3.0
    crashes = 0
    while time.monotonic() < over_s:
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            server.get("/exit")
        crashes += 1
        assert server.get("/").status == 200
    # Without a pause there are a hundred and more of them.
    assert 3 <= crashes <= 40
    status = server.eventually(lambda s: s["idle"] >= 1)
    assert status["restarts"] == crashes


def test_without_preload_a_failing_import_is_told_once_and_ends_the_server(
    prepare: Serve, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text("raise LookupError('no settings here')\n")
    server = prepare("bad:app", "--no-preload", "--min-workers", "2", chdir=tmp_path).launch()
    assert server.wait() == 3
    log = server.log()
    assert log.count("LookupError: no settings here") == 1
    assert not server.pid_file.exists()


@pytest.mark.parametrize("preload", [True, False])
def test_an_import_that_ends_the_process_ends_the_server(
    prepare: Serve, tmp_path: Path, preload: bool
) -> None:
    (tmp_path / "bad.py").write_text("import os\nos._exit(9)\n")
    arguments = ["bad:app"] if preload else ["bad:app", "--no-preload"]
    server = prepare(*arguments, chdir=tmp_path).launch()
    status = server.wait(2 * PATIENCE_S)
    assert status == 3
    assert "exit status 9" in server.log()
    assert "Traceback" not in server.log()
