"""Door: how many connections may be open, who makes room, and who is turned away."""

from __future__ import annotations

import errno
import logging
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from httpcore_srv import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.door import ROOM_BATCH
from tests.fakes.worker import BOUND_S, FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Client,
    Echo,
    WorkerInThread,
    WrappedListener,
    get,
    siblings,
    worker,
)

TIMEOUTS = HTTPTimeouts(header_s=600, keep_alive_s=1000)


def limited(connections: int = 10_000, per_address: int = 0, **settings: int) -> HTTPSettings:
    limits = HTTPLimits(max_connections=connections, max_connections_per_address=per_address)
    return HTTPSettings(limits=limits, timeouts=TIMEOUTS, **settings)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def idle(
    server: WorkerInThread, clock: FakeClock, count: int, *, apart_s: float = 2.0
) -> list[Client]:
    """Return clients that have been served, and idle for less and less long."""
    clients = []
    for _ in range(count):
        client = server.connect()
        assert client.ask().status == 200
        server.until_at_rest()
        clients.append(client)
        server.pass_time(clock, apart_s)
        server.until_next_round()
    return clients


def incidents(server: WorkerInThread) -> dict[str, int]:
    return dict(server.slot.incidents)


# -- the limit of connections, with idle ones ----------------------------------------------------


def test_who_has_been_idle_longest_makes_room(clock: FakeClock) -> None:
    with worker(settings=limited(3), clock_ns=clock) as server:
        oldest, second, third = idle(server, clock, 3)
        assert oldest.ask().status == 200  # so it is not the oldest any more
        server.until_at_rest()
        late = server.connect()
        assert late.ask().status == 200
        second.assert_closed()
        for client in (oldest, third, late):
            assert client.ask().status == 200
        assert incidents(server) == {"IDLE_CLOSED": 1}


def test_who_makes_room_does_so_in_order(clock: FakeClock) -> None:
    with worker(settings=limited(4), clock_ns=clock) as server:
        clients = idle(server, clock, 4)
        for number, client in enumerate(clients):
            assert server.connect().ask().status == 200
            client.assert_closed()
            assert incidents(server) == {"IDLE_CLOSED": number + 1}


def test_of_many_connections_several_make_room_at_once(clock: FakeClock) -> None:
    count = 16 * 4
    with worker(settings=limited(count), clock_ns=clock) as server:
        clients = idle(server, clock, count, apart_s=0.5)
        assert server.connect().ask().status == 200
        for client in clients[:4]:
            client.assert_closed()
        assert incidents(server) == {"IDLE_CLOSED": 4}
        assert ROOM_BATCH >= 4
        assert clients[4].ask().status == 200


