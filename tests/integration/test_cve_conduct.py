"""What went wrong in other servers, tried on this one: threads, loops, logs, shared memory.

The comment in each test says where it happened, and what. The rest is in test_cve_classes.py.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import Serve
from tests.integration.fault_target import CHUNKED, SMUGGLED, Target, cpu_s
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import APPS, PATIENCE_S, eventually
from tests.unit.httpcore_srv.worker_in_thread import Client, get, post


@pytest.fixture(scope="module")
def target(serve_all: Serve) -> Target:
    return Target(serve_all("fault_wire:app", "--max-workers", "1", chdir=APPS))


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Clients that are closed after the test."""
    clients: list[Client] = []
    yield clients
    for client in clients:
        client.close()


# -- threads, loops, time ----------------------------------------------------------------------


def half_closed(target: Target, sent: bytes, *, kept: bool = False) -> Client:
    client = idle(target) if kept else target.connect()
    client.send(sent)
    client.half_close()
    return client


def idle(target: Target) -> Client:
    client = target.connect()
    assert client.ask(get("/ignore")).status == 200
    return client


def reading_nothing(target: Target) -> Client:
    client = target.connect(receive_buffer_bytes=4096)
    client.send(get("/stream"))
    return client


def reset_while_it_runs(target: Target) -> Client:
    client = idle(target)  # only from its second request on a connection is watched all the time
    client.send(get("/sleep?1500"))
    target.server.eventually(lambda s: s["busy"] == 1)
    client.reset()
    return client


def half_closed_while_it_runs(target: Target) -> Client:
    return half_closed(target, get("/sleep?1500"), kept=True)


def urgent(target: Target) -> Client:
    client = target.connect()
    client.sock.send(b"!", socket.MSG_OOB)
    return client


SITTING: dict[str, Callable[[Target], Client]] = {
    "nothing said": lambda target: target.connect(),
    "half-closed at once": lambda target: half_closed(target, b""),
    "half-closed in a head": lambda target: half_closed(target, b"GET / HT"),
    "half-closed in a body": lambda target: half_closed(target, post("/", b"x" * 100)[:-1]),
    "half-closed after a refusal": lambda target: half_closed(target, b"nonsense\r\n\r\n"),
    "half-closed in a stream": lambda target: half_closed(target, get("/stream"), kept=True),
    "idle": idle,
    "reading nothing": reading_nothing,
    "half-closed while it runs": half_closed_while_it_runs,
    "reset while it runs": reset_while_it_runs,
    "out-of-band data": urgent,
}


def test_no_connection_makes_the_loop_spin(target: Target, clients: list[Client]) -> None:
    # CVE-2024-49769 waitress: a socket of which the client had closed one half was reported by
    # every poll, for ever, and looked at in vain.
    for make in SITTING.values():
        clients.append(make(target))  # noqa: PERF401 - so that those before a failure are closed
    pid = target.pid()
    before_s = cpu_s(pid)
    time.sleep(1.0)
    # A loop that spins takes all of it, or half if the machine is crowded.
    assert cpu_s(pid) - before_s < 0.2
    assert target.pid() == pid


def test_a_client_that_leaves_while_its_request_runs_harms_nobody(target: Target) -> None:
    # CVE-2022-31015 waitress: a thread of the application closed a socket that the main thread
    # was waiting for, which ended the process.
    pid = target.pid()
    for number in range(60):
        with target.connect() as client:
            client.send(get(f"/sleep?{number % 3 * 5}") + (get("/stream") if number % 2 else b""))
            if number % 4 < 2:
                client.head()
            if number % 3:
                client.reset()
    assert target.pid() == pid
    target.server.eventually(lambda s: s["busy_threads"] == 0 and s["waiting"] == 0)
    assert target.server.status()["restarts"] == 0


@pytest.fixture
def small(serve: Serve) -> Target:
    """A server with no more than two threads."""
    server = serve("fault_wire:app", "--max-workers", "1", "--max-threads", "2", chdir=APPS)
    return Target(server)


