"""Connection: what state bytes and answers bring it into, and where bodies wait."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from typing import IO

import pytest

from httpcore_srv.connection import NEXT, Connection, Event, State
from httpcore_srv.errors import ProtocolError
from httpcore_srv.messages import RequestHead
from httpcore_srv.settings import HTTPLimits
from tests.fakes.store import SpyStore, full_disk, no_space

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OTHER = b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECTING = POST.replace(b"Content", b"Expect: 100-continue\r\nContent")
BAD = b"GET /a HTTP/9.9\r\n\r\n"

MEMORY_BYTES = 100


class Full(io.BytesIO):
    """A file on a file system without room; `at` says where that shows."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def write(self, data: object) -> int:
        if self._at == "write":
            raise no_space()
        return super().write(data)  # type: ignore[arg-type]

    def seek(self, offset: int, whence: int = 0) -> int:
        # A buffered file writes what it still holds when it is told to seek.
        if self._at == "seek":
            raise no_space()
        return super().seek(offset, whence)

    def flush(self) -> None:
        if self._at == "seek":
            raise no_space()
        super().flush()


@pytest.fixture
def store() -> Iterator[SpyStore]:
    store = SpyStore()
    yield store
    store.close()


@pytest.fixture
def connection(store: SpyStore) -> Connection:
    return Connection(HTTPLimits(body_memory_bytes=MEMORY_BYTES), store)


def request_of(connection: Connection, data: bytes) -> RequestHead:
    request = connection.receive(data)
    assert isinstance(request, RequestHead)
    return request


# -- states --------------------------------------------------------------------------------


def test_a_new_connection_awaits_a_head(connection: Connection) -> None:
    assert connection.state is State.AWAITING_HEAD
    assert connection.at_rest
    assert not connection.has_unread
    assert connection.next_request() is None
    assert connection.state is State.AWAITING_HEAD


def test_a_whole_request_is_handed_out_and_awaits_its_response(connection: Connection) -> None:
    assert request_of(connection, GET).path == "/a"
    assert connection.state is State.RESPONDING
    assert not connection.at_rest
    assert not connection.has_unread


def test_after_a_response_the_next_request_is_awaited(connection: Connection) -> None:
    for _ in range(3):
        request_of(connection, GET)
        connection.done_and_kept()
        assert connection.at_rest
        assert connection.next_request() is None


def test_after_the_last_response_the_connection_is_closing(connection: Connection) -> None:
    request_of(connection, GET)
    connection.done_and_closed()
    assert connection.state is State.CLOSING
    assert not connection.at_rest


@pytest.mark.parametrize("cut", range(1, len(GET)))
def test_a_part_of_a_head_is_no_rest(connection: Connection, cut: int) -> None:
    assert connection.receive(GET[:cut]) is None
    assert connection.state is State.RECEIVING_HEAD
    assert not connection.at_rest
    assert connection.has_unread
    assert request_of(connection, GET[cut:]).path == "/a"


def test_a_head_begins_once(connection: Connection) -> None:
    # That is when its deadline is set: more bytes do not buy more time.
    began = []
    for octet in GET[:-1]:
        connection.receive(bytes([octet]))
        began.append(connection.head_just_began)
    assert began == [True] + [False] * (len(GET) - 2)


def test_the_next_head_begins_anew(connection: Connection) -> None:
    connection.receive(GET[:3])
    connection.receive(GET[3:])
    connection.done_and_kept()
    connection.receive(GET[:3])
    assert connection.head_just_began


def test_an_empty_line_before_a_request_begins_no_head(connection: Connection) -> None:
    # Old clients send one after a body; an idle connection stays at rest.
    assert connection.receive(b"\r\n") is None
    assert connection.at_rest
    assert not connection.head_just_began
    assert request_of(connection, GET).path == "/a"


def test_a_body_is_waited_for_before_the_request_is_handed_out(connection: Connection) -> None:
    assert connection.receive(POST) is None
    assert connection.state is State.RECEIVING_BODY
    assert connection.receive(b"hell") is None
    assert connection.has_unread
    assert request_of(connection, b"o").path == "/p"
    assert connection.state is State.RESPONDING
    assert not connection.has_unread


@pytest.mark.parametrize("cut", range(1, len(POST) + 4))
def test_a_request_with_body_cut_anywhere_is_one_request(connection: Connection, cut: int) -> None:
    whole = POST + b"hello"
    assert connection.receive(whole[:cut]) is None
    assert request_of(connection, whole[cut:]).path == "/p"
    assert connection.take_body().read() == b"hello"


