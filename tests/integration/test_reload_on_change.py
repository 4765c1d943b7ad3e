"""--reload: who saves a file is served by it a moment later, and no client notices how."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import ROOT, ServerProcess, eventually

pytest.importorskip("watchfiles")

SOURCE = """
from shop.words import WORD

def app(environ, start_response):
    body = f"{WORD} version VERSION".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
WORKERS = ("--reload", "--min-workers", "2", "--max-workers", "3")


def write(directory: Path, version: int, first: str = "") -> None:
    """Save a version of the application."""
    (directory / "saved.py").write_text(first + SOURCE.replace("VERSION", str(version)))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The application's directory."""
    directory = tmp_path / "site"
    (directory / "shop" / "static").mkdir(parents=True)
    (directory / "shop" / "words.py").write_text("WORD = 'old'\n")
    write(directory, 1)
    return directory


@pytest.fixture(params=["preload", "no-preload"])
def server(serve: Serve, directory: Path, request: pytest.FixtureRequest) -> ServerProcess:
    how = [] if request.param == "preload" else ["--no-preload"]
    server = serve("saved:app", *WORKERS, *how, chdir=directory)
    watcher(server)
    return server


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def watcher(server: ServerProcess, *before: int) -> int:
    """Wait until there is another watcher than before, and it watches; return its process id."""

    def look() -> int:
        for pid in set(children(server.pid)).difference(before):
            try:
                facts = [path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
            except OSError:
                continue
            # The three directories that `directory` has.
            if "".join(facts).count("inotify wd:") >= 3:
                return pid
        return 0

    return eventually(look, hint=server.report)


def answers(server: ServerProcess, text: str) -> None:
    """Wait until this is the answer."""
    eventually(lambda: server.get("/").text == text, hint=server.report)


def test_a_saved_file_is_served_and_no_client_notices(
    server: ServerProcess, directory: Path
) -> None:
    with KeepAliveClients(server.address, 20, "/", pause_s=0.02) as clients:
        clients.wait_for(40)
        write(directory, 2)
        answers(server, "old version 2")
        (directory / "shop" / "words.py").write_text("WORD = 'new'\n")
        answers(server, "new version 2")
        server.eventually(lambda s: s["reload"] == "idle" and s["idle"] + s["busy"] == 2)
        clients.wait_for(40)
    assert clients.failures == clients.closings == []
    assert (clients.announced, clients.opened) == (0, 20)
    assert set(clients.bodies) == {"old version 1", "old version 2", "new version 2"}
    log = server.log()
    assert "reloading: saved.py changed" in log
    assert f"reloading: {Path('shop/words.py')} changed" in log


def test_a_mistake_leaves_the_old_version_serving_until_it_is_mended(
    server: ServerProcess, directory: Path
) -> None:
    with KeepAliveClients(server.address, 10, "/", pause_s=0.02) as clients:
        write(directory, 2, first="def broken(:\n")
        log = server.wait_for_log("reload failed")
        assert "SyntaxError" in log
        clients.wait_for(20)
        assert server.get("/").text == "old version 1"
        write(directory, 3)
        answers(server, "old version 3")
    assert clients.failures == clients.closings == []
    assert set(clients.bodies) <= {"old version 1", "old version 3"}


def test_only_sources_and_what_is_named_count(serve: Serve, directory: Path) -> None:
    server = serve("saved:app", *WORKERS, "--reload-include", "*.html", chdir=directory)
    watcher(server)
    for place, name in (
        (".venv", "left.py"),
        ("node_modules", "left.py"),
        ("__pycache__", "left.py"),
        ("shop/static", "style.css"),
        ("shop", ".#words.py"),
    ):
        (directory / place).mkdir(exist_ok=True)
        (directory / place / name).write_text("nothing")
    # What is saved last is told alone: the others have not counted.
    (directory / "shop" / "static" / "page.html").write_text("<html>")
    log = server.wait_for_log("reloading: ")
    assert "reloading: shop/static/page.html changed\n" in log
    server.eventually(lambda s: s["generation"] == 2 and s["reload"] == "idle")
    assert server.log().count("reloading: ") == 1


def test_files_saved_together_are_one_reload(serve: Serve, directory: Path) -> None:
    server = serve("saved:app", *WORKERS, chdir=directory)
    watcher(server)
    for number in range(5):
        (directory / f"module{number}.py").write_text("")
    server.wait_for_log("reloading: ")
    server.eventually(lambda s: s["generation"] == 2 and s["reload"] == "idle")
    told = [line for line in server.log().splitlines() if "reloading: " in line]
    assert told[0].endswith("module0.py, module1.py, module2.py and 2 more changed")


def test_a_module_elsewhere_is_watched_there(serve: Serve, directory: Path, tmp_path: Path) -> None:
    environ = {"PYTHONPATH": str(directory)}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    server = serve("saved:app", *WORKERS, chdir=elsewhere, environ=environ)
    watcher(server)
    write(directory, 2)
    answers(server, "old version 2")


def test_a_killed_watcher_is_replaced(serve: Serve, directory: Path) -> None:
    server = serve("saved:app", *WORKERS, chdir=directory)
    first = watcher(server)
    os.kill(first, signal.SIGKILL)
    server.wait_for_log("the watcher died (killed by SIGKILL)")
    watcher(server, first)
    write(directory, 2)
    answers(server, "old version 2")


def test_the_watcher_has_nothing_of_the_server(serve: Serve, directory: Path) -> None:
    server = serve("saved:app", *WORKERS, chdir=directory)
    pid = watcher(server)
    sockets = [
        link
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if (link := os.readlink(fd)).startswith("socket:") or "pidfd" in link
    ]
    listeners = server.status()["server"]["binds"]
    assert len(sockets) <= 1 + len(listeners), sockets
    assert "saved" not in Path(f"/proc/{pid}/maps").read_text()
    for worker in (*server.workers(), *(p for p in children(server.pid) if p != pid)):
        links = [os.readlink(fd) for fd in Path(f"/proc/{worker}/fd").iterdir()]
        assert "anon_inode:inotify" not in links


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_watcher_ends_with_the_server(serve: Serve, directory: Path, number: int) -> None:
    server = serve("saved:app", *WORKERS, chdir=directory)
    watcher(server)
    # As a terminal does: to all of them.
    os.killpg(server.pid, number)
    assert server.wait() == 0
    assert not server.group(), server.report()
    assert "the watcher died" not in server.log()


def test_the_watcher_ends_with_a_killed_manager(serve: Serve, directory: Path) -> None:
    server = serve("saved:app", *WORKERS, chdir=directory)
    watcher(server)
    server.stop(signal.SIGKILL)
    eventually(lambda: not server.group(), hint=server.report)


def test_the_demo_is_watched_below_the_directory_given(serve: Serve, directory: Path) -> None:
    server = serve("saved:app", *WORKERS, "--chdir", str(directory), chdir=ROOT)
    watcher(server)
    write(directory, 2)
    answers(server, "old version 2")


def test_an_application_that_does_not_load_leaves_no_watcher(
    prepare: Serve, directory: Path
) -> None:
    write(directory, 1, first="def broken(:\n")
    server = prepare("saved:app", *WORKERS, chdir=directory).launch()
    assert server.wait() != 0
    assert not server.group(), server.report()
    assert "SyntaxError" in server.log()


def test_without_reload_nobody_watches(serve: Serve, directory: Path) -> None:
    server = serve("saved:app", chdir=directory)
    assert len(children(server.pid)) == 1, "the template"
    write(directory, 2)
    assert server.get("/").text == "old version 1"
