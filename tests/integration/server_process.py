"""One real server for a test: started, asked, signalled, ended, and looked for afterwards."""

from __future__ import annotations

import dataclasses
import errno
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import spm

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[2]
MAIN: Final = ROOT / "main.py"
APPS: Final = Path(__file__).resolve().parent / "apps"

# Generous on purpose: a bound that says "never", on a machine that does other things as well.
PATIENCE_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.02
# States of proc_pid_stat(5) in which a process holds nothing any more.
_DEAD: Final = ("Z", "X")


def eventually(
    condition: Callable[[], T], within_s: float = PATIENCE_S, hint: Callable[[], str] = str
) -> T:
    """Return the first true value of the condition; fail loudly if there is none in time.

    hint: what to say of the failure besides.
    """
    deadline_s = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {within_s:g} s: {hint()}")
        time.sleep(_LOOK_EVERY_S)
    return value


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole response."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self._path)


def ask(
    connection: http.client.HTTPConnection,
    target: str,
    method: str = "GET",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    chunked: bool = False,
) -> Answer:
    """Send one request on a connection, which stays open, and return the whole answer."""
    connection.request(method, target, body, headers or {}, encode_chunked=chunked)
    response = connection.getresponse()
    fields = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, fields, response.read())


class ServerProcess:
    """`python main.py ...` in a process group and in directories of its own.

    directory: for its pid file, log, control socket and temporary files.
    arguments: its command line; `--port 0` is added if they say nothing of an address.
    chdir: where it runs, and so where the application is looked for.
    environ: more environment variables.
    """

    def __init__(
        self,
        directory: Path,
        arguments: tuple[str, ...],
        chdir: Path = ROOT,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.pid_file = directory / "server.pid"
        self.log_file = directory / "server.log"
        self.temporary = directory / "tmp"
        self.runtime = directory / "run"
        for each in (self.temporary, self.runtime):
            each.mkdir(parents=True, exist_ok=True)
        self.arguments = list(arguments)
        if not {"--port", "-b", "--bind"}.intersection(arguments):
            self.arguments += ["--port", "0"]
        if "--pid" not in arguments:
            self.arguments += ["--pid", str(self.pid_file)]
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SMART_HTTP_")},
            "XDG_RUNTIME_DIR": str(self.runtime),
            "TMPDIR": str(self.temporary),
            # Compiled files are told from new source by the second: too coarse for a reload.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **(environ or {}),
        }
        self._chdir = chdir
        self._process: subprocess.Popen[bytes] | None = None
        self._binds: list[str] = []
        self.killed = False

    @property
    def program(self) -> Path:
        """What is started."""
        return MAIN

    # --- its life -------------------------------------------------------------------

    def launch(self) -> ServerProcess:
        """Start the process without waiting for anything."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(self.program), *self.arguments],
                cwd=self._chdir,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def start(self) -> ServerProcess:
        """Start the process and wait until a worker serves."""
        self.launch()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Wait until a worker serves."""
        status = self.eventually(lambda status: status["busy"] + status["idle"] > 0)
        self._binds = status["server"]["binds"]

    @property
    def pid(self) -> int:
        """The manager's process id, which is that of its group as well."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the manager has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: int) -> None:
        """Send the manager a signal."""
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.killed = True

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Wait for the manager's end; return the exit status."""
        assert self._process is not None, "not started"
        eventually(lambda: not self.running, within_s, self.report)
        return self._process.wait()

    def stop(self, number: int = signal.SIGTERM, within_s: float = PATIENCE_S) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.send(number)
        return self.wait(within_s)

    def end(self) -> None:
        """End it, whatever it does; then see that nothing of it is left.

        A manager that had to be killed cannot tidy up its files, only its processes.
        """
        if self._process is None:
            return
        try:
            for number in (signal.SIGTERM, signal.SIGTERM):
                if self.running:
                    self.send(number)
                    self._process.wait(PATIENCE_S / 2)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.report()}") from None
        else:
            eventually(lambda: not self.group(), hint=self.report)
            if not self.killed:
                assert not self.left_files(), self.report()
        finally:
            self._kill_group()

    def _kill_group(self) -> None:
        """End what a failed test has left, by the group: its number is still ours to use."""
        assert self._process is not None
        if self.group():
            try:
                os.killpg(self.pid, signal.SIGCONT)
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
        self._process.wait(PATIENCE_S)

    def group(self) -> dict[int, str]:
        """Return the living processes of its group: pid to the name of the program."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                before, _, after = (entry / "stat").read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, _, group = after.split()[:3]
            if int(group) == self.pid and state not in _DEAD:
                found[int(entry.name)] = before.partition("(")[2]
        return found

    def left_files(self) -> list[str]:
        """Return the files that the server made for itself and that are still there."""
        places = (self.pid_file.parent.glob(f"*{self.pid_file.name}*"), self.runtime.rglob("*"))
        files = [str(path) for place in places for path in place if not path.is_dir()]
        files += [str(path) for path in self.temporary.iterdir()]
        return files + [str(path) for path in self.directory.glob("*.sock")]

    # --- what it says ----------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the readout."""
        answer = spm.ask(self.runtime / "smart-http" / f"{self.pid}.sock", timeout_s=PATIENCE_S)
        assert isinstance(answer, dict)
        return answer

    def eventually(
        self, condition: Callable[[dict[str, Any]], object], within_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Wait until the readout is as it should be; return that readout."""
        last: dict[str, Any] = {}

        def look() -> bool:
            assert self.running, f"it has ended: {self.report()}"
            try:
                last.update(self.status())
            except spm.ControlError:  # it does not listen yet
                return False
            return bool(condition(last))

        eventually(look, within_s, lambda: f"{last}\n{self.report()}")
        return last

    def workers(self) -> list[int]:
        """Return the process ids of the workers that have one."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["pid"]]

    def template(self) -> int:
        """Return the process id of the template: the manager's one child."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        assert len(children) == 1, children
        return int(children[0])

    def log(self) -> str:
        """Return what it has written to standard output and standard error."""
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, words: str, within_s: float = PATIENCE_S) -> str:
        """Wait until the log has these words; return the log."""

        def look() -> str:
            log = self.log()
            return log if words in log else ""

        return eventually(look, within_s, lambda: f"{words!r} in the log; {self.report()}")

    def report(self) -> str:
        """Return what a failed test wants to know of it."""
        return f"group {self.group()}, files {self.left_files()}, log:\n{self.log()}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the same program, where it finds the server."""
        return subprocess.run(
            [sys.executable, str(MAIN), *arguments],
            cwd=self._chdir,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    # --- its clients -----------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first address that is not a socket file."""
        found = [re.fullmatch(r"http://\[?([^]]+?)]?:(\d+)", bind) for bind in self._binds]
        host, port = next(match.groups() for match in found if match)
        return host, int(port)

    @property
    def binds(self) -> list[str]:
        """Where it listens, as the readout says it."""
        return self._binds

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that is opened by its first request; the caller closes it."""
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)

    def connect(self) -> socket.socket:
        """Return a connected socket; the caller closes it."""
        return socket.create_connection(self.address, PATIENCE_S)

    def get(
        self,
        target: str,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = self.connection()
        try:
            return ask(connection, target, method, body, headers)
        finally:
            connection.close()


class Hold:
    """A request, or an import, that goes on when the test says so and not before.

    The application opens `path` (a FIFO) for reading, and stands there until release().
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fds: list[int] = []
        os.mkfifo(path)

    def wait(self) -> None:
        """Wait until somebody stands there; nobody gets on by this."""
        eventually(self._reach, hint=lambda: f"nobody opens {self.path}")

    def release(self) -> None:
        """Let go on whoever stands there, or comes there first."""
        if not self._fds:
            self.wait()
        self.close()

    def close(self) -> None:
        """Let go on whoever stands there now."""
        while self._fds:
            os.close(self._fds.pop())

    def _reach(self) -> bool:
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody has opened it for reading
                raise
            return False
        # Kept open until release(): closing it would be an end-of-file, and that a release.
        self._fds.append(fd)
        return True


class Background:
    """Requests that are under way while the test does something else."""

    def __init__(self, server: ServerProcess, target: str) -> None:
        self._server = server
        self._target = target
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer = self._server.get(self._target)
        except (OSError, http.client.HTTPException) as error:
            self.error = error

    def result(self, within_s: float = PATIENCE_S) -> Answer | Exception:
        """Wait for the answer, or for what came instead of one."""
        self._thread.join(within_s)
        assert not self._thread.is_alive(), f"{self._target}: no answer within {within_s:g} s"
        result = self.answer or self.error
        assert result is not None
        return result
