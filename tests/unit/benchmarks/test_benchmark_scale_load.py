"""What the scale curves send, and the applications that answer."""

from __future__ import annotations

import io
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks import scale_apps
from benchmarks.scale_load import changing_script, fields, post_script
from benchmarks.scale_transfer import Ask, TransferError, transfer
from tests.unit.benchmarks.local_server import read_head, served

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment


@pytest.mark.parametrize("count", [1, 3, 100])
def test_fields_are_as_many_as_said_with_host(count: int) -> None:
    assert len({name for name, _ in fields(count)}) == count - 1


def test_a_changing_field_is_the_last_of_all() -> None:
    script = changing_script("/here", 3)
    sent = next(line for line in script.splitlines() if "return" in line)
    assert sent.count("\\r\\n") == 5  # request line, three fields, the empty line
    assert '"GET /here HTTP/1.1\\r\\nHost: ' in sent
    assert ".. count .." in sent


def test_post_script_says_how_large_the_body_is() -> None:
    assert 'string.rep("x", 1000)' in post_script(1000)


# -- transfers --------------------------------------------------------------------------------


def answers(*pieces: bytes, size: int = 0, times: int = 2) -> list[bytes]:
    """Serve `times` requests with bodies of `size` bytes; return the heads that came."""
    heads: list[bytes] = []

    def handler(sock: socket.socket) -> None:
        for _ in range(times):
            head = read_head(sock)
            if not head:
                return
            heads.append(bytes(head))
            left = size - len(bytes(head).partition(b"\r\n\r\n")[2])
            while left > 0:
                left -= len(sock.recv(65536))
            for piece in pieces:
                sock.sendall(piece)

    with served(handler) as (_, port):
        said = pieces[-1] if len(pieces) > 1 else b""
        ask = Ask("/x", sends=size, answers=len(said), expected=said)
        assert transfer(port, ask, 0.0, 2).requests == 2  # one on each connection
    return heads


def test_a_transfer_ends_with_whole_answers() -> None:
    heads = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok")
    assert all(head.startswith(b"GET /x HTTP/1.1\r\n") for head in heads)


def test_a_transfer_sends_its_body() -> None:
    heads = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok", size=300_000)
    assert all(b"Content-Length: 300000\r\n" in head for head in heads)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "3 bytes instead of 2"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", "closed before the end"),
    ],
)
def test_a_wrong_answer_ends_a_transfer(answer: bytes, said: str) -> None:
    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer)

    with served(handler) as (_, port), pytest.raises(TransferError, match=said):
        transfer(port, Ask("/", answers=2, expected=b"ok"), 0.0, 1)


# -- applications -----------------------------------------------------------------------------


def call(app: WSGIApplication, **environ: object) -> bytes:
    started: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> object:
        started.append(status)
        return None

    content = b"".join(app(_environ(environ), start_response))  # type: ignore[arg-type]
    assert started == ["200 OK"]
    return content


def _environ(environ: dict[str, object]) -> WSGIEnvironment:
    return dict(environ)


def test_body_is_as_long_as_asked() -> None:
    assert call(scale_apps.body, QUERY_STRING="1000") == b"x" * 1000
    assert call(scale_apps.body) == b""


def test_upload_counts_what_it_reads() -> None:
    content = io.BytesIO(bytes(100_000))
    sent = {"CONTENT_LENGTH": "100000", "wsgi.input": content}
    assert call(scale_apps.upload, **sent) == b"100000"
    assert call(scale_apps.upload, **{"wsgi.input": content}) == b"0"


def test_compute_answers() -> None:
    assert call(scale_apps.compute) == scale_apps.COMPUTED_BODY


def test_a_forked_process_knows_when_it_was() -> None:
    out, into = os.pipe()
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    pid = os.fork()
    if not pid:
        os.write(into, scale_apps.born().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told_s = float(os.read(out, 100))
    os.close(out)
    os.close(into)
    assert before_s <= told_s + 1e-6 <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_process_that_was_not_forked_knows_it_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale_apps, "_forked_at_s", 0.0)
    assert 0.0 < float(scale_apps.born()) <= time.clock_gettime(time.CLOCK_BOOTTIME)
