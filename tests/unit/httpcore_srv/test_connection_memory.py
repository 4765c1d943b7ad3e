"""Connection: what it takes of the worker's memory, and that it gives all of it back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from httpcore_srv.connection import Connection, State
from httpcore_srv.errors import ProtocolError
from httpcore_srv.ports import Incident
from httpcore_srv.settings import HTTPLimits
from httpcore_srv.store import Store
from tests.fakes.store import SpyStore, full_disk, no_space

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LIMITS = HTTPLimits(body_memory_bytes=100)


def post(count: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % count


@pytest.fixture
def store() -> Iterator[SpyStore]:
    store = SpyStore()
    yield store
    store.close()


@pytest.fixture
def connection(store: SpyStore) -> Connection:
    return Connection(LIMITS, store)


# -- what is accounted for --------------------------------------------------------------------


def test_a_connection_at_rest_takes_nothing(connection: Connection, store: SpyStore) -> None:
    connection.receive(GET)
    connection.done_and_kept()
    connection.next_request()
    assert store.used == 0


def test_a_head_that_comes_in_parts_takes_what_it_is_long(
    connection: Connection, store: SpyStore
) -> None:
    for count in (3, 10, len(GET) - 1):
        connection.receive(GET[connection.unparsed_bytes : count])
        assert store.used == count
    assert connection.receive(GET[-1:]) is not None
    assert store.used == 0


def test_a_body_that_comes_in_parts_takes_what_has_come(
    connection: Connection, store: SpyStore
) -> None:
    connection.receive(post(90) + b"x" * 40)
    assert store.used == 40
    connection.receive(b"x" * 30)
    assert store.used == 70
    assert connection.receive(b"x" * 20) is not None
    with connection.take_body() as body:
        assert body.read() == b"x" * 90
    assert store.used == 0


def test_a_body_in_a_file_takes_no_memory(connection: Connection, store: SpyStore) -> None:
    connection.receive(post(400) + b"x" * 100)
    assert store.used == 100
    connection.receive(b"x" * 100)
    assert store.used == 0
    assert store.incidents == [Incident.SPOOLED]


def test_what_waits_for_a_thread_is_held_and_released(
    connection: Connection, store: SpyStore
) -> None:
    assert connection.receive(post(50) + b"x" * 50 + GET) is not None
    assert store.used == 0  # it is soon gone: nobody has to wait
    connection.hold()
    assert store.used == 50 + len(GET)
    connection.hold()
    assert store.used == 50 + len(GET)
    connection.release()
    assert store.used == 0
    connection.release()
    assert store.used == 0


def test_pipelined_requests_take_less_as_they_are_answered(
    connection: Connection, store: SpyStore
) -> None:
    assert connection.receive(GET * 3) is not None
    connection.hold()
    assert store.used == 2 * len(GET)
    connection.done_and_kept()
    assert connection.next_request() is not None
    connection.hold()
    assert store.used == len(GET)
    connection.fault()
    assert store.used == 0


# -- no room ---------------------------------------------------------------------------------


def test_a_head_without_room_is_refused(connection: Connection, store: SpyStore) -> None:
    store.limit(20)
    connection.receive(GET[:20])
    assert store.used == 20
    with pytest.raises(ProtocolError) as caught:
        connection.receive(GET[20:21])
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
    assert connection.state is State.CLOSING
    assert store.used == 0
    assert store.incidents == [Incident.NO_ROOM]


def test_a_whole_request_needs_no_room(connection: Connection, store: SpyStore) -> None:
    store.limit(1)
    assert connection.receive(GET) is not None
    connection.done_and_kept()
    assert connection.receive(post(90) + b"x" * 90) is not None
    assert connection.take_body().read() == b"x" * 90
    assert store.incidents == []


def test_a_body_without_room_goes_to_a_file(connection: Connection, store: SpyStore) -> None:
    store.limit(30)
    connection.receive(post(90) + b"abc" * 10)
    assert (store.used, store.made) == (30, [])
    connection.receive(b"d")
    assert store.used == 0
    assert len(store.made) == 1
    assert connection.receive(b"e" * 59) is not None
    with connection.take_body() as body:
        assert body is store.made[0]
        assert body.read() == b"abc" * 10 + b"d" + b"e" * 59
    assert connection.body_length == 90


def test_a_part_of_a_chunk_line_waits_in_memory_beside_a_file(
    connection: Connection, store: SpyStore
) -> None:
    store.limit(5)
    chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.receive(chunked + b"6\r\nabcdef\r\n0006")
    assert len(store.made) == 1
    assert store.used == 4
    with pytest.raises(ProtocolError) as caught:
        connection.receive(b";x")
    assert caught.value.status == 503
    assert store.made[0].closed
    assert store.used == 0


def test_a_body_that_must_wait_for_a_thread_goes_to_a_file_if_there_is_no_room(
    connection: Connection, store: SpyStore
) -> None:
    store.limit(10)
    assert connection.receive(post(50) + b"x" * 50) is not None
    connection.hold()
    assert store.used == 0
    body = connection.take_body()
    assert body in store.made
    assert body.read() == b"x" * 50
    body.close()


def test_what_is_pipelined_behind_such_a_body_needs_room_too(
    connection: Connection, store: SpyStore
) -> None:
    store.limit(len(GET) - 1)
    assert connection.receive(post(50) + b"x" * 50 + GET) is not None
    with pytest.raises(ProtocolError) as caught:
        connection.hold()
    assert caught.value.status == 503
    connection.fault()  # as its owner does
    assert store.used == 0
    assert all(file.closed for file in store.made)


def test_holding_on_to_less_than_before_gives_the_difference_back(
    connection: Connection, store: SpyStore
) -> None:
    store.limit(60)
    connection.receive(post(90) + b"x" * 60)
    assert store.used == 60
    connection.receive(b"x" * 30)
    connection.hold()  # all of it in a file now
    assert store.used == 0
    with connection.take_body() as body:
        assert body.read() == b"x" * 90


def test_the_real_store_holds_a_body_in_a_real_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    connection = Connection(LIMITS, Store(0, str(tmp_path), lambda incident: None))
    assert connection.receive(post(len(content)) + content) is not None
    with connection.take_body() as body:
        assert os.fstat(body.fileno()).st_size == len(content)
        assert body.read() == content


def no_file() -> IO[bytes]:
    raise no_space()


@pytest.mark.parametrize("make", [no_file, full_disk])
def test_a_disk_that_is_full_while_a_body_waits_shows_before_a_thread_takes_it(
    connection: Connection, store: SpyStore, make: Callable[[], IO[bytes]]
) -> None:
    store.limit(10)
    store.make = make
    assert connection.receive(post(50) + b"x" * 50) is not None
    with pytest.raises(ProtocolError) as caught:
        connection.hold()
    assert caught.value.status == 507
    connection.fault()
    assert store.used == 0
    assert all(file.closed for file in store.made)


@pytest.mark.parametrize("make", [no_file, full_disk])
def test_a_disk_that_is_full_while_a_body_comes_is_answered_at_once_or_at_its_end(
    connection: Connection, store: SpyStore, make: Callable[[], IO[bytes]]
) -> None:
    store.limit(10)
    store.make = make
    connection.receive(post(50) + b"x" * 10)

    def receive_in_pieces() -> None:
        for _ in range(4):
            connection.receive(b"x" * 10)

    with pytest.raises(ProtocolError) as caught:
        receive_in_pieces()
    assert caught.value.status == 507
    assert connection.state is State.CLOSING
    assert store.used == 0
    assert all(file.closed for file in store.made)


# -- every way out -----------------------------------------------------------------------------

BEGINNINGS = {
    "nothing": b"",
    "part of a head": GET[:9],
    "part of a body": post(90) + b"x" * 50,
    "part of a body in a file": post(900) + b"x" * 500,
    "part of a chunk line": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n7;",
    "a request": GET,
    "a request and a part": GET + GET[:9],
    "a request with a body and a part": post(9) + b"x" * 9 + GET[:9],
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_ending_a_connection_gives_everything_back(
    connection: Connection, store: SpyStore, beginning: str
) -> None:
    if BEGINNINGS[beginning]:
        connection.receive(BEGINNINGS[beginning])
    if connection.state is State.RESPONDING:
        connection.hold()
    connection.fault()
    assert store.used == 0
    assert all(file.closed for file in store.made)


@pytest.mark.parametrize("body", [b"", b"x" * 9, b"x" * 900])
def test_a_last_response_gives_everything_back(
    connection: Connection, store: SpyStore, body: bytes
) -> None:
    assert connection.receive(post(len(body)) + body + GET) is not None
    connection.hold()
    connection.done_and_closed()
    assert store.used == 0
    assert all(file.closed for file in store.made)


def test_two_connections_share_one_budget(store: SpyStore) -> None:
    first, second = Connection(LIMITS, store), Connection(LIMITS, store)
    store.limit(60)
    first.receive(post(90) + b"x" * 40)
    second.receive(post(90) + b"y" * 40)
    assert store.used == 40
    assert len(store.made) == 1
    first.fault()
    second.receive(b"y" * 40)
    assert store.used == 0  # what is in a file stays there
    assert second.receive(b"y" * 10) is not None
    with second.take_body() as body:
        assert body in store.made
        assert body.read() == b"y" * 90
