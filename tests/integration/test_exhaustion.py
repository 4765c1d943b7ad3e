"""Descriptors, disk, threads and memory run out, clocks jump: what can be served is served."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from httpcore_srv import HTTPSettings, HTTPTimeouts
from tests.fakes.worker import FakeClock
from tests.integration.conftest import Serve
from tests.integration.fault_target import Target, cpu_s
from tests.integration.server_process import APPS, Background, ServerProcess, eventually
from tests.unit.httpcore_srv.worker_in_thread import Client, Echo, get, post, worker

HEAD = get("/ignore")
HALF = HEAD.index(b"Host")


# Without a place aside every body is received whole before its request is handed out.
WHOLE_BODIES = ("--max-workers", "1", "--max-streams", "0")


@pytest.fixture
def server(serve: Serve) -> ServerProcess:
    return serve("fault_hungry:app", "--max-workers", "1", chdir=APPS)


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Clients that are closed after the test."""
    clients: list[Client] = []
    yield clients
    for client in clients:
        client.close()


@contextlib.contextmanager
def limited(pid: int, kind: int, value: int) -> Iterator[None]:
    """Bound what a process may have, for a time."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def next_descriptor(pid: int) -> int:
    """Return the number that a process's next descriptor gets: the lowest one that is free."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return min(set(range(len(taken) + 1)) - taken)