# -- bodies --------------------------------------------------------------------------------


def test_a_request_without_body_has_an_empty_one(connection: Connection) -> None:
    request_of(connection, GET)
    assert connection.take_body().read() == b""
    assert connection.body_length == 0


def test_a_body_stands_at_its_beginning_and_says_its_length(connection: Connection) -> None:
    request_of(connection, POST + b"hello")
    body = connection.take_body()
    assert body.read(2) == b"he"
    assert body.readline() == b"llo"
    assert connection.body_length == 5


def test_a_chunked_body_is_put_together(connection: Connection, store: SpyStore) -> None:
    assert connection.receive(CHUNKED + b"3\r\nhel\r\n") is None
    request_of(connection, b"2\r\nlo\r\n0\r\n\r\n")
    assert connection.take_body().read() == b"hello"
    assert connection.body_length == 5
    assert store.made == []


def test_the_length_is_that_of_the_request_handed_out_last(connection: Connection) -> None:
    for raw, length in ((POST + b"hello", 5), (GET, 0), (CHUNKED + b"1\r\nx\r\n0\r\n\r\n", 1)):
        request_of(connection, raw)
        assert connection.body_length == length
        connection.take_body()
        connection.done_and_kept()


def post(count: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % count


@pytest.mark.parametrize(("count", "spooled"), [(MEMORY_BYTES, False), (MEMORY_BYTES + 1, True)])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_body_above_the_limit_waits_in_a_file(
    connection: Connection, store: SpyStore, count: int, spooled: bool, step: int
) -> None:
    content = bytes(i % 256 for i in range(count))
    connection.receive(post(count))
    for start in range(0, count, step):
        connection.receive(content[start : start + step])
    assert connection.state is State.RESPONDING
    assert len(store.made) == int(spooled)
    body = connection.take_body()
    assert (body in store.made) is spooled
    assert body.read() == content
    assert connection.body_length == count


def test_the_next_body_knows_nothing_of_the_one_before(
    connection: Connection, store: SpyStore
) -> None:
    request_of(connection, post(200) + b"x" * 200)
    connection.take_body()
    connection.done_and_kept()
    request_of(connection, POST + b"hello")
    assert connection.take_body().read() == b"hello"
    assert len(store.made) == 1


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EMFILE, 503)])
def test_without_a_file_for_a_body_the_connection_is_at_its_end(
    connection: Connection, store: SpyStore, number: int, status: int
) -> None:
    def no_file() -> IO[bytes]:
        raise OSError(number, os.strerror(number))

    store.make = no_file
    with pytest.raises(ProtocolError) as caught:
        connection.receive(post(200) + b"x" * 200)
    assert caught.value.status == status
    assert caught.value.retry_after_s > 0
    assert connection.state is State.CLOSING


def test_a_spool_that_runs_full_ends_the_connection_and_is_closed(
    connection: Connection, store: SpyStore
) -> None:
    store.make = lambda: Full("write")
    with pytest.raises(ProtocolError) as caught:
        connection.receive(post(200) + b"x" * 200)
    assert caught.value.status == 507
    assert connection.state is State.CLOSING
    assert store.made[0].closed


@pytest.mark.parametrize("make", [lambda: Full("seek"), full_disk])
def test_a_spool_that_runs_full_at_the_last_moment_shows_before_the_request_is_handed_out(
    connection: Connection, store: SpyStore, make: Callable[[], IO[bytes]]
) -> None:
    store.make = make
    with pytest.raises(ProtocolError) as caught:
        connection.receive(post(200) + b"x" * 200)
    assert caught.value.status == 507
    assert connection.state is State.CLOSING
    assert store.made[0].closed


# -- 100-continue --------------------------------------------------------------------------


def test_a_client_that_waits_is_known_until_it_sends(connection: Connection) -> None:
    connection.receive(EXPECTING)
    assert connection.wants_continue
    connection.receive(b"he")
    assert not connection.wants_continue
    request_of(connection, b"llo")
    assert not connection.wants_continue


def test_a_client_that_did_not_wait_needs_no_answer(connection: Connection) -> None:
    request_of(connection, EXPECTING + b"hello")
    assert not connection.wants_continue
    assert connection.take_body().read() == b"hello"


def test_a_client_that_sent_a_part_at_once_needs_no_answer(connection: Connection) -> None:
    connection.receive(EXPECTING + b"h")
    assert not connection.wants_continue


def test_no_answer_is_needed_where_nothing_is_expected(connection: Connection) -> None:
    connection.receive(POST)
    assert not connection.wants_continue


