"""`upgrade` and SIGUSR2: a new server takes sockets and connections over from the running one."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import spm
from spm.pid_file import is_alive, read_pid
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import (
    MAIN,
    PATIENCE_S,
    Hold,
    ServerProcess,
    UnixConnection,
    ask,
    eventually,
)

SOURCE = """
{first}
def app(environ, start_response):
    name = environ["PATH_INFO"].partition("/hold/")[2]
    if name:
        with open(f"{directory}/{{name}}") as hold:
            hold.read()
    body = environ["wsgi.input"].read() + b"version {version}"
    if environ["PATH_INFO"] == "/big":
        body = body * 1_000_000
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Lineage(ServerProcess):
    """A server and those that replace it. Its `pid` is that of the first, and of the group."""

    @property
    def now(self) -> int:
        """Return who serves now, by the pid file."""
        return read_pid(self.pid_file) or 0

    @property
    def running(self) -> bool:
        """Whether somebody serves. Reaps the first, which is our child."""
        return super().running or (self.now > 0 and is_alive(self.now))

    def status(self) -> dict[str, Any]:
        """Return the readout of the one that serves."""
        return self.status_of(self.now)

    def status_of(self, pid: int) -> dict[str, Any]:
        """Return the readout of one of them."""
        answer = spm.ask(self.runtime / "smart-http" / f"{pid}.sock", timeout_s=PATIENCE_S)
        assert isinstance(answer, dict)
        return answer

    def write(self, version: int, first: str = "") -> None:
        """Put a version of the application in place, whole or not at all."""
        new = self.directory / "versioned.py.new"
        new.write_text(SOURCE.format(version=version, first=first, directory=self.directory))
        os.replace(new, self.directory / "versioned.py")

    def upgrade(self) -> int:
        """Have it replaced; return the pid of the new one."""
        done = self.command("upgrade", "--pid", str(self.pid_file))
        assert (done.returncode, done.stderr) == (0, ""), (done, self.report())
        match = re.fullmatch(r"process (\d+) serves now\n", done.stdout)
        assert match, done.stdout
        return int(match[1])

    def refused(self) -> str:
        """Ask for an upgrade that fails; return why."""
        done = self.command("upgrade", "--pid", str(self.pid_file))
        assert done.returncode == 1, (done, self.report())
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def is_alone(self, pid: int) -> bool:
        """Whether this one serves and all others have left."""
        mine = {pid, *_descendants(pid)}
        return self.now == pid and set(self.group()) == mine

    def end(self) -> None:
        """End whoever serves; then see that nothing is left."""
        if self._process is None:
            return
        try:
            for _ in range(2):
                if super().running:
                    os.kill(self.pid, signal.SIGTERM)
            if self.now and is_alive(self.now):
                os.kill(self.now, signal.SIGTERM)
            eventually(lambda: not (self.group() or super(Lineage, self).running), hint=self.report)
            if not self.killed:
                assert not self.left_files(), self.report()
        finally:
            self._kill_group()


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in text.split()]


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return children + [each for child in children for each in _descendants(child)]


Launch = Callable[..., Lineage]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Launch]:
    """Make a server of the versioned application that is not started yet."""
    servers: list[Lineage] = []

    def prepare(*arguments: str, **more: Any) -> Lineage:
        place = tmp_path / f"server{len(servers)}"
        more.setdefault("chdir", place)
        server = Lineage(place, ("versioned:app", *arguments), **more)
        server.write(1)
        servers.append(server)
        return server

    yield prepare
    problems = []
    for server in servers:
        try:
            server.end()
        except AssertionError as problem:
            problems.append(str(problem))
        print(f"--- {server.log_file}\n{server.log()}")
    assert not problems, "\n".join(problems)


@pytest.fixture
def launch(prepare: Launch) -> Launch:
    """Start a server of the versioned application and wait until it serves."""

    def launch(*arguments: str, **more: Any) -> Lineage:
        server = prepare(*arguments, **more)
        server.start()
        return server

    return launch


@pytest.fixture
def server(launch: Launch) -> Lineage:
    return launch("--min-workers", "2", "--max-workers", "3", "--max-threads", "8")


