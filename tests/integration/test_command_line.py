"""`python main.py ...` as a user types it: real shells, real processes, real answers."""

from __future__ import annotations

import http.client
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "main.py"
PATIENCE_S = 30
APP = (
    "import os\n"
    "def app(environ, start_response):\n"
    "    body = f\"{environ['PATH_INFO']} {os.getcwd()}\".encode()\n"
    "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
    "    return [body]\n"
    "def make():\n"
    "    return app\n"
)
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)\D")


class Running:
    """A server that was started by a command line; what it says is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.said = ""

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Read standard error until it matches; fail loudly after PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        assert self.process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while not (found := pattern.search(self.said)):
                assert selector.select(deadline - time.monotonic()), f"silence after: {self.said}"
                piece = os.read(self.process.stderr.fileno(), 65536)
                assert piece, f"it ended: {self.said}"
                self.said += piece.decode()
        return found

    def get(self, path: str) -> tuple[int, str]:
        """Ask the first TCP address for a path."""
        port = int(self.wait_for(ADDRESS)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=PATIENCE_S)
        self.said += rest.decode()
        return self.process.returncode


Start = Callable[..., Running]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environ() -> dict[str, str]:
    """The environment without settings of the server in it."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SMART_HTTP_")}


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Start]:
    """Start a command in a directory that holds `app.py`; end what a test leaves running."""
    (tmp_path / "app.py").write_text(APP)
    running: list[Running] = []

    def begin(*command: str, **variables: str) -> Running:
        # A session of its own: should anything go wrong, the whole family can be ended.
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environ, "ZDOTDIR": str(tmp_path), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        running.append(Running(process))
        return running[-1]

    yield begin
    for each in running:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def run(tmp_path: Path, environ: dict[str, str]) -> Run:
    """Run a command that ends by itself, in a directory that holds `app.py`."""
    (tmp_path / "app.py").write_text(APP)

    def finish(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(MAIN), *arguments],
            cwd=tmp_path,
            env={**environ, **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    return finish


def main(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(MAIN), *arguments)


@pytest.mark.parametrize("name", ["sh", "bash", "zsh"])
@pytest.mark.parametrize("form", ["--lode:app->app", "--lode app->app", "app->app"])
def test_the_bare_command_serves_and_leaves_no_file_behind(
    start: Start, tmp_path: Path, name: str, form: str
) -> None:
    shell = shutil.which(name)
    if shell is None:
        pytest.skip(f"{name} is not installed")
    # `exec`: the signal goes to the server, not to a shell that waits for it.
    server = start(shell, "-c", f"exec {sys.executable} {MAIN} --port 0 {form}")
    status, body = server.get("/hello")
    assert (status, body.split()[0]) == (200, "/hello")
    assert "--lode:app->app" in server.said
    assert not (tmp_path / "app").exists()
    assert server.stop() == 0
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lode:app->app"],
        ["--lode", "app:app"],
        ["app:app"],
        ["app:make()"],
        ["--lode:app->make()"],
    ],
)
def test_every_other_form_serves(start: Start, arguments: list[str]) -> None:
    server = start(*main("--port", "0", *arguments))
    assert server.get("/")[0] == 200
    assert server.stop() == 0


def test_nothing_is_said_on_standard_output_while_serving(start: Start) -> None:
    server = start(
        *main("--port", "0", "--metrics-interval", "0.1", "--access-log", "-", "app:app")
    )
    assert server.get("/")[0] == 200
    server.process.send_signal(signal.SIGTERM)
    out, _ = server.process.communicate(timeout=PATIENCE_S)
    assert out == b""


def test_settings_come_from_the_environment(start: Start, tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (below / "site_app.py").write_text(APP)
    server = start(
        *main(),
        SMART_HTTP_LODE="site_app->app",
        SMART_HTTP_CHDIR="below",
        SMART_HTTP_PORT="0",
    )
    assert server.get("/x") == (200, f"/x {below}")
    assert server.stop() == 0


def test_files_are_written_where_the_command_was_typed_and_removed_at_the_end(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "app.py").write_text(APP)
    files = ["--pid", "server.pid", "-b", "unix:server.sock", "--access-log", "access.log"]
    server = start(*main("-b", "127.0.0.1:0", *files, "--chdir", "below", "app:app"))
    assert server.get("/logged")[0] == 200
    assert int((tmp_path / "server.pid").read_text()) == server.process.pid
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(tmp_path / "server.sock"))
        client.sendall(b"GET /unix HTTP/1.0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert server.stop() == 0
    assert "GET /logged" in (tmp_path / "access.log").read_text()
    assert not (tmp_path / "server.pid").exists()
    assert not (tmp_path / "server.sock").exists()
    assert sorted(os.listdir(tmp_path / "below")) in (["__pycache__", "app.py"], ["app.py"])


def test_check_loads_and_prints_the_settings(run: Run) -> None:
    done = run("--check", "--max-workers", "3", "app:app", SMART_HTTP_MAX_BODY="2m")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}
    assert rows["--lode"] == ["app:app", "command", "line"]
    assert rows["--max-workers"] == ["3", "command", "line"]
    assert rows["--max-body"] == ["2m", "environment", "(SMART_HTTP_MAX_BODY)"]
    assert rows["--backlog"] == ["2048", "default"]