def test_an_empty_chunked_body_ends_the_waiting(connection: Connection) -> None:
    expecting = CHUNKED.replace(b"Host", b"Expect: 100-continue\r\nHost")
    assert connection.receive(expecting) is None
    assert connection.wants_continue
    request_of(connection, b"0\r\n\r\n")
    assert not connection.wants_continue


# -- pipelining ----------------------------------------------------------------------------


def test_pipelined_requests_come_one_after_each_response(connection: Connection) -> None:
    assert request_of(connection, GET + POST + b"hello" + OTHER).path == "/a"
    seen = []
    for _ in range(2):
        assert connection.has_unread
        connection.done_and_kept()
        request = connection.next_request()
        assert request is not None
        seen.append((request.path, connection.take_body().read()))
    assert seen == [("/p", b"hello"), ("/b", b"")]
    assert not connection.has_unread
    connection.done_and_kept()
    assert connection.next_request() is None
    assert connection.at_rest


def test_a_part_of_a_pipelined_head_begins_when_it_is_looked_at(connection: Connection) -> None:
    request_of(connection, GET + OTHER[:5])
    connection.done_and_kept()
    assert connection.at_rest
    assert connection.has_unread
    assert connection.next_request() is None
    assert connection.state is State.RECEIVING_HEAD
    assert connection.head_just_began
    assert request_of(connection, OTHER[5:]).path == "/b"


def test_a_fault_behind_a_good_request_waits_for_its_response(connection: Connection) -> None:
    assert request_of(connection, GET + BAD).path == "/a"
    connection.done_and_kept()
    with pytest.raises(ProtocolError) as caught:
        connection.next_request()
    assert caught.value.status == 505
    assert connection.state is State.CLOSING


# -- faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", GET[:7]])
def test_a_fault_in_a_head_ends_the_connection(connection: Connection, before: bytes) -> None:
    if before:
        connection.receive(before)
    with pytest.raises(ProtocolError):
        connection.receive(b"\x00\n\r\n")
    assert connection.state is State.CLOSING


def test_a_fault_in_a_body_ends_the_connection_and_drops_the_body(
    connection: Connection, store: SpyStore
) -> None:
    connection.receive(CHUNKED + b"c8\r\n" + b"x" * 200)
    assert not store.made[0].closed
    with pytest.raises(ProtocolError):
        connection.receive(b"no line end")
    assert connection.state is State.CLOSING
    assert store.made[0].closed


@pytest.mark.parametrize("data", [b"", GET[:5], POST + b"he", GET])
def test_the_owner_may_end_a_connection_whatever_its_state(
    connection: Connection, data: bytes
) -> None:
    if data:
        connection.receive(data)
    connection.fault()
    assert connection.state is State.CLOSING


def test_ending_a_connection_closes_the_file_of_a_body(
    connection: Connection, store: SpyStore
) -> None:
    connection.receive(post(300) + b"x" * 200)
    connection.fault()
    assert store.made[0].closed


class Stubborn(io.BytesIO):
    """A file that cannot write what it still holds when it is closed."""

    def close(self) -> None:
        super().close()
        raise no_space()


def test_a_file_that_fails_to_close_is_no_further_fault(
    connection: Connection, store: SpyStore
) -> None:
    store.make = Stubborn
    connection.receive(CHUNKED + b"c8\r\n" + b"x" * 200)
    with pytest.raises(ProtocolError):
        connection.receive(b"no line end")
    assert connection.state is State.CLOSING


def test_a_connection_whose_file_fails_to_close_can_be_ended(
    connection: Connection, store: SpyStore
) -> None:
    store.make = Stubborn
    connection.receive(post(300) + b"x" * 200)
    connection.fault()
    assert connection.state is State.CLOSING


def test_ending_a_connection_leaves_a_body_that_was_taken_alone(
    connection: Connection, store: SpyStore
) -> None:
    request_of(connection, post(200) + b"x" * 200)
    body = connection.take_body()
    connection.fault()
    assert body.read() == b"x" * 200


# -- moving on -----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 5, len(GET) - 1])
def test_what_was_not_used_lets_another_connection_go_on(
    connection: Connection, store: SpyStore, cut: int
) -> None:
    request_of(connection, POST + b"hello" + GET[:cut])
    connection.take_body()
    connection.done_and_kept()
    connection.next_request()
    unparsed = connection.unparsed()
    assert unparsed == GET[:cut]
    other = Connection(HTTPLimits(), store)
    if unparsed:
        assert other.receive(unparsed) is None
        assert other.head_just_began
    assert request_of(other, GET[cut:]).path == "/a"


