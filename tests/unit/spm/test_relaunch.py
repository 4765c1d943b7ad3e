"""Starting this server once more: with what, from where, and what the new one finds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spm.bridge import bridge_pair, news_packet
from spm.events import SuccessorEnded
from spm.exit_status import ExitStatus
from spm.relaunch import BRIDGE_VARIABLE, Command, Inheritance, take_inheritance
from spm.scoreboard import Scoreboard
from spm.siblings import Inboxes
from spm.system import System

PATIENCE_S = 30.0
ROOT = Path(__file__).resolve().parents[3]

# A new server that only says what it has got.
HEIR = """
import json, os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from spm.relaunch import take_inheritance
listen = {name: os.environ[name] for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
heritage = take_inheritance(os.environ)
inodes = [os.fstat(fd).st_ino for fd in range(3, 3 + int(listen["LISTEN_FDS"]))]
bridge = socket.socket(fileno=heritage.bridge)
bridge.send(json.dumps({
    "pid": os.getpid(),
    "listen": listen,
    "inodes": inodes,
    "bridge": heritage.bridge,
    "inheritable": bridge.get_inheritable(),
    "predecessor": heritage.predecessor,
    "workers": heritage.workers,
    "left": "SMART_HTTP_BRIDGE" in os.environ,
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    "directory": os.getcwd(),
    "word": os.environ["WORD"],
    "arguments": sys.argv[2:],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
}).encode())
bridge.recv(1)
"""


@pytest.fixture
def machine() -> Iterator[System]:
    inboxes = Inboxes(1)
    system = System(
        lambda: (_ for _ in ()).throw(AssertionError),
        Scoreboard(1, 1),
        inboxes,
        preload=True,
        stale_ns=10**10,
    )
    system.open()
    yield system
    system.close()
    inboxes.close()


def inheritable() -> set[int]:
    """Return the descriptors that any program gets that is started from here."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.add(int(name))
        except OSError:  # that of the directory itself
            continue
    return found


def ended(machine: System) -> SuccessorEnded:
    for _ in range(300):
        for event in machine.wait(0.1):
            if isinstance(event, SuccessorEnded):
                return event
    raise AssertionError("it has not ended")


def test_sockets_and_bridge_are_in_their_places_and_nothing_else(
    machine: System, tmp_path: Path
) -> None:
    arguments = [sys.executable, "-c", HEIR, str(ROOT), "--port", "0"]
    environ = {**os.environ, "WORD": "given"}
    command = Command(sys.executable, arguments, str(tmp_path), environ)
    listeners = [socket.socket() for _ in range(3)]
    # In the reverse order of their numbers, so that places and sources overlap.
    sockets = [(each.fileno(), f"n{index}") for index, each in enumerate(reversed(listeners))]
    ours, theirs = bridge_pair()
    ours.settimeout(PATIENCE_S)
    pid = machine.start_successor(command, sockets, theirs, 4)
    theirs.close()
    said: dict[str, Any] = json.loads(ours.recv(1 << 16))
    assert said["pid"] == pid
    expected = {"LISTEN_PID": str(pid), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "n0:n1:n2"}
    assert said["listen"] == expected
    assert said["inodes"] == [os.fstat(fd).st_ino for fd, _ in sockets]
    assert (said["bridge"], said["inheritable"]) == (6, False)
    assert (said["predecessor"], said["workers"]) == (os.getpid(), 4)
    assert not said["left"]
    # Its standard streams, what was passed, the directory it reads this from; and what this
    # process has got from whoever runs the tests.
    assert set(said["open"]) - inheritable() == {0, 1, 2, 3, 4, 5, 6, 7} - inheritable()
    assert said["directory"] == str(tmp_path)
    assert (said["word"], said["arguments"]) == ("given", ["--port", "0"])
    assert said["blocked"] == []
    assert said["term"]
    machine.signal_successor(signal.SIGTERM)
    assert ended(machine).status == ExitStatus(signal=signal.SIGTERM)
    ours.close()
    for each in listeners:
        each.close()


def test_a_program_that_is_not_there_is_told_over_the_bridge(machine: System) -> None:
    command = Command("/nowhere/python", ["/nowhere/python"], "/", {})
    ours, theirs = bridge_pair()
    ours.settimeout(PATIENCE_S)
    machine.start_successor(command, [], theirs, 1)
    theirs.close()
    why = "/nowhere/python could not be started: [Errno 2] No such file or directory"
    received = ours.recv(1 << 16)
    assert received.startswith(news_packet({"news": "failed", "why": why})[:-2])
    assert ended(machine).status == ExitStatus(status=127)
    machine.signal_successor(signal.SIGTERM)  # nobody is there any more
    ours.close()


def test_a_directory_that_is_gone_is_told_as_well(machine: System, tmp_path: Path) -> None:
    command = Command(sys.executable, [sys.executable], str(tmp_path / "gone"), {})
    ours, theirs = bridge_pair()
    ours.settimeout(PATIENCE_S)
    machine.start_successor(command, [], theirs, 1)
    theirs.close()
    assert b"No such file or directory" in ours.recv(1 << 16)
    assert ended(machine).status == ExitStatus(status=127)
    ours.close()


@pytest.mark.parametrize("said", ["", "5", "1:2:3:x", f"{os.getpid()}:-1:1:1", "1:5:1:1", "::::"])
def test_what_is_not_for_us_is_not_taken_and_not_passed_on(said: str) -> None:
    environ = {BRIDGE_VARIABLE: said}
    assert take_inheritance(environ) is None
    assert environ == {}


def test_an_inheritance_is_taken_once() -> None:
    with socket.socket() as sock:
        fd = sock.fileno()
        environ = {BRIDGE_VARIABLE: f"{os.getpid()}:{fd}:17:3"}
        assert take_inheritance(environ) == Inheritance(fd, 17, 3)
        assert take_inheritance(environ) is None


def command_of(directory: Path, **environ: str) -> dict[str, Any]:
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        " from spm.relaunch import Command;"
        " print(json.dumps(Command.of_this_process({'MORE': 'x'})._asdict()))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, str(ROOT), "--bind", ":1"],
        cwd=directory,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_command_is_the_one_that_was_typed(tmp_path: Path) -> None:
    command = command_of(tmp_path, PWD="/")
    assert command["program"] == sys.executable
    arguments = command["arguments"]
    assert arguments[:4] == [sys.executable, "-X", "utf8", "-c"]
    assert arguments[-2:] == ["--bind", ":1"]
    assert command["environ"]["MORE"] == "x"
    assert command["directory"] == os.path.realpath(tmp_path)


def test_a_directory_is_named_as_the_user_sees_it(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "release")
    assert command_of(link, PWD=str(link))["directory"] == str(link)
    for wrong in ("", ".", "/nowhere", str(tmp_path)):
        real = os.path.realpath(tmp_path / "release")
        assert command_of(link, PWD=wrong)["directory"] == real
