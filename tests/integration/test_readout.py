"""What the server says of itself: status, --metrics-interval, access log; and that it adds up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, Background, Hold, ServerProcess, eventually

STATES = ("busy", "idle", "kill_pending", "starting", "wedged")


def status_command(server: ServerProcess, *arguments: str) -> dict[str, Any]:
    done = server.command("status", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_status_finds_the_server_and_counts_every_request(serve: Serve) -> None:
    server = serve("app:app", "--min-workers", "2", "--max-workers", "2")
    for number in range(30):
        assert server.get("/json" if number % 10 else "/error").status in (200, 500)
    server.eventually(lambda s: s["requests"] == 30)
    port = str(server.address[1])
    ways = ([], ["--pid", str(server.pid_file)], ["--bind", f"127.0.0.1:{port}"])
    for status in [status_command(server, *way) for way in ways]:
        assert status["manager_pid"] == server.pid
        assert status["server"]["binds"] == [f"http://127.0.0.1:{port}"]
        assert (status["total"], status["idle"]) == (2, 2)
        assert sum(status[state] for state in STATES) == status["total"]
        assert len(status["workers"]) == status["total"]
        assert sum(worker["requests"] for worker in status["workers"]) == 30
        assert status["requests"] == status["since_start"]["count"] == 30
        assert status["last_minute"]["count"] == 30
        assert (status["restarts"], status["lost"], status["waiting"]) == (0, 0, 0)
        times = status["since_start"]
        assert 0 < times["p50_ms"] <= times["p99_ms"]
        for worker in status["workers"]:
            assert worker["state"] == "Idle"
            assert worker["rss"] > worker["uss"] > 0


def test_status_as_text_shows_the_same_numbers(serve: Serve) -> None:
    server = serve("app:app", "--max-workers", "2")
    assert [server.get("/json").status for _ in range(7)] == [200] * 7
    server.eventually(lambda s: s["requests"] == 7)
    done = server.command("status", "--pid", str(server.pid_file))
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert f"pid {server.pid}" in text
    assert f"127.0.0.1:{server.address[1]}" in text
    assert re.search(r"Total 1  Busy 0  Idle 1  KillPending 0\b", text)
    assert re.search(r"requests +7 in all", text)
    assert re.search(rf"^ *{server.workers()[0]} .*\bIdle\b", text, re.MULTILINE)


def test_status_without_a_server_is_one_line_and_a_bad_exit(serve: Serve) -> None:
    server = serve("app:app")
    assert server.stop() == 0
    for way in ([], ["--pid", str(server.pid_file)]):
        done = server.command("status", *way)
        assert done.returncode != 0
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_a_request_in_progress_makes_its_worker_busy(serve: Serve, hold: Hold) -> None:
    server = serve("trouble:app", chdir=APPS, environ={"HOLD": str(hold.path)})
    request = Background(server, "/hold")
    hold.wait()
    status = server.eventually(lambda s: s["busy"] == 1)
    assert (status["busy_threads"], status["idle"], status["requests"]) == (1, 0, 0)
    hold.release()
    assert getattr(request.result(), "status", None) == 200
    status = server.eventually(lambda s: s["idle"] == 1)
    assert (status["busy_threads"], status["requests"]) == (0, 1)


def test_requests_beyond_all_threads_are_waiting(serve: Serve, hold: Hold) -> None:
    limits = ("--max-workers", "1", "--max-threads", "1")
    server = serve("trouble:app", *limits, chdir=APPS, environ={"HOLD": str(hold.path)})
    first = Background(server, "/hold")
    hold.wait()
    others = [Background(server, "/") for _ in range(3)]
    status = server.eventually(lambda s: s["waiting"] == 3)
    assert status["accept_queue"] <= 3  # those of the three that nobody has accepted
    assert (status["total"], status["busy_threads"]) == (1, 1)
    hold.release()
    for request in (first, *others):
        assert getattr(request.result(), "status", None) == 200
    server.eventually(lambda s: s["requests"] == 4 and s["waiting"] == 0)


def test_requests_counted_are_requests_answered_under_load(serve: Serve) -> None:
    server = serve("app:app", "--min-workers", "2", "--max-workers", "2")
    with KeepAliveClients(server.address, 20, pause_s=0.01) as clients:
        clients.wait_for(1000)
        connected = server.eventually(lambda s: s["connections"] == 20)
        assert sum(worker["connections"] for worker in connected["workers"]) == 20
    assert clients.failures == []
    status = server.eventually(lambda s: s["requests"] >= clients.answers)
    assert status["requests"] == clients.answers == status["since_start"]["count"]
    by_pid = {worker["pid"]: worker["requests"] for worker in status["workers"]}
    assert {pid: count for pid, count in by_pid.items() if count} == dict(clients.workers)
    server.eventually(lambda s: s["connections"] == 0)


def test_the_metrics_line_comes_by_itself(serve: Serve) -> None:
    server = serve("app:app", "--metrics-interval", "0.2")
    assert [server.get("/json").status for _ in range(5)] == [200] * 5
    log = server.wait_for_log(" requests 5 (")
    line = next(line for line in log.splitlines() if " requests 5 (" in line)
    assert re.search(
        r"Total 1 Busy 0 Idle 1 KillPending 0 threads 0/\d+ requests 5 \([\d.]+/s\) waiting 0 "
        r"accept_queue 0 mean [\d.]+ \w+ p50 [\d.]+ \w+ p99 [\d.]+ \w+ restarts 0 lost 0",
        line,
    )


def test_the_access_log_has_a_line_for_every_request(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    workers = ("--min-workers", "2", "--max-workers", "2")
    server = serve("app:app", *workers, "--access-log", str(path))
    agent = {"User-Agent": 'a "quoted"\tagent', "Referer": "http://elsewhere/"}
    length = len(server.get("/json?x=1", headers=agent).body)
    assert server.get("/missing").status == 404
    with server.connect() as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")

    def lines() -> list[str]:
        found = path.read_text().splitlines()
        return found if len(found) >= 3 else []

    first, *others = sorted(eventually(lines, hint=server.report), key=lambda x: "x=1" not in x)
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}] "GET /json\?x=1 HTTP/1\.1" '
        rf'200 {length} "http://elsewhere/" "a \\x22quoted\\x22\\x09agent"',
        first,
    )
    assert any('"GET /missing HTTP/1.1" 404 ' in line for line in others)
    assert any('"-" 400 ' in line for line in others)
    assert server.stop() == 0
    assert len(path.read_text().splitlines()) == 3
