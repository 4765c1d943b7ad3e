"""The kind `start`: waiting for a first answer, and for a worker's replacement."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from app import app
from benchmarks.processes import ServerError
from benchmarks.start import BODY, PATH, PROCESS_PATH, first_answer, replacement_s
from tests.unit.benchmarks.local_server import answering, read_head, served

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is ended."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield process
        process.kill()


def answer_one(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        read_head(sock)
        sock.sendall(HELLO)


def test_the_first_answer_is_waited_for(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # which refuses until it listens
        server = threading.Thread(target=answer_one, args=(listener,))

        def pause(pause_s: float) -> None:
            pauses.append(pause_s)
            if len(pauses) == 3:
                listener.listen()
                server.start()

        monkeypatch.setattr("benchmarks.start.time.sleep", pause)
        answer = first_answer(listener.getsockname()[1], child)
        server.join()
    assert (answer.status, answer.start, len(pauses)) == (200, b"hello", 3)


def test_a_server_that_ends_before_it_answers_is_an_error(child: subprocess.Popen[bytes]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        child.kill()
        with pytest.raises(ServerError, match="ended before it answered"):
            first_answer(listener.getsockname()[1], child)


def test_a_first_answer_that_is_none_is_an_error(child: subprocess.Popen[bytes]) -> None:
    with (
        served(answering(b"nonsense\r\n\r\n")) as (_, port),
        pytest.raises(ServerError, match="no answer: not a status line"),
    ):
        first_answer(port, child)


def test_a_worker_is_killed_and_its_replacement_waited_for(child: subprocess.Popen[bytes]) -> None:
    def handler(sock: socket.socket) -> None:
        read_head(sock)
        pid = child.pid if child.poll() is None else os.getpid()
        body = json.dumps({"pid": pid}).encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with served(handler) as (_, port):
        assert replacement_s(port) > 0
    assert child.returncode == -signal.SIGKILL


def test_a_server_without_a_replacement_is_an_error(child: subprocess.Popen[bytes]) -> None:
    body = json.dumps({"pid": child.pid}).encode()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        if child.poll() is None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with served(handler) as (_, port), pytest.raises(ServerError, match="no other worker"):
        replacement_s(port)


def test_the_demo_application_answers_what_is_expected() -> None:
    client = app.test_client()
    assert client.get(PATH).data == BODY
    assert "pid" in json.loads(client.get(PROCESS_PATH).data)
