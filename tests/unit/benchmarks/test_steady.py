"""The client of `mixed`: what it asks, and what counts for how long."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from benchmarks.steady import Client, Question, Window
from tests.unit.benchmarks.local_server import answering, read_all, read_head, served

QUICK_BODY, SLOW_BODY = b"quick", b"slow one"
SECONDS = 0.2
RATE = 200.0
DUE = 40  # requests at RATE in SECONDS
WAYS = ("at a rate", "in turn")


def answer(body: bytes, *fields: bytes) -> bytes:
    head = (b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields)
    return b"\r\n".join(head) + b"\r\n\r\n" + body


QUICK, SLOW = answer(QUICK_BODY), answer(SLOW_BODY)


def client(address: tuple[str, int], connections: int = 2, patience_s: float = 10.0) -> Client:
    quick, slow = Question("/", QUICK_BODY), Question("/slow", SLOW_BODY)
    return Client(address, connections, quick, slow, patience_s=patience_s)


def ask(client: Client, way: str, slow_every: int = 0) -> Window:
    if way == "at a rate":
        return client.at_rate(RATE, SECONDS, slow_every)
    return client.in_turn(SECONDS, slow_every)


def by_path(sock: socket.socket) -> None:
    while head := read_head(sock):
        sock.sendall(SLOW if head.startswith(b"GET /slow ") else QUICK)


def test_requests_are_asked_by_the_timetable() -> None:
    with served(answering(QUICK)) as address, client(address) as asking:
        window = asking.at_rate(RATE, SECONDS)
    assert (len(window.quick_ns), window.slow_ns, window.errors) == (DUE, [], 0)
    assert min(window.quick_ns) > 0
    assert window.rate == pytest.approx(DUE / window.seconds)


@pytest.mark.parametrize("way", WAYS)
def test_every_so_manieth_request_is_slow(way: str) -> None:
    with served(by_path) as address, client(address) as asking:
        window = ask(asking, way, slow_every=4)
        alone = ask(asking, way)
    assert window.errors == 0
    assert len(window.slow_ns) == (len(window.quick_ns) + len(window.slow_ns)) // 4 > 0
    assert alone.slow_ns == []
    assert alone.quick_ns


def test_every_connection_is_used_at_a_rate() -> None:
    asked: list[int] = []

    def handler(sock: socket.socket) -> None:
        while read_head(sock):
            asked.append(sock.getpeername()[1])
            sock.sendall(QUICK)

    with served(handler) as address, client(address, connections=8) as asking:
        asking.at_rate(RATE, SECONDS)
    assert {asked.count(port) for port in asked} == {DUE // 8}


def test_a_busy_connection_is_passed_over() -> None:
    over = threading.Event()

    def handler(sock: socket.socket) -> None:
        while head := read_head(sock):
            if head.startswith(b"GET /slow "):
                over.wait(10.0)
                sock.sendall(SLOW)
            else:
                sock.sendall(QUICK)

    with served(handler) as address, client(address) as asking:
        timer = threading.Timer(SECONDS, over.set)
        timer.start()
        window = asking.at_rate(RATE, SECONDS, slow_every=DUE - 10)
        timer.join()
    assert (len(window.quick_ns), len(window.slow_ns), window.errors) == (DUE - 1, 1, 0)


def test_a_request_that_finds_no_free_connection_counts_from_when_it_was_due() -> None:
    pause_s = 0.15
    paused = threading.Event()

    def handler(sock: socket.socket) -> None:
        while read_head(sock):
            if not paused.is_set():
                paused.set()
                time.sleep(pause_s)
            sock.sendall(QUICK)

    with served(handler) as address, client(address, connections=1) as asking:
        window = asking.at_rate(RATE, SECONDS)
    assert len(window.quick_ns) == DUE
    # 30 requests were due in the pause; half of them waited for half of it.
    assert sum(duration >= pause_s / 2 * 1e9 for duration in window.quick_ns) >= 15


def test_an_answer_may_come_in_pieces() -> None:
    def handler(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while read_head(sock):
            for byte in QUICK:
                sock.sendall(bytes((byte,)))

    with served(handler) as address, client(address) as asking:
        window = asking.at_rate(RATE, SECONDS)
    assert (len(window.quick_ns), window.errors) == (DUE, 0)


def closes_after_each(sock: socket.socket) -> None:
    read_head(sock)
    sock.sendall(answer(QUICK_BODY, b"Connection: close"))


def closes_when_idle(sock: socket.socket) -> None:
    read_head(sock)
    sock.sendall(QUICK)


@pytest.mark.parametrize("way", WAYS)
def test_an_announced_end_is_no_error(way: str) -> None:
    with served(closes_after_each) as address, client(address) as asking:
        window = ask(asking, way)
    assert window.errors == 0
    assert len(window.quick_ns) > 2


def test_a_connection_that_was_closed_while_it_was_free_is_replaced() -> None:
    with served(closes_when_idle) as address, client(address, connections=4) as asking:
        window = asking.at_rate(RATE / 4, SECONDS)
    assert (len(window.quick_ns), window.errors) == (DUE // 4, 0)


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        (answer(b"other"), "other"),
        (QUICK.replace(b"200 OK", b"503 No"), "503"),
        (b"nonsense\r\n\r\n", "nonsense"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_wrong_answers_are_errors(way: str, said: bytes, noted: str) -> None:
    with served(answering(said)) as address, client(address) as asking:
        window = ask(asking, way)
    assert window.errors == len(window.quick_ns) > 0
    assert noted in window.noted[0]


def test_a_closed_connection_is_an_error_if_an_answer_is_owed() -> None:
    def handler(sock: socket.socket) -> None:
        read_head(sock)

    with served(handler) as address, client(address) as asking:
        window = asking.at_rate(RATE, SECONDS)
    assert window.errors == len(window.quick_ns) == DUE
    assert "closed without an answer" in window.noted[0]


@pytest.mark.parametrize(("way", "asked"), [("at a rate", DUE), ("in turn", 2)])
def test_requests_that_are_never_answered_are_errors(way: str, asked: int) -> None:
    def silent(sock: socket.socket) -> None:
        read_all(sock)

    with served(silent) as address, client(address, patience_s=0.1) as asking:
        window = ask(asking, way)
    assert window.errors == len(window.quick_ns) == asked
    assert window.quick_us(1.0) >= SECONDS / 2 * 1e6


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        client(address)
