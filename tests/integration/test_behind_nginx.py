"""nginx in front, over TCP and a socket file: whatever goes through it arrives, and goes on."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from wsgiref.util import FileWrapper

import pytest

from tests.integration.apps.client_wire import WHOLE, digest, pieces
from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.nginx import MODES, Front, Nginx
from tests.integration.programs import find_program
from tests.integration.server_process import APPS, Hold, ServerProcess, ask

MAX_BODY = 4 << 20
CHUNKED = {"Transfer-Encoding": "chunked"}
# Of each of nginx's two upstreams; see its `keepalive`.
KEPT = 2 * 8
CLIENTS = 24  # more than that
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets the connection


@pytest.fixture(scope="module")
def server(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """A server on TCP and on a socket file, with a small limit for bodies."""
    find_program("nginx")  # no server for tests that will be skipped
    path = tmp_path_factory.mktemp("nginx") / "app.sock"
    addresses = ("-b", "127.0.0.1:0", "-b", f"unix:{path}")
    limits = ("--max-workers", "2", "--max-body", str(MAX_BODY))
    return serve_all("client_wire:app", *addresses, *limits, chdir=APPS)


@contextmanager
def in_front(server: ServerProcess, directory: Path) -> Iterator[Nginx]:
    """Run nginx with the server's addresses as its upstreams."""
    unix = [bind for bind in server.binds if bind.startswith("unix:")]
    tcp = "{}:{}".format(*server.address)
    upstreams = {"tcp": tcp, **({"unix": unix[0]} if unix else {})}
    nginx = Nginx(find_program("nginx"), directory, upstreams)
    try:
        nginx.wait_until_ready()
        yield nginx
    finally:
        nginx.end()
        print(nginx.report())


