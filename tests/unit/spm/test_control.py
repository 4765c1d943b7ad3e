from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spm import BootFailed, ControlError, ask, find
from spm.control import Answer, ControlServer, order_upgrade
from spm.discovery import default_path
from spm.scoreboard import Scoreboard
from spm.siblings import Inboxes
from spm.system import System


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    return process.pid


class Answering:
    """A control server in a loop of its own, on real descriptors."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer if answer is not None else {"total": 1}
        self.inboxes = Inboxes(1)
        self.system = System(
            lambda: (_ for _ in ()).throw(AssertionError),
            Scoreboard(1, 1),
            self.inboxes,
            preload=True,
            stale_ns=10**10,
        )
        self.orders: list[Answer] = []
        self.control = ControlServer(
            self.system, {"status": lambda: self.answer}, {"upgrade": self.orders.append}
        )
        self._posted: deque[Callable[[], object]] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def open(self, path: str | None) -> None:
        self.control.open(path)
        self.start_loop()

    def start_loop(self) -> None:
        self._thread.start()

    def _loop(self) -> None:
        while not self._over.is_set():
            self.system.wait(0.01)
            self.control.drop_late()
            while self._posted:
                self._posted.popleft()()

    def post(self, function: Callable[[], object]) -> None:
        """Have the loop call something."""
        self._posted.append(function)

    def close(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        self.control.close()
        self.system.close()
        self.inboxes.close()


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "run").mkdir()
    (tmp_path / "tmp").mkdir()
    return tmp_path / "run" / "smart-http"


Start = Callable[..., Answering]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Answering] = []

    def begin(path: Path | None = None, answer: object = None) -> Answering:
        server = Answering(answer)
        started.append(server)
        server.open(str(path) if path else None)
        return server

    yield begin
    for server in started:
        server.close()


# --- asking -------------------------------------------------------------------------------


def test_who_asks_for_the_status_gets_it(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "c.sock", {"total": 3})
    assert ask(tmp_path / "c.sock") == {"total": 3}
    assert ask(tmp_path / "c.sock") == {"total": 3}


def test_a_long_answer_arrives_whole(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "c.sock", ["x" * 1000] * 2000)
    assert ask(tmp_path / "c.sock") == ["x" * 1000] * 2000


def test_an_unknown_request_is_an_error(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "c.sock")
    with pytest.raises(ControlError, match="does not know 'nonsense'"):
        ask(tmp_path / "c.sock", "nonsense")


def test_no_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no server listens at"):
        ask(tmp_path / "c.sock")


def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "c.sock"))
        silent.listen()
        with pytest.raises(ControlError, match="does not answer"):
            ask(tmp_path / "c.sock", timeout_s=0.05)


def client(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(path))
    return sock


def test_a_request_may_come_in_pieces(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "c.sock")
    with client(tmp_path / "c.sock") as sock:
        for piece in (b"sta", b"tus", b"\n"):
            sock.sendall(piece)
        assert json.loads(sock.makefile().read()) == {"total": 1}


@pytest.mark.parametrize("request_bytes", [b"x" * 1000, b"\xff\xfe\n", b"\n", b"status status\n"])
def test_rubbish_is_answered_by_closing(start: Start, tmp_path: Path, request_bytes: bytes) -> None:
    start(tmp_path / "c.sock")
    with client(tmp_path / "c.sock") as sock:
        sock.sendall(request_bytes)
        try:
            assert sock.recv(10) == b""
        except ConnectionResetError:
            pass


def test_who_leaves_half_way_is_forgotten(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "c.sock")
    for _ in range(3):
        client(tmp_path / "c.sock").close()
    # The loop handles events in their order, so these are gone when it has answered.
    assert ask(tmp_path / "c.sock") == {"total": 1}
    crowd = [client(tmp_path / "c.sock") for _ in range(7)]
    assert ask(tmp_path / "c.sock") == {"total": 1}
    for sock in crowd:
        sock.close()
    server.close()
    assert not server.control.busy


def test_who_neither_asks_nor_reads_is_dropped_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spm.control._PATIENCE_S", 0.02)
    server = Answering()
    server.open(str(tmp_path / "c.sock"))
    try:
        with client(tmp_path / "c.sock") as sock:
            assert sock.recv(10) == b""
    finally:
        server.close()


def test_no_more_than_a_few_are_served_at_once(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "c.sock")
    crowd = [client(tmp_path / "c.sock") for _ in range(8)]
    with client(tmp_path / "c.sock") as one_too_many:
        assert one_too_many.recv(10) == b""
    for sock in crowd:
        sock.sendall(b"status\n")
        assert json.loads(sock.makefile().read()) == {"total": 1}
        sock.close()


# --- what takes its time ------------------------------------------------------------------------


def ordered(server: Answering) -> Answer:
    """Wait until an order has come; return what takes its answer."""
    for _ in range(1000):
        if server.orders:
            return server.orders.pop()
        threading.Event().wait(0.01)
    raise AssertionError("no order has come")


def test_an_order_is_answered_when_it_is_done_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spm.control._PATIENCE_S", 0.02)
    server = Answering()
    server.open(str(tmp_path / "c.sock"))
    pids: list[int] = []
    waiting = threading.Thread(target=lambda: pids.append(order_upgrade(tmp_path / "c.sock")))
    waiting.start()
    answer = ordered(server)
    for _ in range(5):  # each takes longer than a client that only reads would be given
        with client(tmp_path / "c.sock") as sock:
            assert sock.recv(10) == b""
    assert not server.control.busy
    server.post(lambda: answer({"ok": True, "pid": 17}))
    waiting.join(10)
    assert pids == [17]
    server.close()


def test_an_order_that_fails_says_why(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "c.sock")
    errors: list[str] = []

    def order() -> None:
        with pytest.raises(ControlError) as caught:
            order_upgrade(tmp_path / "c.sock")
        errors.append(str(caught.value))

    waiting = threading.Thread(target=order)
    waiting.start()
    answer = ordered(server)
    server.post(lambda: answer({"ok": False, "why": "a reload is under way"}))
    waiting.join(10)
    assert errors == ["no upgrade: a reload is under way"]


def test_a_server_that_ends_before_it_has_answered_is_said_so(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "c.sock")
    errors: list[str] = []

    def order() -> None:
        with pytest.raises(ControlError) as caught:
            order_upgrade(tmp_path / "c.sock")
        errors.append(str(caught.value))

    waiting = threading.Thread(target=order)
    waiting.start()
    ordered(server)
    server.close()
    waiting.join(10)
    assert "ended before it answered" in errors[0]


def test_who_does_not_wait_for_the_answer_is_forgotten(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "c.sock")
    with client(tmp_path / "c.sock") as sock:
        sock.sendall(b"upgrade\n")
        answer = ordered(server)
        sock.sendall(b"and more\n")
        assert ask(tmp_path / "c.sock") == {"total": 1}
    # The loop handles events in their order, so it is gone when this one is answered.
    assert ask(tmp_path / "c.sock") == {"total": 1}
    server.post(lambda: answer({"ok": True, "pid": 1}))
    assert ask(tmp_path / "c.sock") == {"total": 1}


# --- the file --------------------------------------------------------------------------------


def test_the_socket_is_ours_alone_and_goes_with_the_server(
    start: Start, runtime_directory: Path
) -> None:
    server = start()
    path = runtime_directory / f"{os.getpid()}.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(runtime_directory.stat().st_mode) == 0o700
    server.close()
    assert not path.exists()


def test_a_directory_open_to_others_is_closed_to_them(runtime_directory: Path) -> None:
    runtime_directory.mkdir(mode=0o777)
    default_path()
    assert stat.S_IMODE(runtime_directory.stat().st_mode) == 0o700


def test_a_symbolic_link_in_the_place_of_the_directory_is_not_followed(
    runtime_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    runtime_directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ControlError, match="is not a directory of ours"):
        default_path()


def test_without_a_runtime_directory_the_temporary_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    expected = tmp_path / "tmp" / f"smart-http-{os.getuid()}" / f"{os.getpid()}.sock"
    assert default_path() == expected


def test_without_any_place_the_server_serves_without_status(
    runtime_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime_directory.write_text("in the way")
    server = Answering()
    server.open(None)
    server.close()
    assert "no control socket" in caplog.text


def test_a_place_that_was_asked_for_and_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    server = Answering()
    with pytest.raises(BootFailed, match="control socket"):
        server.open(str(tmp_path / "nowhere" / "c.sock"))
    server.close()


def test_a_place_where_somebody_listens_is_an_error(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "c.sock")
    with pytest.raises(BootFailed, match="in use"):
        start(tmp_path / "c.sock")
    assert ask(tmp_path / "c.sock") == {"total": 1}


def test_the_place_of_a_server_that_is_replaced_is_taken_over(start: Start, tmp_path: Path) -> None:
    old = start(tmp_path / "c.sock", {"total": 1})
    new = Answering({"total": 2})
    new.control.open(str(tmp_path / "c.sock"), replace=True)
    new.start_loop()
    old.close()
    assert ask(tmp_path / "c.sock") == {"total": 2}
    new.close()
    assert not (tmp_path / "c.sock").exists()


def leftover(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_leftovers_of_the_dead_are_removed_and_the_living_are_left_alone(
    start: Start, runtime_directory: Path
) -> None:
    dead = runtime_directory / f"{dead_pid()}.sock"
    leftover(dead)
    about_to_listen = runtime_directory / "1.sock"
    leftover(about_to_listen)
    leftover(runtime_directory / f"{os.getpid()}.sock")
    start()
    assert not dead.exists()
    assert about_to_listen.exists()
    assert ask(find()) == {"total": 1}


def test_a_successors_socket_is_not_removed(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "c.sock")
    (tmp_path / "c.sock").unlink()
    leftover(tmp_path / "c.sock")
    server.close()
    assert (tmp_path / "c.sock").exists()


# --- finding -------------------------------------------------------------------------------------


def status_with(*binds: str) -> dict[str, Any]:
    return {"server": {"binds": list(binds)}}


def another(runtime_directory: Path, number: int) -> Path:
    runtime_directory.mkdir(mode=0o700, exist_ok=True)
    return runtime_directory / f"{number}.sock"


def test_the_only_server_is_found(start: Start, runtime_directory: Path) -> None:
    start()
    assert find() == str(runtime_directory / f"{os.getpid()}.sock")
    assert find(pid=os.getpid()) == find()


def test_a_path_is_taken_as_it_is() -> None:
    assert find(control="/somewhere/c.sock") == "/somewhere/c.sock"


def test_a_server_is_found_by_its_pid_file(start: Start, tmp_path: Path) -> None:
    start()
    (tmp_path / "a.pid").write_text(f"{os.getpid()}\n")
    assert find(pid_file=str(tmp_path / "a.pid")) == find()


def test_no_server_is_said_so() -> None:
    with pytest.raises(ControlError, match="no server of this user is running"):
        find()


def test_a_process_that_is_no_server_is_said_so() -> None:
    for pid in (os.getppid(), dead_pid()):
        with pytest.raises(ControlError, match=f"process {pid} is not a server of ours"):
            find(pid=pid)


def test_a_pid_file_that_does_not_help_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    with pytest.raises(ControlError, match="there is none"):
        find(pid_file=str(path))
    path.write_text("rubbish")
    with pytest.raises(ControlError, match="no pid in it"):
        find(pid_file=str(path))
    pid = dead_pid()
    path.write_text(f"{pid}\n")
    with pytest.raises(ControlError, match=f"process {pid} has ended"):
        find(pid_file=str(path))
    with pytest.raises(ControlError, match="Is a directory"):
        find(pid_file=str(tmp_path))


@pytest.mark.parametrize("bind", ["127.0.0.1:8001", "8001", ":8001", "http://127.0.0.1:8001/"])
def test_one_of_several_is_found_by_its_address(
    start: Start, runtime_directory: Path, bind: str
) -> None:
    start(another(runtime_directory, 101), status_with("127.0.0.1:8001"))
    start(another(runtime_directory, 102), status_with("[::1]:8002", "unix:/run/app.sock"))
    assert find(bind=bind) == str(runtime_directory / "101.sock")
    assert find(bind="unix:/run/app.sock") == str(runtime_directory / "102.sock")


def test_of_two_that_replace_each_other_the_new_one_is_found(
    start: Start, runtime_directory: Path
) -> None:
    leaving = {**status_with("127.0.0.1:8001"), "upgrade": "leaving"}
    start(another(runtime_directory, 101), leaving)
    assert find() == str(runtime_directory / "101.sock")  # there is no other
    start(another(runtime_directory, 102), {**status_with("127.0.0.1:8001"), "upgrade": "idle"})
    assert find() == str(runtime_directory / "102.sock")
    assert find(bind=":8001") == str(runtime_directory / "102.sock")


def test_several_are_listed_with_their_addresses(start: Start, runtime_directory: Path) -> None:
    start(another(runtime_directory, 101), status_with("127.0.0.1:8001"))
    start(another(runtime_directory, 102), status_with("127.0.0.1:8002"))
    with pytest.raises(ControlError, match="several servers") as caught:
        find()
    assert "pid 101: 127.0.0.1:8001" in str(caught.value)
    assert "pid 102: 127.0.0.1:8002" in str(caught.value)


def test_an_address_where_no_server_is_lists_those_there_are(
    start: Start, runtime_directory: Path
) -> None:
    start(another(runtime_directory, 101), status_with("127.0.0.1:8001"))
    with pytest.raises(ControlError, match="no server is running at") as caught:
        find(bind="127.0.0.1:9")
    assert "pid 101: 127.0.0.1:8001" in str(caught.value)