# -- the table -----------------------------------------------------------------------------


PUT = b"PUT /a HTTP/1.1\r\nHost: h\r\n\r\n"  # begins as POST does
BYTES = {Event.PART_OF_HEAD: PUT[:5], Event.HEAD_WITH_BODY: POST, Event.REQUEST: PUT}


def in_state(state: State) -> Connection:
    connection = Connection(HTTPLimits(), SpyStore())
    if state is State.RECEIVING_HEAD:
        connection.receive(b"P")
    elif state is State.RECEIVING_BODY:
        connection.receive(POST)
    elif state is State.RESPONDING:
        connection.receive(GET)
    elif state is State.CLOSING:
        connection.fault()
    assert connection.state is state
    return connection


def cause(connection: Connection, event: Event) -> None:
    """Bring the event about, as the outside can."""
    if event is Event.FAULT:
        connection.fault()
    elif event in (Event.DONE_KEEP, Event.DONE_CLOSE):
        if event is Event.DONE_KEEP:
            connection.done_and_kept()
        else:
            connection.done_and_closed()
    elif connection.state is State.RECEIVING_BODY:
        connection.receive(b"hello")
    else:
        received = 1 if connection.state is State.RECEIVING_HEAD else 0
        connection.receive(BYTES[event][received:])


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_row_and_every_row_leads_to_states(state: State) -> None:
    assert set(NEXT) == set(State)
    assert all(isinstance(event, Event) for event in NEXT[state])
    assert all(isinstance(target, State) for target in NEXT[state].values())


def test_nothing_leads_out_of_closing_and_everything_can_lead_there() -> None:
    assert NEXT[State.CLOSING] == {}
    assert all(NEXT[state][Event.FAULT] is State.CLOSING for state in State if NEXT[state])


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_event_moves_as_the_table_says_or_is_our_bug(state: State, event: Event) -> None:
    if state is State.RECEIVING_BODY and event in (Event.PART_OF_HEAD, Event.HEAD_WITH_BODY):
        pytest.skip("bytes are body there, whatever they look like")
    connection = in_state(state)
    target = NEXT[state].get(event)
    if target is None:
        with pytest.raises(KeyError):
            cause(connection, event)
        assert connection.state is state
    else:
        cause(connection, event)
        assert connection.state is target


# -- bodies that are handed out before they are whole --------------------------------------------

LONG = b"POST /l HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\n"


@pytest.fixture
def live(store: SpyStore) -> Connection:
    """A connection whose owner hands out what may be."""
    return Connection(HTTPLimits(body_memory_bytes=MEMORY_BYTES), store, live=True)


@pytest.mark.parametrize(("size", "may"), [(0, False), (99, False), (100, True), (299, True)])
def test_a_large_body_may_go_live_when_the_memory_is_full(
    live: Connection, size: int, may: bool
) -> None:
    assert live.receive(LONG + bytes(size)) is None
    assert live.may_go_live is may


def test_what_is_handed_out_leaves_the_rest_to_others(live: Connection, store: SpyStore) -> None:
    live.receive(LONG + b"x" * 150)
    head = live.hand_out()
    assert head.path == "/l"
    assert live.state is State.RESPONDING
    assert (live.body_length, live.body_left) == (300, 150)
    assert live.has_unread, "what is not read must be dropped before the socket is closed"
    assert live.take_body().read() == b"x" * 150
    assert (store.used, store.made) == (0, [])
    # The rest has been read by others: what comes here next is the next request.
    live.body_came()
    assert not live.has_unread
    live.done_and_kept()
    assert request_of(live, GET).path == "/a"


def test_what_is_not_handed_out_goes_on_in_a_file(live: Connection, store: SpyStore) -> None:
    assert live.receive(LONG + b"x" * 150) is None
    assert live.may_go_live
    assert store.made == []
    assert live.receive(b"x" * 100) is None
    assert not live.may_go_live
    assert len(store.made) == 1
    assert live.receive(b"x" * 50) is not None
    assert live.take_body().read() == b"x" * 300


@pytest.mark.parametrize("data", [CHUNKED + b"96\r\n" + bytes(150), LONG + bytes(300), GET, POST])
def test_what_may_not_go_live(live: Connection, data: bytes) -> None:
    live.receive(data)
    assert not live.may_go_live


def test_nothing_goes_live_unless_the_owner_wants_it(
    connection: Connection, store: SpyStore
) -> None:
    connection.receive(LONG + b"x" * 150)
    assert not connection.may_go_live
    assert len(store.made) == 1
