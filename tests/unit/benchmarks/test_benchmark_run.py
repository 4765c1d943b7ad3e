"""Turns interleave, a failing server stops nobody, and no process outlives its turn."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from click.testing import CliRunner
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.test import Client

from benchmarks import __main__ as command
from benchmarks import apps, load, machine, rate
from benchmarks.cores import Cores, choose_cores, pinned
from benchmarks.flask_app import app as flask_app
from benchmarks.load import Generator, LoadError, Measurement, parse_json
from benchmarks.processes import ServerError, running, stop
from benchmarks.runner import Plan, run
from benchmarks.sample import Sample
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import OURS, SERVERS, Server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

HELLO, SLEEP, CONNECT = (
    next(scenario for scenario in SCENARIOS if scenario.name == name)
    for name in ("hello", "sleep", "connect")
)
CANNED = next(server for server in SERVERS if server.name == "canned")
ANYWHERE = Cores(None, None)
SEEN = Measurement(requests=10, rate=5.0, p50_us=1.0, p99_us=2.0)


def broken(program: str) -> Server:
    return Server("broken", "sys", "", lambda port, app, threads: ("-c", program, str(port)))


def generator(program: str = f"print({load.as_json(SEEN)!r})") -> Generator:
    """Return a load generator that loads nothing and says what it was told to say."""
    return Generator("told", "1", lambda *_: [sys.executable, "-c", program], parse_json)


def plan(*servers: Server, rounds: int = 1) -> Plan:
    return Plan([HELLO], servers, rounds=rounds, seconds=0, warm_up_s=0)


def wait_for_end(pidfd: int) -> bool:
    try:
        return bool(select.select([pidfd], [], [], 20)[0])
    finally:
        os.close(pidfd)


@pytest.mark.parametrize(
    ("app", "path", "body"),
    [
        (apps.hello, "/", apps.HELLO_BODY),
        (apps.sleep, "/", apps.SLEPT_BODY),
        (flask_app, "/json", apps.JSON_BODY),
    ],
)
def test_the_applications_answer_what_the_probe_expects(
    app: WSGIApplication, path: str, body: bytes
) -> None:
    response = Client(LintMiddleware(app)).get(path)
    assert (response.status_code, response.data) == (200, body)


def test_servers_take_turns_in_every_round() -> None:
    first, second = SERVERS[0], SERVERS[1]
    turns = [(number, server.name) for _, number, server in plan(first, second, rounds=2).turns()]
    assert turns == [(1, first.name), (1, second.name), (2, first.name), (2, second.name)]


def test_a_server_has_no_turn_in_a_scenario_that_says_nothing_about_it() -> None:
    unfit = {server.name for server in SERVERS if server.unfit(SLEEP)}
    assert unfit == {"bjoern", "fastpysgi", "canned"}


def test_every_server_with_threads_gets_the_same_number() -> None:
    for server in SERVERS:
        words = " ".join(server.command(1, HELLO.app, 37))
        assert ("37" in words) is (server.has_threads and server.name != "apache")


def test_what_is_not_installed_is_named() -> None:
    assert (
        "package nowhere" in replace(SERVERS[1], needs="no_such", distribution="nowhere").missing()
    )
    assert "no_such.py" in replace(SERVERS[0], needs="no_such").missing()
    assert CANNED.missing() == ""


def test_the_version_of_this_project_comes_from_its_metadata() -> None:
    assert SERVERS[0].name == OURS
    assert SERVERS[0].version()[0].isdigit()


@pytest.mark.parametrize("scenario", [HELLO, CONNECT], ids=["kept", "closed"])
def test_a_server_answers_inside_the_block_and_is_gone_behind_it(scenario: Scenario) -> None:
    with running(CANNED, scenario, None) as child:
        pidfd = os.pidfd_open(child.pid)
        assert child.memory_mb() > 0
        assert child.cpu_s() >= 0
    assert wait_for_end(pidfd)
    assert not psutil.pid_exists(child.pid)


def test_a_server_is_ended_when_the_block_is_left_by_ctrl_c() -> None:
    def interrupted() -> Iterator[int]:
        with running(CANNED, HELLO, None) as child:
            yield child.pid
            raise KeyboardInterrupt

    steps = interrupted()
    pid = next(steps)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert not psutil.pid_exists(pid)


def test_a_server_that_ends_at_once_is_reported_with_its_last_words() -> None:
    with (
        pytest.raises(ServerError, match=r"(?s)ended before.*port is cursed"),
        running(broken("raise SystemExit('port is cursed')"), HELLO, None),
    ):
        pytest.fail("it cannot have answered")


def test_a_wrong_answer_is_no_start() -> None:
    with (
        pytest.raises(ServerError, match="answered 200 with b'Hello"),
        running(CANNED, replace(HELLO, body=b"something else"), None),
    ):
        pytest.fail("it cannot have been right")


def test_what_a_server_leaves_behind_is_ended_with_it() -> None:
    # The leader goes at SIGTERM; its child does not even hear of it, and would stay for ever.
    leader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert leader.stdout is not None
    with leader.stdout:
        orphan = os.pidfd_open(int(leader.stdout.readline()))
    stop(leader)
    assert leader.returncode == -signal.SIGTERM
    assert wait_for_end(orphan)


def test_a_failed_turn_becomes_a_sample_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate, "choose_generator", generator)
    heard: list[Sample] = []
    samples: list[Sample] = []
    run(plan(broken("1/0"), CANNED), ANYWHERE, heard.append, samples)
    assert heard == samples
    assert "ZeroDivisionError" in samples[0].failure
    assert samples[0].figures == {}
    assert samples[1].figures["rate"] == SEEN.rate


def test_a_quick_run_has_every_server_and_every_scenario_but_not_each_with_each() -> None:
    quick = Plan([HELLO, CONNECT], SERVERS, rounds=1, seconds=0, warm_up_s=0, quick=True)
    turns = [(scenario.name, server.name) for scenario, _, server in quick.turns()]
    assert turns == [*(("hello", server.name) for server in SERVERS), ("connect", OURS)]


def test_an_end_that_the_client_has_asked_for_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    said = load.as_json(replace(SEEN, socket_errors={"read": 9, "timeout": 1}))
    monkeypatch.setattr(rate, "choose_generator", lambda: generator(f"print({said!r})"))
    samples: list[Sample] = []
    run(replace(plan(CANNED), scenarios=[HELLO, CONNECT]), ANYWHERE, print, samples)
    assert [sample.errors for sample in samples] == [10, 1]


def test_a_generator_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "choose_generator", lambda: generator("raise SystemExit('no route')"))
    samples: list[Sample] = []
    run(plan(CANNED), ANYWHERE, print, samples)
    assert samples[0].failure == "told failed (1): no route"


def test_without_any_generator_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    load.choose_generator.cache_clear()
    with pytest.raises(LoadError, match="apt install wrk"):
        load.choose_generator()


def test_a_process_that_is_started_pinned_stays_on_its_core() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with pinned(core):
        told = subprocess.check_output(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"], text=True
        )
    assert told.split() == [str(core)]
    assert os.sched_getaffinity(0) == before


def test_server_and_generator_have_different_cores_or_none() -> None:
    cores = choose_cores()
    assert (cores.server is None) == (cores.load is None)
    assert cores.server is None or cores.server != cores.load


def test_the_processor_is_named_by_its_model() -> None:
    assert machine.cpu_model("processor\t: 0\nmodel name\t: A CPU @ 3 GHz\n") == "A CPU @ 3 GHz"
    assert machine.cpu_model("Hardware: board\n") != ""


def test_percentiles_are_values_that_occurred() -> None:
    pytest.importorskip("aiohttp")
    from benchmarks.aiohttp_load import percentile

    ordered = [float(n) for n in range(1, 201)]
    assert percentile(ordered, 50) == 100.0
    assert percentile(ordered, 99) == 198.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 99) == 0.0


def test_the_command_writes_table_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "choose_generator", generator)
    monkeypatch.setattr(rate, "choose_generator", generator)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(
            command.main,
            ["--quick", "--server=canned", "--scenario=hello", f"--output-dir={tmp_path}"],
        )
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert result.exit_code == 0, result.output
    (data,) = tmp_path.glob("*.json")
    (text,) = tmp_path.glob("*.md")
    assert json.loads(data.read_text())["samples"][0]["figures"]["rate"] == SEEN.rate
    assert text.read_text() in result.stdout
