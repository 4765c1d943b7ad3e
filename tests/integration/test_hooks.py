"""--after-fork and --before-exit: when, where and how often they are called, and their faults."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.server_process import (
    APPS,
    Answer,
    Background,
    Hold,
    ServerProcess,
    eventually,
)

BOTH = ("--after-fork", "hooked:after_fork", "--before-exit", "hooked:before_exit")


class Journal:
    """What `hooked` has written down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.away = path.with_name("away")

    def of(self, pid: int) -> list[str]:
        """Return what was called in one process, with the thread, requests left out."""
        return [line for line in self.all().get(pid, []) if not line.startswith("request")]

    def all(self) -> dict[int, list[str]]:
        """Return all lines, by process."""
        found: dict[int, list[str]] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            pid, _, what = line.partition(" ")
            found.setdefault(int(pid), []).append(what)
        return found


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def environ(journal: Journal, hold: Hold | None = None) -> dict[str, str]:
    return {"JOURNAL": str(journal.path), **({"HOLD": str(hold.path)} if hold else {})}


@pytest.mark.parametrize("how", [(), ("--no-preload",)], ids=["preload", "no-preload"])
def test_every_worker_calls_each_once_in_its_main_thread(
    serve: Serve, journal: Journal, how: tuple[str, ...]
) -> None:
    limits = ("--min-workers", "2", "--max-workers", "2")
    server = serve("hooked:app", *BOTH, *limits, *how, chdir=APPS, environ=environ(journal))
    server.eventually(lambda s: s["idle"] == 2)
    for _ in range(10):
        pid, connected = server.get("/").text.split()
        assert pid == connected
    first = server.workers()
    server.send(signal.SIGHUP)
    server.eventually(lambda s: s["generation"] == 2 and s["reload"] == "idle" and s["idle"] == 2)
    for pid_of_old in first:
        assert journal.of(pid_of_old) == ["after_fork main", "before_exit main"]
    second = server.workers()
    assert server.stop() == 0
    assert set(journal.all()) == {*first, *second}, "neither manager nor template"
    for lines in journal.all().values():
        assert lines[0] == "after_fork main"
        assert lines[-1] == "before_exit main"
        assert sum(not line.startswith("request") for line in lines) == 2


def test_before_exit_comes_after_the_last_request(
    serve: Serve, journal: Journal, hold: Hold
) -> None:
    server = serve("hooked:app", *BOTH, chdir=APPS, environ=environ(journal, hold))
    request = Background(server, "/hold")
    hold.wait()
    server.send(signal.SIGTERM)
    server.wait_for_log("SIGTERM")
    hold.release()
    assert isinstance(request.result(), Answer)
    assert server.wait() == 0
    ((_, lines),) = journal.all().items()
    assert [line.split()[0] for line in lines] == ["after_fork", "request", "before_exit"]


def test_before_exit_is_called_although_the_main_thread_is_stuck(
    serve: Serve, journal: Journal, hold: Hold
) -> None:
    limits = ("--max-workers", "1", "--max-threads", "4", "--request-timeout", "0.3")
    server = serve("hooked:app", *BOTH, *limits, chdir=APPS, environ=environ(journal, hold))
    # The first request of all runs on the main thread, which leads.
    assert server.get("/hold").status == 504
    pid = server.workers()[0]
    assert server.stop() == 0
    assert journal.of(pid) == ["after_fork main", "before_exit other"]


def test_before_exit_that_raises_holds_nobody_up(serve: Serve, journal: Journal) -> None:
    hooks = ("--before-exit", "hooked:failing")
    server = serve("hooked:app", *hooks, chdir=APPS, environ=environ(journal))
    (pid,) = server.workers()
    assert server.stop() == 0
    log = server.log()
    assert "--before-exit hooked:failing raised LookupError" in log
    assert "in failing" in log
    assert "LookupError: nobody to say goodbye to" in log
    assert f"worker {pid} (slot 0) has left (exit status 0)" in log


def test_before_exit_that_does_not_end_is_bounded_by_the_graceful_timeout(
    serve: Serve, journal: Journal
) -> None:
    hooks = ("--before-exit", "hooked:stuck", "--graceful-timeout", "0.5")
    server = serve("hooked:app", *hooks, chdir=APPS, environ=environ(journal))
    (pid,) = server.workers()
    assert server.stop() == 0
    assert journal.of(pid) == ["before_exit main"]
    assert "SIGKILL" in server.log() or "in stuck" in server.log()


