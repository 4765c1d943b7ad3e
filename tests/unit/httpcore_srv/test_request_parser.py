"""HTTPRequest: what the corpus cannot say, about calls, memory and time."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from httpcore_srv import request_line
from httpcore_srv.errors import ProtocolError
from httpcore_srv.messages import END_OF_MESSAGE, NEED_DATA, Message, RequestHead
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.settings import HTTPLimits, HTTPSettings, HTTPTimeouts
from tests.corpus.reading import cuttings

GET = b"GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def new(limits: HTTPLimits | None = None) -> HTTPRequest:
    return HTTPRequest(limits or HTTPLimits())


def fed(data: bytes) -> HTTPRequest:
    parser = new()
    parser.receive_data(data)
    return parser


def head_of(message: Message) -> RequestHead:
    assert isinstance(message, RequestHead)
    return message


def test_a_new_parser_needs_data() -> None:
    assert new().next_message() is NEED_DATA


def test_a_head_without_body_is_followed_by_the_next_head() -> None:
    parser = fed(GET + GET)
    assert head_of(parser.next_message()).path == "/a"
    assert head_of(parser.next_message()).query == "b"
    assert parser.next_message() is NEED_DATA


@pytest.mark.parametrize("data", [POST, CHUNKED])
def test_a_head_with_body_is_followed_by_its_pieces_and_its_end(data: bytes) -> None:
    parser = fed(data + GET)
    assert head_of(parser.next_message()).has_body
    assert parser.next_message() == b"hello"
    assert parser.next_message() is END_OF_MESSAGE
    assert head_of(parser.next_message()).method == "GET"


def test_content_length_zero_is_no_body() -> None:
    parser = fed(POST.replace(b"5\r\n\r\nhello", b"0\r\n\r\n") + GET)
    assert not head_of(parser.next_message()).has_body
    assert head_of(parser.next_message()).method == "GET"


def test_body_pieces_are_as_large_as_what_was_received() -> None:
    parser = fed(POST[:-5])
    parser.next_message()
    assert parser.next_message() is NEED_DATA
    for piece in (b"hel", b"lo"):
        parser.receive_data(piece)
        assert parser.next_message() == piece
    assert parser.next_message() is END_OF_MESSAGE


def test_a_fault_is_raised_again_at_every_call_whatever_comes() -> None:
    parser = fed(b"GET / HTTP/9.9\r\n\r\n")
    for more in (GET, GET, b""):
        with pytest.raises(ProtocolError) as caught:
            parser.next_message()
        assert caught.value.status == 505
        parser.receive_data(more)
    assert not parser.at_boundary


def test_nothing_is_kept_of_what_comes_after_a_fault() -> None:
    parser = fed(b"\n")
    with pytest.raises(ProtocolError):
        parser.next_message()
    for _ in range(10):
        parser.receive_data(b"x" * 1000)
    assert len(parser.unparsed()) <= 1000


def test_a_fault_in_a_body_is_for_ever_too() -> None:
    parser = fed(CHUNKED.replace(b"\r\n0\r\n", b"!!") + GET)
    parser.next_message()
    assert parser.next_message() == b"hello"
    for _ in range(2):
        with pytest.raises(ProtocolError):
            parser.next_message()


def test_end_of_file_between_requests_cuts_nothing_off() -> None:
    parser = fed(GET)
    parser.next_message()
    parser.receive_data(b"")
    assert parser.next_message() is NEED_DATA
    assert parser.at_boundary
    assert not parser.truncated


@pytest.mark.parametrize("data", [GET[:1], GET[:-1], POST[:-1], CHUNKED[:-1]])
def test_end_of_file_inside_a_message_truncates_it(data: bytes) -> None:
    parser = fed(data)
    parser.receive_data(b"")
    while parser.next_message() is not NEED_DATA:
        pass
    assert parser.truncated
    assert parser.next_message() is NEED_DATA


def test_requests_received_before_end_of_file_still_come() -> None:
    parser = fed(GET + POST)
    parser.receive_data(b"")
    assert head_of(parser.next_message()).method == "GET"
    assert head_of(parser.next_message()).method == "POST"


def test_at_boundary_and_in_head() -> None:
    parser = new()
    assert (parser.at_boundary, parser.in_head) == (True, False)
    parser.receive_data(POST[:10])
    parser.next_message()
    assert (parser.at_boundary, parser.in_head) == (False, True)
    parser.receive_data(POST[10:-1])
    parser.next_message()
    parser.next_message()
    assert parser.next_message() is NEED_DATA
    assert (parser.at_boundary, parser.in_head) == (False, False)
    parser.receive_data(POST[-1:])
    parser.next_message()
    assert parser.next_message() is END_OF_MESSAGE
    assert (parser.at_boundary, parser.in_head) == (True, False)


def test_an_empty_line_alone_is_no_beginning_of_a_head() -> None:
    parser = fed(GET + b"\r\n")
    parser.next_message()
    assert parser.next_message() is NEED_DATA
    assert (parser.at_boundary, parser.in_head) == (True, False)


@pytest.mark.parametrize("pieces", list(cuttings(GET + GET.replace(b"/a", b"/c") + POST[:20])))
def test_another_parser_can_go_on_with_what_is_unparsed(pieces: list[bytes]) -> None:
    first = new()
    for piece in pieces:
        first.receive_data(piece)
    assert head_of(first.next_message()).path == "/a"
    second = fed(first.unparsed())
    assert head_of(second.next_message()).path == "/c"
    third = fed(second.unparsed() + POST[20:])
    assert head_of(third.next_message()).method == "POST"


def test_the_same_fields_give_the_same_block_whatever_the_request_line() -> None:
    parser = fed(
        GET + GET.replace(b"/a", b"/c") + GET.replace(b"example.com", b"example.org") + GET
    )
    first, second, third, fourth = [head_of(parser.next_message()) for _ in range(4)]
    assert second.fields is first.fields
    assert second.path == "/c"
    assert third.fields.environ["HTTP_HOST"] == "example.org"
    assert fourth.fields.environ == first.fields.environ


def test_a_longer_section_that_begins_like_the_last_is_not_taken_for_it() -> None:
    parser = fed(GET + GET.replace(b"\r\n\r\n", b"\r\nA: b\r\n\r\n") + GET)
    heads = [head_of(parser.next_message()) for _ in range(3)]
    assert [len(head.fields.environ) for head in heads] == [1, 2, 1]


def test_the_same_fields_are_judged_anew_for_another_version() -> None:
    parser = fed(GET + GET.replace(b"HTTP/1.1", b"HTTP/1.0") + GET)
    assert [head_of(parser.next_message()).keep_alive for _ in range(3)] == [True, False, True]


def bytes_held(parser: HTTPRequest) -> int:
    return sum(
        len(held) for held in gc.get_referents(parser) if isinstance(held, bytes | bytearray)
    )


def test_an_idle_connection_keeps_little() -> None:
    large = GET.replace(b"\r\n\r\n", b"\r\nCookie: " + b"c" * 10_000 + b"\r\n\r\n")
    parser = fed(large)
    assert bytes_held(parser) >= 10_000
    parser.next_message()
    assert bytes_held(parser) == 0
    parser.receive_data(GET)
    parser.next_message()
    assert bytes_held(parser) <= len(GET)


def test_a_short_rest_does_not_keep_the_large_piece_that_it_came_in() -> None:
    parser = fed(POST.replace(b"5\r\n\r\nhello", b"60000\r\n\r\n" + b"x" * 60_000) + b"GET /")
    parser.next_message()
    parser.next_message()
    assert parser.next_message() is END_OF_MESSAGE
    assert parser.next_message() is NEED_DATA
    assert parser.unparsed() == b"GET /"
    assert bytes_held(parser) < 200


def test_remembered_request_lines_are_bounded_in_number_and_length() -> None:
    parser = new()
    for number in range(3000):
        parser.receive_data(GET.replace(b"/a", b"/%d" % number))
        parser.next_message()
    parser.receive_data(GET.replace(b"/a", b"/" + b"a" * 5000))
    parser.next_message()
    assert len(request_line.known_request_lines) <= 1024
    assert max(map(len, request_line.known_request_lines)) <= 128


def test_a_remembered_request_line_is_still_held_against_the_limit() -> None:
    fed(GET).next_message()
    strict = new(HTTPLimits(max_request_line_bytes=16))
    strict.receive_data(GET)
    with pytest.raises(ProtocolError) as caught:
        strict.next_message()
    assert caught.value.status == 414


def test_a_head_octet_by_octet_is_looked_at_once() -> None:
    """The work must not grow with the square of the head's length.

    Counted, not timed: how many octets `find` was sent over.
    """

    class Counting(bytearray):
        looked_at = 0

        def find(self, sub, start=0, end=None):  # type: ignore[no-untyped-def]
            Counting.looked_at += min(len(self), len(self) if end is None else end) - start
            return super().find(sub, start, len(self) if end is None else end)

    parser = new()
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: " + b"b" * 20_000 + b"\r\n\r\n"
    parser.receive_data(head[:1])
    parser.receive_data(head[1:2])
    parser.buffer = Counting(parser.buffer)
    for position in range(2, len(head)):
        assert parser.next_message() is NEED_DATA
        parser.receive_data(head[position : position + 1])
    assert head_of(parser.next_message()).method == "GET"
    assert len(head) <= Counting.looked_at <= 2 * len(head)


def test_heads_show_nothing_but_the_request_line() -> None:
    head = head_of(fed(GET).next_message())
    assert repr(head) == "<RequestHead GET /a?b HTTP/1.1>"
    assert (head.target, head.minor, head.keep_alive, head.authority) == ("/a?b", 1, True, None)


CONNECT = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
PASSING = HTTPLimits(pass_connect=True)


def test_connect_is_passed_on_or_refused_as_told() -> None:
    # One after the other, for a line that was judged is remembered.
    for _ in range(2):
        passing = new(PASSING)
        passing.receive_data(CONNECT)
        head = head_of(passing.next_message())
        assert (head.method, head.target, head.path) == ("CONNECT", "example.com:443", "")
        assert not head.keep_alive, "what follows may be meant for a tunnel"
        refusing = new()
        refusing.receive_data(CONNECT)
        with pytest.raises(ProtocolError) as caught:
            refusing.next_message()
        assert caught.value.status == 501


@pytest.mark.parametrize("target", ["/", "*", "example.com", "http://example.com/", ":443", "a:b"])
@pytest.mark.parametrize("limits", [HTTPLimits(), PASSING])
def test_connect_needs_host_and_port_either_way(target: str, limits: HTTPLimits) -> None:
    parser = new(limits)
    parser.receive_data(CONNECT.replace(b"CONNECT example.com:443", b"CONNECT " + target.encode()))
    with pytest.raises(ProtocolError) as caught:
        parser.next_message()
    assert caught.value.status == 400


def test_an_error_knows_its_status() -> None:
    error = ProtocolError(431, "too much")
    assert (error.status, error.message, str(error)) == (431, "too much", "431: too much")
    assert error.retry_after_s == 0
    assert ProtocolError(503, "full", retry_after_s=3).retry_after_s == 3


@pytest.mark.parametrize(
    "settings",
    [
        lambda: HTTPLimits(max_headers=0),
        lambda: HTTPLimits(max_header_bytes=-1),
        lambda: HTTPTimeouts(header_s=0),
        lambda: HTTPTimeouts(body_s=float("nan")),
        lambda: HTTPSettings(min_threads=0),
        lambda: HTTPSettings(min_threads=3, max_threads=2),
        lambda: HTTPLimits(max_connections=0),
        lambda: HTTPLimits(max_buffered_bytes=0),
        lambda: HTTPLimits(body_memory_bytes=0),
        lambda: HTTPLimits(max_connections_per_address=-1),
        lambda: HTTPTimeouts(linger_s=0),
        lambda: HTTPTimeouts(min_rate=-1),
        lambda: HTTPTimeouts(request_s=-0.5),
        lambda: HTTPTimeouts(queue_s=float("nan")),
        lambda: HTTPSettings(thread_idle_s=0),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"above 0|1 <= min"):
        settings()


def test_some_settings_may_be_zero() -> None:
    assert HTTPLimits(max_body_bytes=0).max_body_bytes == 0
    assert HTTPLimits(max_chunk_extension_bytes=0).max_chunk_extension_bytes == 0
    assert HTTPTimeouts(keep_alive_s=0).keep_alive_s == 0
    assert HTTPTimeouts(min_rate=0).min_rate == 0
    assert HTTPTimeouts().request_s == HTTPTimeouts().queue_s == 0
    assert HTTPSettings(max_streams=0).max_streams == 0
    with pytest.raises(ValueError, match="max_streams must not be below 0"):
        HTTPSettings(max_streams=-1)
    assert HTTPSettings().limits == HTTPLimits()