@pytest.mark.parametrize("alone", [True, False])
def test_reaching_the_limit_exactly_costs_nobody_its_connection(
    clock: FakeClock, alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with worker(settings=limited(3), clock_ns=clock, multiprocess=not alone) as server:
        clients = idle(server, clock, 3)
        for client in clients:
            assert client.ask().status == 200
        assert incidents(server) == {}
        assert server.server.door.listening
    assert caplog.records == []


def test_a_connection_whose_next_request_has_come_is_not_idle(clock: FakeClock) -> None:
    with worker(settings=limited(3), clock_ns=clock) as server:
        asking, second, _ = idle(server, clock, 3)
        streams = list(server.server.streams.values())

        def make_room() -> bool:
            asking.send(GET)  # it comes while the leader does something else
            assert select.select([streams[0]._sock], [], [], BOUND_S)[0]
            return server.server.door._make_room()

        # One is looked at, and it is the wrong one: nobody else is asked this time.
        assert server.on_leader(make_room) is False
        assert asking.response().status == 200
        assert server.on_leader(server.server.door._make_room) is True
        second.assert_closed()
        assert asking.ask().status == 200


def test_a_client_that_has_closed_makes_room_first_or_last(clock: FakeClock) -> None:
    with worker(settings=limited(2), clock_ns=clock) as server:
        gone, staying = idle(server, clock, 2)

        def make_room() -> bool:
            gone.close()
            return server.server.door._make_room()

        assert server.on_leader(make_room) is True
        server.until_connections(1)
        assert staying.ask().status == 200


def test_a_new_connection_has_a_second_for_its_request(clock: FakeClock) -> None:
    with worker(settings=limited(2), clock_ns=clock) as server:
        silent = [server.connect() for _ in range(2)]
        server.until_connections(2)
        server.pass_time(clock, 0.9)
        late = server.connect()
        server.slot.until(lambda: bool(server.slot.incidents))
        assert incidents(server) == {"ACCEPT_PAUSED": 1}
        server.until_next_round()
        assert not server.server.door.listening
        late.send(GET)
        server.pass_time(clock, 1.1)
        assert late.response().status == 200
        silent[0].assert_closed()
        silent[1].send(GET)
        assert silent[1].response().status == 200


def test_a_new_connection_that_says_nothing_is_idle_since_it_came(clock: FakeClock) -> None:
    with worker(settings=limited(2), clock_ns=clock) as server:
        (served,) = idle(server, clock, 1)
        silent = server.connect()
        server.until_connections(2)
        server.pass_time(clock, 3)
        assert served.ask().status == 200
        server.until_at_rest()
        server.pass_time(clock, 3)
        server.until_next_round()
        assert server.connect().ask().status == 200
        silent.assert_closed()
        assert served.ask().status == 200


def test_connections_from_a_sibling_make_room_as_any_others(clock: FakeClock) -> None:
    with siblings(settings=limited(2), clock_ns=clock) as (a, b):
        moved = idle(a, clock, 2)
        for stream in list(a.server.streams.values()):
            a.on_leader(lambda stream=stream: a.server.give_away(stream, only_free=False))
        b.until_connections(2)
        a.siblings.target = None
        clock.advance(5)
        b.until_next_round()
        with b.connect() as late:
            assert late.ask().text.startswith("b ")
        moved[0].assert_closed()
        assert moved[1].ask().text.startswith("b ")


# -- the limit of connections, without idle ones --------------------------------------------------


def half_heads(server: WorkerInThread, count: int) -> list[Client]:
    """Return clients that have sent a part of a request."""
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.send(GET[:10])
    server.until_connections(count)
    for _ in range(1000):
        if not any(stream.at_rest for stream in list(server.server.streams.values())):
            return clients
        server.until_next_round()
    raise AssertionError("the heads do not come")


def test_without_idle_connections_no_more_are_accepted_until_one_ends(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    with worker(settings=limited(3), clock_ns=clock) as server:
        clients = half_heads(server, 3)
        late = server.connect()
        late.send(GET)
        server.slot.until(lambda: bool(server.slot.incidents))
        for _ in range(3):
            server.until_next_round()
        assert not server.server.door.listening
        assert len(server.server.streams) == 3
        clients[0].close()
        assert late.response().status == 200  # although the clock stands still
        for client in clients[1:]:
            client.send(GET[10:])
            assert client.response().status == 200
        assert incidents(server) == {"ACCEPT_PAUSED": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "accepting no connections for now: 3 connections are open"
    ]


def test_a_full_worker_looks_again_each_second_and_says_so_once_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    with worker(settings=limited(1), clock_ns=clock) as server:
        (busy,) = half_heads(server, 1)
        late = server.connect()
        late.send(GET)
        for second in range(1, 75):
            server.slot.until(lambda s=second: server.slot.incidents.get("ACCEPT_PAUSED", 0) == s)
            server.pass_time(clock, 1.05)
        rounds = server.slot.rounds
        busy.assert_silent(0.2)
        assert server.slot.rounds - rounds < 30, "the loop spins"
        busy.send(GET[10:])
        assert busy.response().status == 200
        server.until_at_rest()
        server.pass_time(clock, 1.05)
        assert late.response().status == 200
    assert len(caplog.records) == 2


def test_busy_connections_are_never_closed_to_make_room(clock: FakeClock) -> None:
    app = Echo()
    with worker(app, limited(2, max_threads=4), clock_ns=clock) as server:
        running = server.connect()
        running.send(get("/wait"))
        app.gate.entered()
        server.slot.until(lambda: server.server.pool.busy == 1)
        (half,) = half_heads_beside(server)
        server.pass_time(clock, 10)
        with server.connect() as late:
            late.send(GET)
            server.slot.until(lambda: bool(server.slot.incidents))
            assert "IDLE_CLOSED" not in server.slot.incidents
            app.gate.open()
            assert running.response().status == 200
            half.send(GET[10:])
            assert half.response().status == 200
            server.pass_time(clock, 2)
            assert late.response().status == 200


def half_heads_beside(server: WorkerInThread) -> list[Client]:
    """Return one more client with a part of a request, beside one that runs."""
    client = server.connect()
    client.send(GET[:10])
    for _ in range(1000):
        streams = list(server.server.streams.values())
        if len(streams) == 2 and not any(stream.at_rest for stream in streams):
            return [client]
        server.until_next_round()
    raise AssertionError("the head does not come")


# -- the limit of one address ---------------------------------------------------------------------


def from_address(server: WorkerInThread, address: str) -> Client:
    """Return a client that comes from another address of the loopback network."""
    client = Client.__new__(Client)
    client._rest = b""
    client.sock = socket.create_connection(
        server.listener.getsockname(), BOUND_S, source_address=(address, 0)
    )
    server._clients.append(client)
    return client


def test_too_many_connections_of_one_address_are_turned_away() -> None:
    with worker(settings=limited(per_address=2)) as server:
        first, second = server.connect(), server.connect()
        for client in (first, second):
            assert client.ask().status == 200
        with server.connect() as third:
            answer = third.response()
            assert answer.status == 503
            assert answer.fields["retry-after"] == "10"
            assert answer.fields["connection"] == "close"
            third.assert_closed()
        for client in (first, second, from_address(server, "127.0.0.2")):
            assert client.ask().status == 200
        assert incidents(server) == {"TURNED_AWAY": 1}


def test_who_leaves_an_address_makes_room_for_another_of_it() -> None:
    with worker(settings=limited(per_address=1)) as server:
        for _ in range(3):
            with server.connect() as client:
                assert client.ask().status == 200
                with server.connect() as one_more:
                    assert one_more.response().status == 503
                    one_more.assert_closed()
            server.until_connections(0)
        assert dict(server.server.door._from) == {}


def test_a_refusal_can_be_read_although_a_request_was_sent() -> None:
    with worker(settings=limited(per_address=1)) as server:
        first = server.connect()
        assert first.ask().status == 200
        with server.connect() as second:
            second.send(GET + b"x" * 100_000)
            assert second.response().status == 503
            second.assert_closed()
        assert first.ask().status == 200


def test_connections_that_siblings_take_over_count_where_they_are() -> None:
    with siblings(settings=limited(per_address=1)) as (a, b):
        client = a.connect()
        assert client.ask().text.startswith("a ")
        a.until_at_rest()
        (stream,) = a.server.streams.values()
        assert a.on_leader(lambda: a.server.give_away(stream, only_free=False)) is True
        b.until_connections(1)
        a.siblings.target = None
        assert dict(a.server.door._from) == {}
        assert dict(b.server.door._from) == {"127.0.0.1": 1}
        with b.connect() as another:
            assert another.response().status == 503
        with a.connect() as another:
            assert another.ask().text.startswith("a ")


def test_unix_sockets_have_no_address_to_count(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    listener.listen()
    listener.setblocking(False)
    clients = []
    with worker(settings=limited(per_address=1), listener=listener) as server:
        for _ in range(3):
            sock = socket.socket(socket.AF_UNIX)
            clients.append(sock)
            sock.settimeout(BOUND_S)
            sock.connect(str(tmp_path / "sock"))
            sock.sendall(GET)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        assert incidents(server) == {}
        for sock in clients:
            sock.close()
    listener.close()


# -- descriptors ----------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[WrappedListener]:
    listener = WrappedListener()
    yield listener
    listener.close()


def no_descriptors() -> OSError:
    return OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_an_idle_connection_makes_room_where_descriptors_have_run_out(
    clock: FakeClock, listener: WrappedListener, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with worker(settings=limited(), listener=listener, clock_ns=clock) as server:
        oldest, *_ = idle(server, clock, 20)
        listener.failures.append(OSError(number, "none left"))
        assert server.connect().ask().status == 200
        oldest.assert_closed()
        assert incidents(server)["IDLE_CLOSED"] <= ROOM_BATCH
    assert caplog.records == []


def test_accepting_rests_when_descriptors_have_run_out_and_goes_on_by_itself(
    clock: FakeClock, listener: WrappedListener, caplog: pytest.LogCaptureFixture
) -> None:
    with worker(listener=listener, clock_ns=clock) as server:
        (kept,) = half_heads(server, 1)
        listener.failures.append(no_descriptors())
        late = server.connect()
        late.send(GET)
        server.slot.until(lambda: not listener.failures)
        rounds = server.slot.rounds
        late.assert_silent()
        assert server.slot.rounds - rounds < 20, "the loop spins"
        kept.send(GET[10:])
        assert kept.response().status == 200  # those who are here are served on
        server.pass_time(clock, 1.1)
        assert late.response().status == 200
        assert incidents(server) == {"ACCEPT_PAUSED": 1}
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == [
        "accepting no connections for now: Too many open files"
    ]


def test_a_fault_of_the_listener_is_not_taken_for_one_of_the_connection(
    listener: WrappedListener,
) -> None:
    with worker(listener=listener) as server:
        for number in (errno.ECONNABORTED, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH):
            listener.failures.append(OSError(number, "that connection is gone"))
        assert server.connect().ask().status == 200
        assert listener.failures == []
        assert incidents(server) == {}


def test_a_worker_takes_no_more_connections_than_it_has_descriptors_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (130, 130))
    with worker(settings=limited()) as server:
        assert server.server.door._max_connections == 65