def test_check_needs_no_free_port(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run("--check", "--port", str(taken.getsockname()[1]), "app:app").returncode == 0


def test_help_and_version_are_for_standard_output(run: Run) -> None:
    for option, words in (("--help", "Usage: python main.py"), ("--version", "smart-http ")):
        done = run(option)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(words)


@pytest.mark.parametrize("check", [[], ["--check"]])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to serve"),
        (["ap:app"], "there is no module ap in"),
        (["app:aplication"], "app has no 'aplication'"),
        (["app:os"], "not a callable"),
        (["app:make"], "did you mean 'app:make()'?"),
        (["app"], "say which callable: app:app"),
        (["app:app", "--port", "many"], "--port 'many'"),
        (["app:app", "--max-worker", "2"], "did you mean --max-workers?"),
        (["app:app", "--min-workers", "3", "--max-workers", "2"], "--min-workers 3 is more than"),
        (["app:app", "--chdir", "/no/such/place"], "there is no directory"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_status_2(
    run: Run, arguments: list[str], words: str, check: list[str]
) -> None:
    done = run(*arguments, *check)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.startswith("smart-http: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--max-connections", "0", "give 1 to 1000000"),
        ("--max-connections-per-address", "-1", "give 0 to 1000000"),
        ("--max-streams", "5000", "give 0 to 1024"),
        ("--request-timeout", "0.05", "give seconds, 0.1 to 86400, or 0 (off)"),
        ("--queue-timeout", "3s", "give 0.1 to 86400, or 0 (off), without a unit"),
        ("--min-rate", "1.5", "give bytes, or a number with k, m or g, such as 64k"),
        ("--linger-timeout", "0", "give seconds, 0.1 to 86400"),
        ("--body-buffer", "0", "give 1 to 1g"),
        ("--max-buffered", "1k", "give 64k to 1024g"),
        ("--temp-dir", "/no/such/place", "there is no directory /no/such/place"),
        ("--temp-dir", "app.py", "give a directory"),
        ("--max-request-line", "10", "give 64 to 1m"),
        ("--max-trailer-bytes", "2m", "give 64 to 1m"),
        ("--max-chunk-extension", "1m", "give 1 to 64k, or 0 (none)"),
        ("--max-chunk-overhead", "much", "give bytes, or a number with k, m or g, such as 64k"),
        ("--underscore-headers", "keep", "give drop or refuse"),
        ("--connect", "yes", "give refuse or pass"),
    ],
)
def test_a_bad_value_is_one_line_that_names_option_value_and_remedy(
    run: Run, option: str, value: str, remedy: str
) -> None:
    done = run(option, value, "app:app")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"smart-http: error: {option} '{value}': ")
    assert done.stderr.endswith(f"{remedy}\n")
    assert done.stderr.count("\n") == 1


def test_a_bad_value_in_the_environment_is_named_by_its_variable(run: Run) -> None:
    done = run("app:app", SMART_HTTP_QUEUE_TIMEOUT="soon")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("smart-http: error: SMART_HTTP_QUEUE_TIMEOUT 'soon': ")
    assert done.stderr.count("\n") == 1


def test_check_prints_limits_and_timeouts_as_they_were_meant(run: Run, tmp_path: Path) -> None:
    given = ["--temp-dir", ".", "--max-buffered", "1m", "--connect", "pass", "--max-streams", "0"]
    done = run("--check", *given, "--queue-timeout", "1.5", "--request-timeout", "0", "app:app")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}
    meant = {
        "--temp-dir": [str(tmp_path)],
        "--max-buffered": ["1m"],
        "--connect": ["pass"],
        "--max-streams": ["0"],
        "--queue-timeout": ["1.5", "s"],
        "--request-timeout": ["off"],
    }
    assert {name: rows[name] for name in meant} == {
        name: [*words, "command", "line"] for name, words in meant.items()
    }
    assert rows["--max-connections-per-address"] == ["off", "default"]


def test_one_thread_has_no_others_beside_it_unless_they_are_asked_for(run: Run) -> None:
    for given, streams in (
        ([], "256"),
        (["--max-threads", "1"], "0"),
        (["--max-threads", "1", "--max-streams", "7"], "7"),
    ):
        done = run("--check", *given, "app:app")
        rows = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}
        assert rows["--max-streams"][0] == streams


def test_an_application_that_fails_shows_its_own_traceback_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f():\n    1 / 0\nf()\n")
    done = run("bad:app", "--port", "0")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "main.py" not in done.stderr


def test_a_port_in_use_is_one_line_and_exit_status_2(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("app:app", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_finds_the_server_by_pid_file_and_by_address(
    start: Start, run: Run, tmp_path: Path
) -> None:
    server = start(*main("--port", "0", "--pid", "server.pid", "app:app"))
    port = server.wait_for(ADDRESS)[1]
    assert server.get("/")[0] == 200
    for way in (["--pid", "server.pid"], ["--bind", f"127.0.0.1:{port}"]):
        done = run("status", "--json", *way)
        assert (done.returncode, done.stderr) == (0, "")
        assert isinstance(json.loads(done.stdout), dict)
        assert "KillPending" in run("status", *way).stdout
    assert server.stop() == 0
    assert run("status", "--pid", "server.pid").returncode != 0