def test_keep_alive_connections_do_not_monopolise_threads(
    small: Target, clients: list[Client]
) -> None:
    # CVE-2019-16770 and CVE-2021-29509 Puma: a connection kept its thread as long as it lived,
    # or as long as its requests came without a pause.
    clients += [idle(small) for _ in range(20)]
    with KeepAliveClients(small.server.address, 8, pause_s=0.0) as busy:
        busy.wait_for(50)
        for _ in range(20):
            assert small.ask(get("/ignore")).status == 200
        busy.wait_for(50)
    assert busy.failures == []
    assert clients[0].ask(get("/ignore")).status == 200


def test_slow_clients_hold_no_threads(small: Target, clients: list[Client]) -> None:
    # benoitc/gunicorn#3518: half a head held a thread for as long as the client liked.
    # emmett-framework/granian#873: so did everybody who read a response slowly.
    parts = [b"", b"GET", get("/")[:-2], post("/", b"x" * 100)[:-1], CHUNKED + b"5\r\nhe"]
    for part in parts * 4:
        clients.append(small.connect())
        clients[-1].send(part)
    clients += [reading_nothing(small) for _ in range(6)]
    for _ in range(10):
        assert small.ask(get("/ignore")).status == 200


def test_a_body_that_the_application_leaves_unread(target: Target) -> None:
    # benoitc/gunicorn#3301: the rest of a body on a kept connection blocked the worker, or was
    # taken for the next request.
    with target.connect() as client:
        for size in (10, 70_000, 400_000):
            assert client.ask(post("/ignore", SMUGGLED + b"x" * size)).status == 200
            client.send(CHUNKED.replace(b"/body", b"/ignore") + b"%x\r\n" % size)
            client.send(SMUGGLED[:size].ljust(size, b"x") + b"\r\n0\r\n\r\n")
            assert client.response().status == 200
    # What is above the buffer has not been read yet when the answer goes out.
    with target.connect() as client:
        answer = client.ask(post("/ignore", b"x" * 600_000 + SMUGGLED * 10_000))
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        assert client.until_end() == b""
    assert "GET /smuggled" not in target.seen()


def test_a_handshake_with_a_plain_port_is_refused_at_once(target: Target) -> None:
    # cherrypy/cheroot#748: one client that was slow at the TLS handshake froze the server.
    with target.connect() as slow:
        slow.send(b"\x16\x03\x01")
        assert slow.response().status == 400
        assert target.ask(get("/ignore")).status == 200


def test_bad_clients_do_not_flood_the_log(target: Target) -> None:
    # CVE-2025-47287 tornado: each bad request wrote to the log, as many lines as it liked.
    before = len(target.server.log())
    for _ in range(50):
        assert target.send(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert target.send(b"\x16\x03\x01\x00").startswith(b"HTTP/1.1 400 ")
        with target.connect() as client:
            client.send(post("/", b"x" * 100)[:-1])
            client.reset()
    assert target.pid()
    assert target.server.log()[before:].count("\n") <= 3


# -- shared memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pid", "huge"])
def test_what_a_worker_writes_into_shared_memory(serve: Serve, what: str) -> None:
    # CVE-2019-0211 Apache, CVE-2021-21703 php-fpm: the parent, root, used numbers from there as
    # indices. CVE-2007-3303 and CVE-2007-3304 Apache: it sent signals to pids from there.
    # test_hostile_worker.py and tests/property/test_hostile_rows.py have more of this.
    target = Target(serve("fault_wire:app", "--min-workers", "2", "--max-workers", "2", chdir=APPS))
    with subprocess.Popen(["sleep", str(10 * PATIENCE_S)]) as bystander:
        try:
            word = bystander.pid if what == "pid" else 2**64 - 1
            assert target.ask(get(f"/scribble?{word}")).status == 200
            for _ in range(5):
                assert target.server.status()["total"] == 2  # the manager looks at the numbers
                assert target.ask(get("/ignore")).status == 200
            assert target.server.stop(signal.SIGTERM) == 0
            eventually(lambda: not target.server.group())
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert "Traceback" not in target.server.log()


def test_a_worker_that_writes_over_its_own_row_is_served_on(serve: Serve) -> None:
    target = Target(serve("fault_wire:app", "--max-workers", "1", chdir=APPS))
    assert target.ask(get(f"/scribble?{2**64 - 1}")).status == 200
    for _ in range(20):
        assert target.ask(get("/ignore")).status == 200
    assert target.server.eventually(lambda s: s["idle"] == 1)["restarts"] == 0
