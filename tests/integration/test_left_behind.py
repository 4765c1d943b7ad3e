"""After the end nothing is left: no process, no file, no socket; however it ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, PATIENCE_S, Background, Hold, eventually


def everything_in(directory: Path) -> set[str]:
    """Return all that is there, but what the test itself has put there."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*")}
    return found - {"server0/server.log", "server0/run/smart-http", "hold"}


@pytest.mark.parametrize("ways", [["SIGTERM"], ["SIGINT"], ["SIGTERM", "SIGINT"]])
def test_nothing_is_left_after_a_stop(
    prepare: Serve, hold: Hold, tmp_path: Path, ways: list[str]
) -> None:
    place = ("-b", "127.0.0.1:0", "-b", f"unix:{tmp_path / 'app.sock'}")
    arguments = ("trouble:app", "--min-workers", "2", *place)
    server = prepare(*arguments, chdir=APPS, environ={"HOLD": str(hold.path)})
    before = everything_in(tmp_path)
    server.start()
    appeared = everything_in(tmp_path) - before
    assert appeared == {
        "app.sock",
        "server0/server.pid",
        f"server0/run/smart-http/{server.pid}.sock",
    }
    assert len(server.group()) == 4  # manager, template, two workers
    request = Background(server, "/hold")
    hold.wait()
    if len(ways) == 1:
        hold.release()
        request.result()
    for way in ways:
        server.send(signal.Signals[way])
        if way != ways[-1]:
            server.wait_for_log("stopping gracefully")
    assert server.wait() == 0
    assert server.group() == {}
    assert everything_in(tmp_path) == before
    request.result()


def test_nothing_is_left_after_a_start_that_failed(prepare: Serve, tmp_path: Path) -> None:
    first = prepare("app:app", "-b", f"unix:{tmp_path / 'app.sock'}")
    first.start()
    before = everything_in(tmp_path)
    second = prepare("app:app", "-b", "127.0.0.1:0", "-b", f"unix:{tmp_path / 'app.sock'}")
    made = everything_in(tmp_path)
    assert second.launch().wait() == 2
    assert everything_in(tmp_path) - made == {"server1/server.log"}
    assert before <= everything_in(tmp_path)
    assert second.group() == {}
    # And the first one, whose socket file it was, has not noticed anything.
    assert first.status()["total"] == 1


def test_a_second_server_with_the_same_pid_file_is_refused(prepare: Serve, tmp_path: Path) -> None:
    shared = ("--pid", str(tmp_path / "shared.pid"))
    first = prepare("app:app", *shared).start()
    second = prepare("app:app", *shared).launch()
    assert second.wait() == 2
    assert f"process {first.pid} is running" in second.log()
    assert (tmp_path / "shared.pid").read_text().strip() == str(first.pid)
    assert first.get("/json").status == 200


def test_a_successors_files_are_left_alone(prepare: Serve, tmp_path: Path) -> None:
    server = prepare("app:app", "-b", f"unix:{tmp_path / 'app.sock'}").start()
    server.pid_file.write_text("1\n")
    os.unlink(tmp_path / "app.sock")
    (tmp_path / "app.sock").write_text("somebody else's\n")
    assert server.stop() == 0
    assert server.pid_file.read_text() == "1\n"
    assert (tmp_path / "app.sock").read_text() == "somebody else's\n"
    server.pid_file.unlink()
    (tmp_path / "app.sock").unlink()


def test_no_process_is_left_when_all_are_killed_in_any_order(serve: Serve) -> None:
    server = serve("app:app", "--min-workers", "2", "--max-workers", "2")
    with KeepAliveClients(server.address, 8, pause_s=0.01, reconnect=False) as clients:
        clients.wait_for(50)
        os.kill(server.template(), signal.SIGKILL)
        server.send(signal.SIGKILL)
    eventually(lambda: not server.group(), PATIENCE_S, server.report)


def test_no_dead_worker_stays_a_zombie(serve: Serve) -> None:
    server = serve("app:app", "--min-workers", "2", "--max-workers", "2")
    for number in range(1, 4):
        os.kill(server.workers()[0], signal.SIGKILL)
        server.eventually(lambda s, deaths=number: s["restarts"] == deaths and s["idle"] == 2)
    template = server.template()

    def children() -> int:
        path = Path(f"/proc/{template}/task/{template}/children")
        return len(path.read_text().split())

    eventually(lambda: children() == 2, hint=server.report)


def test_descriptors_do_not_grow_with_the_clients(serve: Serve) -> None:
    server = serve("app:app", "--max-workers", "1")

    def descriptors() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in server.group())

    assert server.get("/json").status == 200
    server.eventually(lambda s: s["connections"] == 0)
    before = descriptors()
    for _ in range(3):
        with KeepAliveClients(server.address, 40, "/json", pause_s=0.01) as clients:
            clients.wait_for(200)
        assert server.get("/upload", "POST", b"x" * 3_000_000).status == 200
    server.eventually(lambda s: s["connections"] == 0)
    # The loop may still be about to close; threads have no descriptors.
    eventually(lambda: descriptors() <= before, hint=server.report)
