"""The demo application behind the real server: every route, as a client sees it."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import threading
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pytest

from tests.integration.conftest import Serve
from tests.integration.server_process import PATIENCE_S, ServerProcess, ask, eventually

LARGE = bytes(range(256)) * (5 * 4096)  # 5 MB


@pytest.fixture(scope="module")
def server(serve_all: Serve) -> ServerProcess:
    return serve_all("app:app", "--min-workers", "2", "--max-workers", "2")


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[http.client.HTTPConnection]:
    connection = server.connection()
    yield connection
    connection.close()


def measured(content: bytes) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_page_has_a_link_to_every_route(server: ServerProcess) -> None:
    page = server.get("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert int(page.headers["content-length"]) == len(page.body)
    assert "<h1>It works.</h1>" in page.text
    for href in re.findall(r'href="([^"]+)"', page.text):
        status = server.get(href.replace("&amp;", "&")).status
        assert (href, status) == (href, 500 if href == "/error" else 200)


def test_json_is_json_with_date_and_length(server: ServerProcess) -> None:
    answer = server.get("/json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body)["message"] == "Hello, World!"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert parsedate_to_datetime(answer.headers["date"]).tzinfo is not None
    assert "connection" not in answer.headers


def test_head_has_the_headers_of_get_and_no_content(
    server: ServerProcess, connection: http.client.HTTPConnection
) -> None:
    head = ask(connection, "/json", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == server.get("/json").headers["content-length"]
    # Had there been content after all, the next answer on the connection would begin with it.
    assert ask(connection, "/json").status == 200


@pytest.mark.parametrize(
    ("target", "words"),
    [("/sleep?ms=20", "slept 20 ms\n"), ("/cpu?ms=20", r"computed for 20 ms, \d+ rounds\n")],
)
def test_sleep_and_cpu_say_what_they_did(server: ServerProcess, target: str, words: str) -> None:
    answer = server.get(target)
    assert answer.status == 200
    assert re.fullmatch(words, answer.text)


def test_what_the_application_refuses_reaches_the_client(server: ServerProcess) -> None:
    assert server.get("/sleep?ms=soon").status == 400
    assert server.get("/no/such/route").status == 404
    refused = server.get("/json", "DELETE")
    assert refused.status == 405
    assert "GET" in refused.headers["allow"]


def test_a_stream_arrives_piece_by_piece(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/stream?n=4&ms=100")
    response = connection.getresponse()
    assert response.getheader("Transfer-Encoding") == "chunked"
    assert response.getheader("Content-Length") is None
    # Each read1() takes what one chunk brought: were they held back, one would bring all.
    pieces = [response.read1(65536) for _ in range(4)]
    assert pieces == [b"piece %d of 4\n" % number for number in range(1, 5)]
    assert response.read() == b""
    assert ask(connection, "/json").status == 200


def test_a_stream_to_an_old_client_ends_with_the_connection(server: ServerProcess) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /stream?n=2&ms=1 HTTP/1.0\r\n\r\n")
        received = b""
        while piece := sock.recv(65536):
            received += piece
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"chunked" not in head
    assert content == b"piece 1 of 2\npiece 2 of 2\n"


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "5 MB"])
def test_an_upload_arrives_unchanged(
    connection: http.client.HTTPConnection, content: bytes
) -> None:
    answer = ask(connection, "/upload", "POST", content)
    assert (answer.status, json.loads(answer.body)) == (200, measured(content))


def test_a_chunked_upload_arrives_unchanged(connection: http.client.HTTPConnection) -> None:
    pieces = [LARGE[start : start + 70_001] for start in range(0, len(LARGE), 70_001)]
    headers = {"Transfer-Encoding": "chunked"}
    answer = ask(connection, "/upload", "PUT", iter(pieces), headers, chunked=True)
    assert (answer.status, json.loads(answer.body)) == (200, measured(LARGE))
    assert ask(connection, "/json").status == 200


def test_a_form_with_a_file_arrives(connection: http.client.HTTPConnection) -> None:
    form = (
        b"--limit\r\n"
        b'Content-Disposition: form-data; name="file"; filename="a.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + LARGE + b"\r\n--limit--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=limit"}
    answer = ask(connection, "/upload", "POST", form, headers)
    assert json.loads(answer.body) == {
        "files": [{"name": "file", "filename": "a.bin", **measured(LARGE)}]
    }


def test_the_client_is_told_to_go_on_before_it_sends_content(server: ServerProcess) -> None:
    with server.connect() as sock:
        sock.sendall(
            b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"small")
        received = b""
        while piece := sock.recv(65536):
            received += piece
    assert json.loads(received.partition(b"\r\n\r\n")[2]) == measured(b"small")


def test_an_error_is_a_500_for_the_client_and_a_traceback_in_the_log(
    server: ServerProcess,
) -> None:
    answer = server.get("/error")
    assert answer.status == 500
    assert b"Traceback" not in answer.body
    assert b"this route always fails" not in answer.body
    log = server.wait_for_log("RuntimeError: this route always fails")
    assert "Traceback (most recent call last)" in log


def test_whoami_names_a_worker_and_never_the_manager(server: ServerProcess) -> None:
    answer = json.loads(server.get("/whoami").body)
    assert answer["pid"] in server.workers()
    assert answer["pid"] != server.pid
    assert answer["multithread"] is True
    assert answer["multiprocess"] is True


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    request = "GET /sleep?ms={} HTTP/1.1\r\nHost: test\r\n\r\n"
    last = "GET /sleep?ms=3 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    with server.connect() as sock:
        sock.sendall((request.format(40) + request.format(1) + last).encode())
        received = b""
        while piece := sock.recv(65536):
            received += piece
    assert re.findall(rb"slept (\d+) ms", received) == [b"40", b"1", b"3"]


def test_a_half_closed_client_gets_its_answer(server: ServerProcess) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /sleep?ms=50 HTTP/1.1\r\nHost: test\r\n\r\n")
        sock.shutdown(1)
        received = b""
        while piece := sock.recv(65536):
            received += piece
    assert received.endswith(b"slept 50 ms\n")


def test_clients_that_go_away_in_the_middle_cost_nothing(server: ServerProcess) -> None:
    for _ in range(20):
        with server.connect() as sock:
            sock.sendall(b"GET /stream?n=1000&ms=1 HTTP/1.1\r\nHost: test\r\n\r\n")
            sock.recv(100)
    with server.connect() as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf")
    status = server.eventually(lambda s: s["connections"] == 0 and s["busy_threads"] == 0)
    assert (status["total"], status["restarts"]) == (2, 0)


def test_a_slow_upload_holds_no_thread(server: ServerProcess) -> None:
    with server.connect() as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nsm")
        status = server.eventually(lambda s: s["connections"] == 1)
        assert status["busy_threads"] == 0
        sock.sendall(b"all")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_many_clients_at_once_get_their_own_answers(server: ServerProcess) -> None:
    wrong: list[object] = []
    left = threading.Semaphore(0)

    def client(number: int) -> None:
        connection = server.connection()
        try:
            for round_ in range(10):
                content = b"%d %d" % (number, round_)
                answer = json.loads(ask(connection, "/upload", "POST", content).body)
                if answer != measured(content):
                    wrong.append((content, answer))
        except (OSError, http.client.HTTPException, ValueError) as error:
            wrong.append(error)
        finally:
            connection.close()
            left.release()

    for number in range(40):
        threading.Thread(target=client, args=(number,), daemon=True).start()
    for _ in range(40):
        assert left.acquire(timeout=PATIENCE_S)
    assert wrong == []


def test_what_is_no_request_is_refused_and_the_connection_closed(server: ServerProcess) -> None:
    for sent, status in (
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/7.0\r\nHost: test\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost: test\r\nBig: " + b"x" * 70_000 + b"\r\n\r\n", b"431"),
    ):
        with server.connect() as sock:
            sock.sendall(sent)
            received = b""
            while piece := sock.recv(65536):
                received += piece
        assert received.startswith(b"HTTP/1.1 " + status), received[:100]
        assert b"connection: close" in received.lower()


def test_no_spooled_upload_is_left_on_the_disk(server: ServerProcess) -> None:
    assert server.get("/upload", "POST", LARGE).status == 200
    eventually(lambda: list(server.temporary.iterdir()) == [])
