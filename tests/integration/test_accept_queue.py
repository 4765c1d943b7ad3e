"""What waits in the kernel's accept queue of a socket file is seen, counted and scaled for."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.integration.server_process import APPS, PATIENCE_S, Answer, Hold, UnixConnection, ask


@pytest.fixture(autouse=True)
def _needs_netlink() -> None:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).close()
    except OSError as error:
        pytest.skip(f"NETLINK_SOCK_DIAG is refused here: {error}")


class Caller(threading.Thread):
    """One request on a connection of its own."""

    def __init__(self, path: Path, target: str) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._target = target
        self.answer: Answer | None = None
        self.start()

    def run(self) -> None:
        """Ask."""
        connection = UnixConnection(str(self._path))
        try:
            self.answer = ask(connection, self._target)
        finally:
            connection.close()

    def status(self) -> int | None:
        """Wait for the answer; return its status."""
        self.join(PATIENCE_S)
        return self.answer.status if self.answer else None


def test_a_saturated_server_sees_the_queue_of_its_socket_file_and_grows(
    serve: Serve, hold: Hold, tmp_path: Path
) -> None:
    path = tmp_path / "web.sock"
    limits = ("--min-workers", "1", "--max-workers", "3", "--max-threads", "1", "--backlog", "64")
    bind = ("--bind", f"unix:{path}")
    server = serve("trouble:app", *limits, *bind, chdir=APPS, environ={"HOLD": str(hold.path)})
    callers = [Caller(path, "/hold") for _ in range(3)]
    server.eventually(lambda s: s["busy_threads"] == s["total"] == 3)
    callers += [Caller(path, "/") for _ in range(6)]
    status = server.eventually(lambda s: s["accept_queue"] == 6)
    assert status["server"]["backlog"] == [64]
    # Three of nine run, on the three threads there are; of the others only the kernel knows.
    assert server.eventually(lambda s: s["demand"] >= 9)["waiting"] == 6
    hold.release()
    assert [caller.status() for caller in callers] == [200] * 9
    server.eventually(lambda s: s["accept_queue"] == 0)