@pytest.fixture(scope="module")
def nginx(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Nginx in front of that server."""
    with in_front(server, tmp_path_factory.mktemp("nginx")) as nginx:
        yield nginx


@dataclass
class Flow:
    """Requests that go through nginx to another server as long as the module's tests run."""

    server: ServerProcess
    nginx: Nginx
    clients: KeepAliveClients


@pytest.fixture(scope="module")
def flow(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """A server that has just grown to three workers, and that one worker could serve."""
    find_program("nginx")
    limits = ("--min-workers", "1", "--max-workers", "3", "--max-threads", "2")
    server = serve_all("client_wire:app", *limits, chdir=APPS)
    with in_front(server, tmp_path_factory.mktemp("flow")) as nginx:
        address = nginx.fronts["tcp", "kept"].address
        with KeepAliveClients(address, 16, pause_s=0.2) as clients:
            with KeepAliveClients(address, 12, "/sleep?ms=100", pause_s=0.0) as load:
                server.eventually(lambda s: s["total"] == 3 and s["starting"] == 0)
            assert load.failures == load.closings == []
            yield Flow(server, nginx, clients)


def went_unnoticed(flow: Flow) -> None:
    """See that nobody has lost anything so far."""
    clients = flow.clients
    assert clients.failures == clients.closings == []
    assert (clients.announced, clients.opened) == (0, 16)
    assert flow.nginx.errors() == []
    status = flow.server.status()
    assert (status["restarts"], status["lost"], status["errors"]) == (0, 0, 0)


@pytest.fixture(params=itertools.product(("tcp", "unix"), MODES), ids="-".join)
def front(nginx: Nginx, request: pytest.FixtureRequest) -> Iterator[Front]:
    """Every way to the server; nginx must have nothing to complain of."""
    nginx.errors()
    yield nginx.fronts[request.param]
    assert nginx.errors() == []


@pytest.fixture
def connection(front: Front) -> Iterator[http.client.HTTPConnection]:
    """A connection to nginx that is opened by its first request."""
    connection = front.connection()
    yield connection
    connection.close()


def quiet(server: ServerProcess) -> None:
    """Wait until nobody is served and only nginx's spare connections are left."""
    server.eventually(
        lambda s: s["connections"] <= KEPT and s["busy_threads"] == 0 and s["streams"] == 0
    )


def test_a_reload_goes_unnoticed(flow: Flow) -> None:
    flow.clients.wait_for(64)
    before = set(flow.server.workers())
    assert before & set(flow.clients.workers)
    flow.server.send(signal.SIGHUP)
    flow.server.eventually(lambda s: s["generation"] == 2 and s["reload"] == "idle")
    flow.server.eventually(lambda s: before.isdisjoint(w["pid"] for w in s["workers"]))
    flow.clients.wait_for(64)
    assert set(flow.clients.workers) - before
    went_unnoticed(flow)


def test_every_kind_of_response_comes_through(connection: http.client.HTTPConnection) -> None:
    for _ in range(3):
        assert ask(connection, "/whole").body == WHOLE
        for target, status in (
            ("/missing", 404),
            ("/empty", 204),
            ("/tagged", 200),
            ("/moved", 303),
            ("/last", 200),
            ("/sized?bytes=0", 200),
            ("/stream?bytes=0", 200),
        ):
            assert ask(connection, target).status == status
            head = ask(connection, target, "HEAD")
            assert (head.status, head.body) == (status, b"")
        head = ask(connection, "/sized?bytes=123456", "HEAD")
        assert (head.headers["content-length"], head.body) == ("123456", b"")
        answer = ask(connection, "/tagged", headers={"If-None-Match": '"one"'})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == '"one"'


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_connections_to_the_server_are_kept(nginx: Nginx, upstream: str) -> None:
    connection = nginx.fronts[upstream, "kept"].connection()
    try:
        ask(connection, "/whole")
        before = nginx.sockets()
        for _ in range(20):
            for target in ("/whole", "/stream?bytes=100000", "/file?bytes=100000"):
                assert ask(connection, target).status == 200
            ask(connection, "/upload", "POST", b"x" * 1000)
            for target in ("/missing", "/empty", "/moved", "/tagged", "/stream?bytes=1"):
                ask(connection, target)
                ask(connection, target, "HEAD")
        assert nginx.sockets() <= before
    finally:
        connection.close()


def test_an_application_that_wants_the_connection_closed_gets_it_closed(
    server: ServerProcess, nginx: Nginx
) -> None:
    connection = nginx.fronts["tcp", "kept"].connection()
    try:
        ports = []
        for _ in range(10):
            ports.append(json.loads(ask(connection, "/any").body)["REMOTE_PORT"])
            closing = ask(connection, "/last")
            assert (closing.status, closing.body) == (200, WHOLE)
            assert closing.headers["connection"] == "keep-alive"  # the one to nginx is
        assert len(set(ports)) == 10
    finally:
        connection.close()
    quiet(server)


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
def test_big_downloads_are_whole(connection: http.client.HTTPConnection, view: str) -> None:
    count = (6 << 20) + 11
    for _ in range(2):
        connection.request("GET", f"/{view}?bytes={count}")
        response = connection.getresponse()
        assert response.status == 200
        assert digest(FileWrapper(response, 1 << 16)) == digest(pieces(count))


def test_big_uploads_are_whole(connection: http.client.HTTPConnection, front: Front) -> None:
    for count in (0, 1, 100_000, MAX_BODY):
        expected = digest(pieces(count))
        sized = json.loads(ask(connection, "/upload", "PUT", b"".join(pieces(count))).body)
        assert (sized["length"], sized["digest"]) == (str(count), expected)
        answer = ask(connection, "/upload", "PUT", pieces(count), CHUNKED, chunked=True)
        chunked = json.loads(answer.body)
        assert (chunked["bytes"], chunked["digest"]) == (count, expected)


def test_a_refusal_comes_through(connection: http.client.HTTPConnection) -> None:
    for _ in range(3):
        for body, headers in ((b"x" * 2 * MAX_BODY, {}), (pieces(2 * MAX_BODY), CHUNKED)):
            try:
                connection.request("PUT", "/upload", body, headers, encode_chunked=bool(headers))
            except (BrokenPipeError, ConnectionResetError):
                pass  # nginx itself has stopped reading, which is its right
            response = connection.getresponse()
            response.read()
            assert response.status == 413
            connection.close()
    assert ask(connection, "/whole").body == WHOLE


def test_a_large_cookie_arrives(connection: http.client.HTTPConnection) -> None:
    cookie = "; ".join(f"name{number}={number:0202}" for number in range(38))
    assert 8000 < len(cookie) < 8190
    for _ in range(2):
        environ = json.loads(ask(connection, "/any", headers={"Cookie": cookie}).body)
        assert environ["HTTP_COOKIE"] == cookie


def test_the_application_sees_what_nginx_says(connection: http.client.HTTPConnection) -> None:
    headers = {"Host": "example.org", "X-Forwarded-For": "192.0.2.1"}
    environ = json.loads(ask(connection, "/a%2Fb/../c?d=%20", headers=headers).body)
    assert environ["HTTP_HOST"] == "example.org"
    assert environ["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
    assert environ["REQUEST_URI"] == "/a%2Fb/../c?d=%20"


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_a_stream_comes_through_piece_by_piece(nginx: Nginx, hold: Hold, upstream: str) -> None:
    connection = nginx.fronts[upstream, "unbuffered"].connection()
    try:
        connection.request("GET", f"/held?fifo={hold.path}")
        response = connection.getresponse()
        assert response.read(8) == b"before, "  # while the application stands still
        hold.wait()
        hold.release()
        assert response.read() == b"after\n"
        assert ask(connection, "/whole").body == WHOLE
    finally:
        connection.close()


def test_a_response_that_breaks_off_is_not_taken_for_a_whole_one(
    server: ServerProcess, nginx: Nginx
) -> None:
    for upstream in ("tcp", "unix"):
        for mode in ("kept", "unbuffered"):
            connection = nginx.fronts[upstream, mode].connection()
            try:
                with pytest.raises(http.client.IncompleteRead):
                    ask(connection, "/broken")
                connection.close()
                assert ask(connection, "/whole").body == WHOLE
            finally:
                connection.close()
    complaints = nginx.errors()
    assert len(complaints) == 4
    assert all("upstream prematurely closed connection" in line for line in complaints)
    server.wait_for_log("RuntimeError: broken in the middle")


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
def test_clients_that_go_in_the_middle_of_a_download_harm_nobody(
    server: ServerProcess, front: Front, view: str
) -> None:
    quiet(server)
    errors = server.status()["errors"]
    request = f"GET /{view}?bytes=30000000 HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    with ExitStack() as stack:
        for number in range(CLIENTS):
            client = stack.enter_context(front.connect())
            client.sendall(request)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        server.eventually(lambda s: s["connections"] >= CLIENTS)
        other = stack.enter_context(front.connect())
        other.sendall(b"GET /whole HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: other.recv(4096), b"")).endswith(WHOLE)
    quiet(server)
    served_well(front)
    assert server.status()["errors"] == errors


def test_clients_that_go_in_the_middle_of_an_upload_harm_nobody(
    server: ServerProcess, front: Front
) -> None:
    quiet(server)
    errors = server.status()["errors"]
    begun = (
        b"PUT /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 4000000\r\n\r\n" + bytes(100_000),
        b"PUT /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"f4240\r\n" + bytes(100_000),
    )
    with ExitStack() as stack:
        for number in range(CLIENTS):
            client = stack.enter_context(front.connect())
            client.sendall(begun[number % 2])
            if number % 4 > 1:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if front.mode == "unbuffered":  # else nginx waits for the whole body
            server.eventually(lambda s: s["connections"] >= CLIENTS)
        served_well(front)
    quiet(server)
    served_well(front)
    assert server.status()["errors"] == errors


def served_well(front: Front) -> None:
    """See that an upload and downloads through nginx are right."""
    connection = front.connection()
    try:
        for _ in range(3):
            sent = ask(connection, "/upload", "PUT", b"".join(pieces(200_000)))
            assert json.loads(sent.body)["digest"] == digest(pieces(200_000))
            for target in ("/sized?bytes=200000", "/stream?bytes=200000", "/file?bytes=200000"):
                assert ask(connection, target).body == b"".join(pieces(200_000))
    finally:
        connection.close()


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
@pytest.mark.parametrize(("upstream", "mode"), [("tcp", "kept"), ("unix", "unbuffered")])
def test_a_client_that_reads_slowly_holds_no_thread(
    server: ServerProcess, nginx: Nginx, upstream: str, mode: str, view: str
) -> None:
    front = nginx.fronts[upstream, mode]
    count = 20_000_000  # more than all buffers on the way take
    with front.connect_by_path() as client:
        client.sendall(f"GET /{view}?bytes={count} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        served_well(front)
        # A file is sent by the loop; a stream has a thread beside those of the pool.
        streams = 0 if view == "file" else 1
        server.eventually(lambda s: s["busy_threads"] == 0 and s["streams"] == streams)
        served_well(front)
        with client.makefile("rb") as response:
            assert response.readline() == b"HTTP/1.1 200 OK\r\n"
            while response.readline() != b"\r\n":
                pass
            assert digest(FileWrapper(response, 1 << 16)) == digest(pieces(count))
    quiet(server)


def test_workers_that_leave_one_by_one_go_unnoticed(flow: Flow) -> None:
    # Last in the module: they leave when they have not been needed for some seconds.
    flow.server.eventually(lambda s: s["total"] == 1)
    (stayed,) = flow.server.workers()
    assert set(flow.clients.workers) - {stayed}, "others have answered and have left"
    flow.clients.wait_for(64)
    went_unnoticed(flow)
