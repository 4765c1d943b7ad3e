"""A worker that is silent as a whole: its stacks, its successor, its end; and who is spared."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.integration.conftest import Serve
from tests.integration.server_process import APPS, Answer, Background, ServerProcess

TWO = ("--min-workers", "2", "--max-workers", "2", "--max-threads", "4")


def silent_one(server: ServerProcess) -> tuple[int, int]:
    """Wait until the manager has found a worker silent; return its pid and its slot."""
    log = server.wait_for_log("is silent for")
    found = re.search(r"worker (\d+) \(slot (\d+)\) is silent for", log)
    assert found, log
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("act", ["keep_the_lock", "backtrack"])
def test_a_worker_that_c_code_keeps_says_where_and_is_replaced(serve: Serve, act: str) -> None:
    server = serve("hung:app", *TWO, "--worker-timeout", "3", chdir=APPS)
    before = server.workers()
    lost = Background(server, f"/{act}?3600")
    pid, slot = silent_one(server)
    assert pid in before
    # The other serves on; whoever comes now does not come to the hung one.
    for _ in range(20):
        assert int(server.get("/").text) != pid
    log = server.wait_for_log("sent SIGKILL")
    end = log.index(f"worker {pid} (slot {slot}) has been silent for")
    stacks = log[log.index("most recent call first") : end]
    assert f"in {act}" in stacks
    assert stacks.count("most recent call first") >= 2, "the sentinel's is there as well"
    assert isinstance(lost.result(), Exception)
    status = server.eventually(lambda s: s["idle"] == 2 and s["total"] == 2 and s["restarts"] == 1)
    assert pid not in [worker["pid"] for worker in status["workers"]]
    assert status["lost"] == 1
    # Its slot is given out again, and so is the other's when that one hangs.
    Background(server, f"/{act}?3600")
    server.eventually(lambda s: s["restarts"] == 2 and s["idle"] == 2 and s["total"] == 2)
    assert server.get("/").status == 200


def test_without_a_timeout_a_hung_worker_is_passed_over_and_never_killed(serve: Serve) -> None:
    server = serve("hung:app", *TWO, "--worker-timeout", "0", chdir=APPS)
    request = Background(server, "/keep_the_lock?14")
    pid, _ = silent_one(server)
    assert int(server.get("/").text) != pid
    server.wait_for_log("is back")
    answer = request.result()
    assert isinstance(answer, Answer)
    assert int(answer.text) == pid
    assert server.status()["restarts"] == 0
    assert "most recent call first" not in server.log()
    assert "SIGKILL" not in server.log()


@pytest.mark.parametrize("act", ["keep_the_thread", "compute"])
def test_slow_requests_do_not_make_a_worker_silent(serve: Serve, act: str) -> None:
    server = serve("hung:app", "--max-workers", "1", "--worker-timeout", "5", chdir=APPS)
    request = Background(server, f"/{act}?8")
    answer = request.result()
    assert isinstance(answer, Answer), answer
    assert int(answer.text) in server.workers()
    assert "SIGKILL" not in server.log()
    assert server.status()["restarts"] == 0


def test_a_stopped_worker_is_not_killed_and_comes_back(serve: Serve) -> None:
    server = serve("hung:app", *TWO, "--worker-timeout", "3", chdir=APPS)
    pid = server.workers()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        server.wait_for_log(f"worker {pid} (slot 0) is stopped, not hung")
        # A third worker has come in its place; that takes nothing from the one that sleeps.
        server.eventually(lambda s: s["total"] == 3 and s["idle"] == 2 and s["wedged"] == 1)
    finally:
        os.kill(pid, signal.SIGCONT)
    server.wait_for_log(f"worker {pid} (slot 0) is back")
    server.eventually(lambda s: s["wedged"] == 0)
    assert "SIGKILL" not in server.log()
    assert server.status()["restarts"] == 0


def test_an_application_that_has_set_an_alarm_of_its_own_is_served(serve: Serve) -> None:
    server = serve("alarmed:app", "--worker-timeout", "3", chdir=APPS)
    assert server.get("/").status == 200
    request = Background(server, "/keep_the_lock?3600")
    log = server.wait_for_log("sent SIGKILL")
    assert "in keep_the_lock" in log
    assert isinstance(request.result(), Exception)
