"""Large contents are checked once by their checksum, and then counted."""

from __future__ import annotations

import itertools
import socket
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import pytest
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from benchmarks import apps, canned, payload
from benchmarks.cores import Cores
from benchmarks.processes import ServerError, probe
from benchmarks.runner import Plan, run
from benchmarks.sample import Sample
from benchmarks.scenarios import POSTED, SCENARIOS
from benchmarks.servers import OURS, SERVERS
from benchmarks.transfer_load import Task
from benchmarks.transfer_load import run as transfer
from tests.unit.benchmarks.local_server import answering, read_head, served

if TYPE_CHECKING:
    from benchmarks.scenarios import Scenario

BYTES = 300_000
CONTENT = b"".join(apps.content(BYTES))
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def download(**changes: object) -> Scenario:
    return replace(BY_NAME["large"], download_bytes=BYTES, **changes)  # type: ignore[arg-type]


# -- contents and applications ----------------------------------------------------------------


def test_content_has_its_length_and_no_two_neighbours_that_are_equal() -> None:
    blocks = list(apps.content(BYTES))
    assert sum(map(len, blocks)) == BYTES
    assert all(one != other for one, other in itertools.pairwise(blocks))
    assert payload.checksum(BYTES) == zlib.crc32(CONTENT)


def test_the_large_answer_is_the_content() -> None:
    assert Client(apps.large).get("/").data == b"".join(apps.content(apps.LARGE_BYTES))


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapper", "iterator"])
def test_a_file_is_sent_with_and_without_a_wrapper(
    wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps, "FILE_BYTES", BYTES)
    monkeypatch.setenv(apps.FILE_VARIABLE, __file__)
    environ = EnvironBuilder().get_environ()
    used = []

    def wrapper(opened: IO[bytes], size: int) -> Iterator[bytes]:
        used.append(size)
        with opened:
            yield opened.read()

    if wrapped:
        environ["wsgi.file_wrapper"] = wrapper
    else:
        environ.pop("wsgi.file_wrapper", None)
    body, _, _ = run_wsgi_app(apps.file, environ)
    with open(__file__, "rb") as this:
        assert b"".join(body) == this.read()
    assert bool(used) is wrapped


@pytest.mark.parametrize(
    ("path", "answer"),
    [("/", b"300000"), (apps.CHECK_PATH, b"300000 %08x" % zlib.crc32(CONTENT))],
)
def test_an_upload_is_counted_and_where_asked_for_summed(path: str, answer: bytes) -> None:
    assert Client(apps.upload).post(path, data=CONTENT).data == answer


def test_flask_echoes_what_is_posted_byte_for_byte() -> None:
    from benchmarks.flask_app import app

    assert len(POSTED) == 1024
    response = app.test_client().post("/echo", data=POSTED, content_type="application/json")
    assert (response.status_code, response.data) == (200, POSTED)


# -- the probe --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (CONTENT, ""),
        (CONTENT[:-1] + b"?", "checksum"),
        (CONTENT[:-1], "answered 299999 bytes"),
    ],
    ids=["right", "changed", "short"],
)
def test_a_large_answer_is_right_or_not(sent: bytes, complaint: str) -> None:
    outcome = pytest.raises(ServerError, match=complaint) if complaint else nullcontext()
    with served(answering(ANSWER % len(sent) + sent)) as (_, port), outcome:
        probe(port, download())


@pytest.mark.parametrize("answers", [16, 1])
def test_requests_that_come_together_are_all_to_be_answered(answers: int) -> None:
    def answer(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(canned.KEPT * answers)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65536)

    complaint = pytest.raises(ServerError, match="1 of 16") if answers == 1 else nullcontext()
    with served(answer) as (_, port), complaint:
        probe(port, BY_NAME["pipelined"])


# -- the generator ----------------------------------------------------------------------------


def task(port: int, **changes: object) -> Task:
    return replace(Task(port, "GET", "/", 0, BYTES), **changes)  # type: ignore[arg-type]


def test_whole_transfers_are_counted() -> None:
    with served(answering(ANSWER % BYTES + CONTENT)) as (_, port):
        seen = transfer(task(port), 2, 0.05)
    assert seen.requests >= 2
    assert seen.rate > 0
    assert 0 < seen.p50_us <= seen.p90_us <= seen.p99_us
    assert seen.errors == {}


def test_an_upload_is_sent_as_a_whole() -> None:
    lengths = []

    def take(sock: socket.socket) -> None:
        while read_head(sock):
            left = BYTES
            while left and (data := sock.recv(min(left, 65536))):
                left -= len(data)
            lengths.append(BYTES - left)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n300000")

    with served(take) as (_, port):
        seen = transfer(task(port, method="POST", upload_bytes=BYTES, download_bytes=0), 1, 0.05)
    assert seen.errors == {}
    assert lengths == [BYTES] * seen.requests


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", "answered b'HTTP/1.1 413"),
        (ANSWER % 5 + b"short", "announced 5 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "answered b'HTTP"),
    ],
)
def test_an_answer_that_is_not_right_is_an_error(answer: bytes, error: str) -> None:
    with served(answering(answer)) as (_, port):
        seen = transfer(task(port), 1, 0.05)
    assert seen.requests == 0
    assert any(error in what for what in seen.errors)


def test_a_connection_that_the_server_closes_is_made_anew() -> None:
    def once(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    with served(once) as (_, port):
        seen = transfer(task(port, download_bytes=2), 1, 0.05)
    assert seen.requests >= 2
    assert seen.errors == {}


def test_the_module_measures_this_server() -> None:
    ours = next(server for server in SERVERS if server.name == OURS)
    samples: list[Sample] = []
    plan = Plan([BY_NAME["large"]], [ours], rounds=1, seconds=0.1, warm_up_s=0)
    run(plan, Cores(None, None), print, samples)
    assert samples[0].failure == ""
    assert samples[0].errors == 0
    assert samples[0].figures["mb_s"] > 0


# -- the canned loop --------------------------------------------------------------------------


def test_the_canned_loop_answers_every_request_of_a_batch() -> None:
    answer = canned.answerer_of_all()
    mine, its = socket.socketpair()
    with mine, its:
        connections = {its.fileno(): its}
        mine.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3 + b"GET / HT")
        answer(connections, its.fileno())
        assert mine.recv(65536) == canned.KEPT * 3
        mine.sendall(b"TP/1.1\r\n\r\nG")
        answer(connections, its.fileno())
        assert mine.recv(65536) == canned.KEPT
        mine.sendall(b"ET / HTTP/1.1\r\n\r\n")
        answer(connections, its.fileno())
        assert mine.recv(65536) == canned.KEPT
        mine.shutdown(socket.SHUT_WR)
        answer(connections, its.fileno())
        assert connections == {}