def read_answer(sock: socket.socket) -> str:
    """Read one response, and not a byte of the next, and return its body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = sock.recv(1)
        assert received, f"closed after {head!r}"
        head += received
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert b"connection: close" not in head.lower()
    match = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
    assert match, head
    body = bytearray()
    while len(body) < int(match[1]):
        received = sock.recv(int(match[1]) - len(body))
        assert received, f"closed after {len(body)} bytes of {match[1]!r}"
        body += received
    return body.decode()


def idle_connection(server: Lineage) -> http.client.HTTPConnection:
    connection = server.connection()
    assert ask(connection, "/").text == "version 1"
    return connection


# --- the clients ---------------------------------------------------------------------------


def test_no_client_notices_but_by_what_it_is_answered(server: Lineage, tmp_path: Path) -> None:
    old_workers = set(server.workers())
    idle = [idle_connection(server) for _ in range(20)]
    half = server.connect()
    half.sendall(REQUEST[:20])
    with KeepAliveClients(server.address, 40, "/", pause_s=0.05) as clients:
        clients.wait_for(120)
        server.write(2)
        new = server.upgrade()
        eventually(lambda: server.is_alone(new), hint=server.report)
        old_answers = clients.bodies["version 1"]
        clients.wait_for(200)
        assert clients.bodies["version 1"] - old_answers <= 40  # those on their way just then
    assert (clients.failures, clients.closings) == ([], [])
    assert (clients.announced, clients.opened) == (0, 40)
    assert set(clients.bodies) == {"version 1", "version 2"}
    assert not old_workers & set(server.workers())
    half.sendall(REQUEST[20:])
    assert read_answer(half) == "version 2"
    half.close()
    for connection in idle:
        before = connection.sock
        assert ask(connection, "/").text == "version 2"
        assert connection.sock is before
        connection.close()
    server.wait_for_log("connections came over")


def test_requests_in_progress_finish_and_their_connections_go_on(
    server: Lineage, tmp_path: Path
) -> None:
    running, pipelined = Hold(server.directory / "one"), Hold(server.directory / "two")
    slow, pair = server.connect(), server.connect()
    slow.sendall(REQUEST.replace(b"/ ", b"/hold/one ", 1))
    pair.sendall(REQUEST.replace(b"/ ", b"/hold/two ", 1) + REQUEST)
    running.wait()
    pipelined.wait()
    server.write(2)
    old = server.now
    new = server.upgrade()
    assert server.status_of(old)["upgrade"] == "leaving"
    assert server.status()["upgrade"] == "idle"
    assert server.get("/").text == "version 2"
    for hold in (running, pipelined):
        hold.release()
    assert read_answer(slow) == "version 1"
    assert read_answer(pair) == "version 1"
    assert read_answer(pair) == "version 2"
    slow.sendall(REQUEST)
    assert read_answer(slow) == "version 2"
    eventually(lambda: server.is_alone(new), hint=server.report)
    slow.close()
    pair.close()


def test_a_body_half_sent_finishes_where_it_began(server: Lineage) -> None:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"
    with server.connect() as sock:
        sock.sendall(head + b"01234")
        server.eventually(lambda s: s["connections"] == 1)
        server.write(2)
        new = server.upgrade()
        sock.sendall(b"56789")
        assert read_answer(sock) == "0123456789version 1"
        sock.sendall(REQUEST)
        assert read_answer(sock) == "version 2"
        eventually(lambda: server.is_alone(new), hint=server.report)


def test_a_response_that_is_being_taken_is_taken_whole(server: Lineage) -> None:
    with server.connect() as sock:
        sock.sendall(REQUEST.replace(b"/ ", b"/big ", 1))
        assert sock.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
        server.write(2)
        new = server.upgrade()
        assert read_answer(sock) == "version 1" * 1_000_000
        sock.sendall(REQUEST)
        assert read_answer(sock) == "version 2"
        eventually(lambda: server.is_alone(new), hint=server.report)


def test_many_connections_more_than_an_inbox_holds_at_once(server: Lineage) -> None:
    idle = [idle_connection(server) for _ in range(600)]
    server.write(2)
    new = server.upgrade()
    eventually(lambda: server.is_alone(new), hint=server.report)
    for connection in idle:
        before = connection.sock
        assert ask(connection, "/").text == "version 2"
        assert connection.sock is before
        connection.close()


def test_what_does_not_move_has_its_graceful_timeout(launch: Launch) -> None:
    server = launch("--graceful-timeout", "1")
    hold = Hold(server.directory / "one")
    sock = server.connect()
    sock.sendall(REQUEST.replace(b"/ ", b"/hold/one ", 1))
    hold.wait()
    new = server.upgrade()
    eventually(lambda: server.is_alone(new), hint=server.report)
    assert sock.recv(100) == b""
    hold.close()
    sock.close()


# --- the server ------------------------------------------------------------------------------


def test_a_second_upgrade_after_the_first_and_sigterm_afterwards(server: Lineage) -> None:
    first = server.now
    pids = [first]
    for version in (2, 3):
        server.write(version)
        pids.append(server.upgrade())
        eventually(lambda: server.is_alone(pids[-1]), hint=server.report)
        assert server.get("/").text == f"version {version}"
    assert len(set(pids)) == 3
    os.kill(server.now, signal.SIGTERM)
    eventually(lambda: not server.group(), hint=server.report)
    assert not server.left_files()


def test_sigusr2_does_the_same(server: Lineage) -> None:
    old = server.now
    server.write(2)
    os.kill(old, signal.SIGUSR2)
    eventually(lambda: server.now not in (0, old), hint=server.report)
    eventually(lambda: server.is_alone(server.now), hint=server.report)
    assert server.get("/").text == "version 2"


def test_as_many_workers_as_served_before_are_there_before_the_old_ones_go(
    launch: Launch,
) -> None:
    server = launch("--min-workers", "1", "--max-workers", "4", "--max-threads", "1")
    holds = [Hold(server.directory / f"hold{index}") for index in range(3)]
    requests = [server.connect() for _ in holds]
    for hold, sock in zip(holds, requests, strict=True):
        sock.sendall(REQUEST.replace(b"/ ", b"/hold/%s " % hold.path.name.encode(), 1))
        hold.wait()
    old = server.status()
    assert old["total"] >= 3
    server.upgrade()
    assert server.status()["total"] >= old["total"]
    for hold, sock in zip(holds, requests, strict=True):
        hold.release()
        assert read_answer(sock) == "version 1"
        sock.close()


def test_no_descriptor_is_passed_on_that_nobody_asked_for(server: Lineage) -> None:
    counts = []
    for _ in range(3):
        new = server.upgrade()
        eventually(lambda pid=new: server.is_alone(pid), hint=server.report)  # type: ignore[misc]
        server.eventually(lambda s: s["idle"] == 2)
        eventually(lambda: "has left" in server.log().rpartition(" serves ")[2])
        descriptors = os.listdir(f"/proc/{new}/fd")
        counts.append(len(descriptors))
        templates = _children(new)
        counts.extend(len(os.listdir(f"/proc/{pid}/fd")) for pid in templates)
    assert counts == counts[:2] * 3


def test_without_preload(launch: Launch) -> None:
    server = launch("--no-preload", "--min-workers", "2")
    connection = idle_connection(server)
    old = server.now
    server.write(2, first="raise LookupError('half a deployment')")
    assert "importing it raised LookupError" in server.refused()
    serves_on(server, old)
    server.write(3)
    new = server.upgrade()
    eventually(lambda: server.is_alone(new), hint=server.report)
    assert ask(connection, "/").text == "version 3"
    connection.close()


def test_a_socket_file_stays_and_goes_with_the_last(launch: Launch) -> None:
    server = launch("--bind", "unix:app.sock", "--bind", "127.0.0.1:0")
    path = server.directory / "app.sock"
    connection = UnixConnection(str(path))
    assert ask(connection, "/").text == "version 1"
    inode = path.stat().st_ino
    address = server.address
    server.write(2)
    for _ in range(2):
        new = server.upgrade()
        eventually(lambda pid=new: server.is_alone(pid), hint=server.report)  # type: ignore[misc]
        assert path.stat().st_ino == inode
        assert ask(connection, "/").text == "version 2"
        server.wait_until_ready()
        assert server.address == address
    connection.close()
    os.kill(server.now, signal.SIGTERM)
    eventually(lambda: not server.group(), hint=server.report)
    assert not path.exists()


def test_how_the_server_was_started_does_not_matter(prepare: Launch) -> None:
    # From another directory, by `python -m`, in the form that the shell has cut.
    server = prepare()
    redirected = server.directory / "app"
    environ = {**server.environ, "PYTHONPATH": str(MAIN.parent)}
    arguments = ["-m", "main", "--chdir", str(server.directory), "--lode:versioned-"]
    arguments += ["--port", "0", "--pid", str(server.pid_file)]
    with server.log_file.open("ab") as log, redirected.open("wb") as stdout:
        server._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=server.directory.parent,
            env=environ,
            stdout=stdout,
            stderr=log,
            start_new_session=True,
        )
    server.wait_until_ready()
    server.write(2)
    new = server.upgrade()
    eventually(lambda: server.is_alone(new), hint=server.report)
    assert server.get("/").text == "version 2"
    assert not redirected.exists()
    assert "did you mean" not in server.log()


def test_a_directory_behind_a_link_is_looked_up_anew(prepare: Launch, tmp_path: Path) -> None:
    releases = [tmp_path / "release1", tmp_path / "release2"]
    link = tmp_path / "current"
    link.symlink_to(releases[0])
    for number, release in enumerate(releases, 1):
        release.mkdir()
        source = SOURCE.format(version=number, first="", directory=tmp_path)
        (release / "versioned.py").write_text(source)
    server = prepare(chdir=link, environ={"PWD": str(link)})
    server.start()
    assert server.get("/").text == "version 1"
    link.unlink()
    link.symlink_to(releases[1])
    new = server.upgrade()
    eventually(lambda: server.is_alone(new), hint=server.report)
    assert server.get("/").text == "version 2"


# --- what goes wrong ---------------------------------------------------------------------------


def serves_on(server: Lineage, old: int) -> None:
    """See that the old server serves as if nothing had happened."""
    eventually(lambda: server.is_alone(old), hint=server.report)
    assert server.status()["upgrade"] == "idle"
    assert server.get("/").text == "version 1"


def test_a_broken_application_leaves_the_old_server_serving(server: Lineage) -> None:
    old = server.now
    with KeepAliveClients(server.address, 10, "/", pause_s=0.02) as clients:
        clients.wait_for(20)
        server.write(2, first="raise LookupError('half a deployment')")
        assert (
            "no upgrade: cannot load versioned:app: importing it raised Lookup" in server.refused()
        )
        clients.wait_for(20)
    assert (clients.failures, clients.closings, clients.announced) == ([], [], 0)
    serves_on(server, old)
    assert "half a deployment" in server.log()
    # And the next one may go well.
    server.write(2)
    new = server.upgrade()
    eventually(lambda: server.is_alone(new), hint=server.report)
    assert server.get("/").text == "version 2"


def start_held(server: Lineage) -> tuple[Hold, threading.Thread, list[str]]:
    """Begin an upgrade to a version that hangs while it is imported."""
    hold = Hold(server.directory / "import")
    server.write(2, first=f"open({str(hold.path)!r}).read()")
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(server.refused()), daemon=True)
    thread.start()
    hold.wait()
    return hold, thread, said


def successor(server: Lineage) -> int:
    """Return the process that is starting, from the log."""
    pids = re.findall(r"starting a new server \(pid (\d+)\)", server.log())
    return int(pids[-1])


def test_a_new_server_killed_in_the_middle_of_its_start(server: Lineage) -> None:
    old = server.now
    hold, thread, said = start_held(server)
    assert server.status()["upgrade"] == "starting"
    os.kill(successor(server), signal.SIGKILL)
    thread.join(PATIENCE_S)
    assert "killed by SIGKILL" in said[0]
    hold.release()  # its template, which nobody could end, sees that it is alone
    serves_on(server, old)


def test_a_second_upgrade_and_a_reload_are_refused_meanwhile(server: Lineage) -> None:
    old = server.now
    hold, thread, said = start_held(server)
    assert "one is under way already" in server.refused()
    os.kill(old, signal.SIGHUP)
    server.wait_for_log("no reload: an upgrade is under way")
    os.kill(successor(server), signal.SIGTERM)
    thread.join(PATIENCE_S)
    assert "the new server ended" in said[0]
    hold.close()
    serves_on(server, old)


def test_sigterm_while_the_new_one_starts_ends_both(server: Lineage) -> None:
    hold, thread, said = start_held(server)
    assert server.stop() == 0
    eventually(lambda: not server.group(), hint=server.report)
    thread.join(PATIENCE_S)
    assert "stopped meanwhile" in said[0]
    hold.close()


def test_an_old_server_that_is_killed_meanwhile_is_replaced_all_the_same(server: Lineage) -> None:
    old = server.now
    hold, thread, said = start_held(server)
    server.send(signal.SIGKILL)
    thread.join(PATIENCE_S)
    assert "ended before it answered" in said[0]
    hold.release()
    eventually(lambda: server.now not in (0, old), hint=server.report)
    eventually(lambda: server.is_alone(server.now), hint=server.report)
    assert server.get("/").text == "version 2"
    server.wait_for_log(f"the old server (pid {old}) has left")


def test_a_new_server_killed_while_the_old_one_leaves(server: Lineage) -> None:
    hold = Hold(server.directory / "one")
    sock = server.connect()
    sock.sendall(REQUEST.replace(b"/ ", b"/hold/one ", 1))
    hold.wait()
    new = server.upgrade()
    os.kill(new, signal.SIGKILL)
    server.wait_for_log("the new server has gone; stopping gracefully")
    hold.release()
    response = http.client.HTTPResponse(sock)
    response.begin()
    assert (response.status, response.read()) == (200, b"version 1")
    assert response.will_close
    sock.close()
    eventually(lambda: not server.group(), hint=server.report)
    server.killed = True


def test_an_old_server_killed_while_it_leaves(server: Lineage) -> None:
    hold = Hold(server.directory / "one")
    sock = server.connect()
    sock.sendall(REQUEST.replace(b"/ ", b"/hold/one ", 1))
    hold.wait()
    server.write(2)
    new = server.upgrade()
    server.send(signal.SIGKILL)
    server.wait_for_log("the manager is gone")
    hold.release()
    response = http.client.HTTPResponse(sock)
    response.begin()
    assert (response.status, response.read()) == (200, b"version 1")
    sock.close()
    eventually(lambda: server.is_alone(new), hint=server.report)
    assert server.get("/").text == "version 2"


# --- socket activation ---------------------------------------------------------------------------

LAUNCHER = """
import os, socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
environ = {**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
print(listener.getsockname()[1], flush=True)
os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environ)
"""


def activate(server: Lineage, *program: str) -> None:
    """Start the server by another program, which is to replace itself by it."""
    command = [MAIN, "versioned:app", "--pid", server.pid_file, "--min-workers", "2"]
    with server.log_file.open("ab") as log:
        server._process = subprocess.Popen(
            [*program, *map(str, command)],
            cwd=server.directory,
            env=server.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def test_a_socket_of_somebody_else_is_served_and_survives_an_upgrade(prepare: Launch) -> None:
    server = prepare()
    activate(server, sys.executable, "-c", LAUNCHER)
    server.wait_until_ready()
    assert server.log().startswith(f"{server.address[1]}\n")
    connection = idle_connection(server)
    server.write(2)
    new = server.upgrade()
    eventually(lambda: server.is_alone(new), hint=server.report)
    assert ask(connection, "/").text == "version 2"
    connection.close()
    assert server.status()["server"]["binds"] == server.binds


ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
def test_systemd_socket_activate(prepare: Launch) -> None:
    server = prepare()
    path = server.directory / "app.socket"
    assert ACTIVATE is not None
    # It passes nothing of its environment on but what is named.
    passed = [f"--setenv={name}={value}" for name, value in server.environ.items()]
    activate(server, ACTIVATE, "--listen", str(path), *passed, sys.executable)
    server.wait_for_log("Listening on")
    # It starts the server when the first client comes; that one is answered by it.
    with contextlib.closing(UnixConnection(str(path))) as connection:
        assert ask(connection, "/").text == "version 1"
        server.write(2)
        new = server.upgrade()
        eventually(lambda: server.is_alone(new), hint=server.report)
        assert ask(connection, "/").text == "version 2"
    os.kill(new, signal.SIGTERM)
    eventually(lambda: not server.group(), hint=server.report)
    assert path.exists()  # it is systemd's


def test_what_is_inherited_and_not_asked_for_is_named(prepare: Launch) -> None:
    server = prepare()
    with server.log_file.open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, MAIN, "versioned:app", "--bind", "127.0.0.1:0"],
            cwd=server.directory,
            env=server.environ,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 2
    assert re.fullmatch(
        r"smart-http: error: inherited socket at http://127\.0\.0\.1:\d+, but --bind says"
        r" 127\.0\.0\.1:0; .*\n",
        done.stderr,
    )