def address_space(pid: int) -> int:
    """Return how many bytes of addresses a process uses."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def errors(server: ServerProcess) -> list[str]:
    """Return what the log says at level error."""
    return re.findall(r"^\S+ \[\d+\] error: (.*)", server.log(), re.MULTILINE)


def assert_said_once(lines: list[str]) -> None:
    """The lack of descriptors is said for connections to accept and to take over, each once."""
    assert len(set(lines)) == len(lines) <= 2
    assert all("Too many open files" in line for line in lines)


# -- descriptors -------------------------------------------------------------------------------


def test_without_descriptors_those_who_are_here_are_served_and_the_others_wait(
    server: ServerProcess, clients: list[Client]
) -> None:
    (pid,) = server.workers()
    room, many = 6, 18
    with limited(pid, resource.RLIMIT_NOFILE, next_descriptor(pid) + room):
        for _ in range(many):
            clients.append(Client(server.address))
            clients[-1].send(HEAD[:HALF])  # in the middle of a request: not idle
        server.wait_for_log("Too many open files")
        before_s = cpu_s(pid)
        time.sleep(0.6)
        assert cpu_s(pid) - before_s < 0.15, "it spins"
        # As the first ones end, the next ones come in, to the last.
        for client in clients:
            client.send(HEAD[HALF:])
            assert client.response().status == 200
            client.close()
    assert server.workers() == [pid]
    assert_said_once(errors(server))


def test_without_descriptors_idle_connections_make_room(
    server: ServerProcess, clients: list[Client]
) -> None:
    (pid,) = server.workers()
    with limited(pid, resource.RLIMIT_NOFILE, next_descriptor(pid) + 6):
        for _ in range(18):
            clients.append(Client(server.address))
            assert clients[-1].ask(HEAD).status == 200
    assert server.workers() == [pid]
    assert errors(server) == []


def test_a_worker_without_descriptors_leaves_new_clients_to_its_sibling(serve: Serve) -> None:
    server = serve("fault_wire:app", "--min-workers", "2", "--max-workers", "2", chdir=APPS)
    pid, sibling = server.workers()
    with limited(pid, resource.RLIMIT_NOFILE, next_descriptor(pid)):
        for _ in range(20):
            assert Target(server).pid() == sibling
    assert sorted(server.workers()) == sorted([pid, sibling])
    assert_said_once(errors(server))


def test_a_large_body_without_a_descriptor_for_its_file_is_refused(serve: Serve) -> None:
    server = serve("fault_hungry:app", *WHOLE_BODIES, chdir=APPS)
    (pid,) = server.workers()
    target = Target(server)
    with target.connect() as client:
        assert client.ask(HEAD).status == 200
        server.eventually(lambda s: s["connections"] == 1)
        with limited(pid, resource.RLIMIT_NOFILE, next_descriptor(pid)):
            assert_no_room(client.ask(post("/ignore", b"x" * 1_000_000)).status)
            assert client.until_end() == b""
    assert target.ask(post("/ignore", b"x" * 1_000_000)).status == 200
    (error,) = errors(server)
    assert "Too many open files" in error


# -- disk --------------------------------------------------------------------------------------


def assert_no_room(status: int) -> None:
    assert status in (503, 507)


def test_a_large_body_on_a_full_disk_is_refused_and_said_once(serve: Serve) -> None:
    server = serve("fault_hungry:app", *WHOLE_BODIES, chdir=APPS)
    (pid,) = server.workers()
    target = Target(server)
    large = post("/ignore", b"x" * 1_000_000)
    # A limit on the size of files is a full disk that a test can have: write(2) fails.
    with limited(pid, resource.RLIMIT_FSIZE, 65536):
        for _ in range(5):
            assert_no_room(target.ask(large).status)
            assert target.ask(post("/ignore", b"x" * 1000)).status == 200
    assert target.ask(large).status == 200
    assert server.workers() == [pid]
    (error,) = errors(server)
    assert "File too large" in error
    assert server.left_files()[2:] == []  # besides pid file and control socket


# -- memory and threads ------------------------------------------------------------------------


def test_without_memory_the_request_that_wants_it_fails(server: ServerProcess) -> None:
    (pid,) = server.workers()
    target = Target(server)
    assert target.ask(get("/eat?64")).status == 200
    with limited(pid, resource.RLIMIT_AS, address_space(pid) + (32 << 20)):
        for number in range(3):
            assert target.ask(get(f"/eat?64&{number}")).status == 500
            assert target.ask(get("/eat?1")).status == 200
    assert server.workers() == [pid]
    assert server.log().count("\nMemoryError\n") == 3


def test_without_threads_requests_come_late_and_none_is_lost(server: ServerProcess) -> None:
    (pid,) = server.workers()
    target = Target(server)
    assert target.pid() == pid
    with limited(pid, resource.RLIMIT_AS, address_space(pid) + (100 << 20)):
        # A request that blocks is worth another thread, which cannot be started.
        requests = [Background(server, f"/sleep?{50 + number}") for number in range(12)]
        for request in requests:
            assert getattr(request.result(), "status", None) == 200
    for _ in range(3):
        requests = [Background(server, "/sleep?30") for _ in range(6)]
        for request in requests:
            assert getattr(request.result(), "status", None) == 200
    assert server.workers() == [pid]
    (error,) = errors(server)
    assert "thread" in error
    server.eventually(lambda s: s["busy_threads"] == 0 and s["waiting"] == 0)


# -- addresses ---------------------------------------------------------------------------------


def test_clients_that_are_gone_before_they_are_accepted_cost_nothing(
    server: ServerProcess,
) -> None:
    (pid,) = server.workers()
    os.kill(pid, signal.SIGSTOP)
    try:
        for sent in (b"", HEAD, HEAD[:HALF], post("/ignore", b"x" * 100)[:-1]):
            for _ in range(3):
                with Client(server.address) as client:
                    client.send(sent)
                    client.reset()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert Target(server).pid() == pid
    server.eventually(lambda s: s["connections"] == 0 and s["busy_threads"] == 0)
    assert errors(server) == []


# -- clocks ------------------------------------------------------------------------------------

TIMED = HTTPSettings(timeouts=HTTPTimeouts(header_s=5, body_s=5, keep_alive_s=5, write_s=5))
HOUR_S = 3600.0
BODY = post("/b", b"x" * 100)

# What a client has sent before the clock jumps, what it sends meanwhile, what it gets afterwards.
STANDSTILLS: dict[str, tuple[bytes, bytes]] = {
    "new": (b"", get("/a")),
    "head": (get("/a")[:10], get("/a")[10:]),
    "body": (BODY[:-50], BODY[-50:]),
}


@pytest.mark.parametrize("stage", STANDSTILLS)
def test_a_worker_that_stood_still_does_not_blame_its_clients(stage: str) -> None:
    # Suspended, stopped, starved: what had come by the time it goes on is in time.
    before, meanwhile = STANDSTILLS[stage]
    clock = FakeClock()
    app = Echo()
    with worker(app, TIMED, clock_ns=clock, sentinel=False) as one:
        late = one.connect()
        late.send(before)
        one.until_connections(1)
        one.until_next_round()
        blocking = one.connect()
        blocking.send(get("/wait"))
        app.gate.entered()  # the one thread that leads is in the application
        late.send(meanwhile)
        clock.advance(HOUR_S)
        app.gate.open()
        assert blocking.response().status == 200
        assert late.response().status == 200


def test_a_kept_connection_may_be_used_after_a_standstill_if_the_request_was_here() -> None:
    clock = FakeClock()
    app = Echo()
    with worker(app, TIMED, clock_ns=clock, sentinel=False) as one:
        kept, blocking = one.connect(), one.connect()
        assert kept.ask().status == 200
        one.until_at_rest()
        blocking.send(get("/wait"))
        app.gate.entered()
        kept.send(get("/again"))
        clock.advance(HOUR_S)
        app.gate.open()
        assert kept.response().status == 200


def test_timeouts_count_on_after_a_standstill() -> None:
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as one, one.connect() as client:
        one.until_connections(1)
        one.pass_time(clock, HOUR_S)
        client.assert_closed()  # it has said nothing for an hour, as far as anybody can tell
        with one.connect() as other:
            other.send(get("/a")[:10])
            one.until_connections(1)
            one.until_next_round()
            one.pass_time(clock, 4.0)
            other.send(get("/a")[10:])
            assert other.response().status == 200
            other.send(get("/a")[:10])
            one.until_next_round()
            one.until_next_round()
            one.pass_time(clock, 6.0)
            assert other.response().status == 408


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S, -1.5e9, 3e9])
def test_the_date_follows_the_wall_clock_and_no_timeout_does(
    jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_s, real_ns = time.time, time.time_ns
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as one, one.connect() as client:
        assert client.ask().status == 200
        monkeypatch.setattr(time, "time", lambda: real_s() + jump_s)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(jump_s * 1e9))
        one.until_at_rest()
        dates = [formatdate(time.time(), usegmt=True)]
        one.pass_time(clock, 1.1)
        one.until_next_round()
        answer = client.ask()
        dates.append(formatdate(time.time(), usegmt=True))
        assert answer.status == 200
        assert answer.fields["date"] in dates


def test_a_stopped_worker_that_goes_on_has_lost_nobody(serve: Serve) -> None:
    options = ("--header-timeout", "1", "--keep-alive", "1", "--body-timeout", "1")
    server = serve("fault_wire:app", "--max-workers", "1", *options, chdir=APPS)
    (pid,) = server.workers()
    sent: list[tuple[Client, bytes]] = []
    with contextlib.ExitStack() as stack:
        for before, meanwhile in STANDSTILLS.values():
            client = stack.enter_context(Client(server.address))
            client.send(before)
            sent.append((client, meanwhile))
        server.eventually(lambda s: s["connections"] == len(sent))
        os.kill(pid, signal.SIGSTOP)
        try:
            for client, meanwhile in sent:
                client.send(meanwhile)
            over_s = time.monotonic() + 1.5  # longer than any of its timeouts
            eventually(lambda: time.monotonic() > over_s)
        finally:
            os.kill(pid, signal.SIGCONT)
        for client, _ in sent:
            assert client.response().status == 200