def test_before_exit_that_does_not_end_is_bounded_without_a_manager_as_well(
    serve: Serve, journal: Journal
) -> None:
    hooks = ("--before-exit", "hooked:stuck", "--graceful-timeout", "3")
    server = serve("hooked:app", *hooks, chdir=APPS, environ=environ(journal))
    (pid,) = server.workers()
    server.stop(signal.SIGKILL)
    eventually(lambda: journal.of(pid), hint=server.report)
    eventually(lambda: not server.group(), hint=server.report)
    assert "in stuck" in server.log()


def test_after_fork_that_raises_is_a_worker_that_cannot_start(
    prepare: Serve, journal: Journal
) -> None:
    journal.away.touch()
    server = prepare("hooked:app", *BOTH, chdir=APPS, environ=environ(journal)).launch()
    log = server.wait_for_log("a worker could not start")
    assert "--after-fork hooked:after_fork raised LookupError" in log
    # The database comes back, and so does the server.
    journal.away.unlink()
    server.wait_until_ready()
    assert server.get("/").status == 200
    assert "in after_fork" in log
    assert "LookupError: the database is away" in log
    assert "before_exit" not in journal.path.read_text()


def test_after_fork_that_always_raises_ends_the_server(prepare: Serve, journal: Journal) -> None:
    journal.away.touch()
    server = prepare("hooked:app", *BOTH, chdir=APPS, environ=environ(journal)).launch()
    assert server.wait(within_s=60) == 3
    assert "LookupError: the database is away" in server.log()


@pytest.mark.parametrize("how", [(), ("--no-preload",)], ids=["preload", "no-preload"])
def test_after_fork_that_raises_in_a_new_generation_leaves_the_old_one_serving(
    serve: Serve, journal: Journal, how: tuple[str, ...]
) -> None:
    server = serve("hooked:app", *BOTH, *how, chdir=APPS, environ=environ(journal))
    workers = server.workers()
    journal.away.touch()
    server.send(signal.SIGHUP)
    log = server.wait_for_log("reload failed")
    assert "LookupError: the database is away" in log
    assert server.get("/").status == 200
    server.eventually(lambda s: s["reload"] == "idle" and s["total"] == 1)
    assert server.workers() == workers


FAULTS = [
    ("hookd:after_fork", "there is no module hookd in {apps}: did you mean hooked:after_fork?"),
    ("hooked:after_frok", "hooked has no 'after_frok': did you mean hooked:after_fork?"),
    ("hooked:not_callable", "it is of type str, not a callable"),
    ("hooked:wants", "it wants arguments (database), but is called without any"),
    ("hooked:waits", "it is async, and a hook is called, not awaited: wrap it with asyncio.run"),
]


@pytest.mark.parametrize("option", ["--after-fork", "--before-exit"])
@pytest.mark.parametrize(("target", "message"), FAULTS, ids=[case[0] for case in FAULTS])
def test_a_hook_that_cannot_be_is_said_in_one_line(
    prepare: Serve, journal: Journal, option: str, target: str, message: str
) -> None:
    server = prepare(
        "hooked:app", option, target, "--check", chdir=APPS, environ=environ(journal)
    ).launch()
    assert server.wait() == 2
    says = f"cannot load {option} {target}: {message.format(apps=APPS)}"
    assert server.log() == f"smart-http: error: {says}\n"


def test_a_misspelt_hook_stops_the_start(prepare: Serve, journal: Journal) -> None:
    hook = ("--before-exit", "hooked:befor_exit")
    server = prepare("hooked:app", *hook, chdir=APPS, environ=environ(journal)).launch()
    assert server.wait() == 2
    assert "did you mean hooked:before_exit?" in server.log()
    assert len(server.log().splitlines()) == 1


def test_check_shows_the_hooks_and_calls_none(prepare: Serve, journal: Journal) -> None:
    server: ServerProcess = prepare(
        "hooked:app", *BOTH, "--check", chdir=APPS, environ=environ(journal)
    ).launch()
    assert server.wait() == 0
    lines = [line.split() for line in server.log().splitlines()]
    assert ["--after-fork", "hooked:after_fork", "command", "line"] in lines
    assert ["--before-exit", "hooked:before_exit", "command", "line"] in lines
    assert journal.all() == {}
