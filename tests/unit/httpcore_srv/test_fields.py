"""From header sections to FieldBlocks."""

from __future__ import annotations

import pytest

from httpcore_srv import fields as fields_module
from httpcore_srv.errors import ProtocolError
from httpcore_srv.fields import parse_fields
from httpcore_srv.messages import FieldBlock
from httpcore_srv.settings import HTTPLimits

LIMITS = HTTPLimits()


def parse(*lines: str, minor: int = 1, limits: HTTPLimits = LIMITS) -> FieldBlock:
    raw = "".join(f"{line}\r\n" for line in ("Host: a", *lines)).encode("latin-1")
    return parse_fields(raw, minor, limits)


def status(*lines: str, minor: int = 1, limits: HTTPLimits = LIMITS) -> int:
    with pytest.raises(ProtocolError) as caught:
        parse(*lines, minor=minor, limits=limits)
    return caught.value.status


def message(*lines: str) -> str:
    with pytest.raises(ProtocolError) as caught:
        parse(*lines)
    return caught.value.message


def test_fields_become_cgi_variables() -> None:
    block = parse("Accept: */*", "X-Y-Z: 1", "content-type: text/plain", "Content-Length: 3")
    assert block.environ == {
        "HTTP_HOST": "a",
        "HTTP_ACCEPT": "*/*",
        "HTTP_X_Y_Z": "1",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
    }
    assert block.content_length == 3
    assert not block.chunked


def test_no_fields_at_all_are_fine_on_http_1_0() -> None:
    block = parse_fields(b"", 0, LIMITS)
    assert block.environ == {}
    assert block.content_length is None


def test_repeated_fields_are_joined_in_their_order() -> None:
    environ = parse("A: 1", "Cookie: x=1", "a: 2", "cookie: y=2", "A: 3").environ
    assert environ["HTTP_A"] == "1, 2, 3"
    assert environ["HTTP_COOKIE"] == "x=1; y=2"


def test_dropped_names_leave_no_trace_but_are_counted() -> None:
    lines = ("X_Y: 1", "Proxy: 2", "PROXY: 3", "X_Y: 4", "Content_Length: 5")
    block = parse(*lines, limits=HTTPLimits(max_headers=6))
    assert block.environ == {"HTTP_HOST": "a"}
    assert block.content_length is None
    assert status(*lines, limits=HTTPLimits(max_headers=5)) == 431


def test_a_chunked_request_has_neither_length_nor_coding_in_its_environ() -> None:
    block = parse("Transfer-Encoding: Chunked")
    assert block.chunked
    assert block.environ == {"HTTP_HOST": "a"}


@pytest.mark.parametrize("length", ["0", "1", "007", "1073741824"])
def test_content_length_is_decimal(length: str) -> None:
    block = parse(f"Content-Length: {length}")
    assert block.content_length == int(length)
    assert block.environ["CONTENT_LENGTH"] == str(int(length))


def test_a_body_above_the_limit_is_413_and_without_a_limit_is_not() -> None:
    assert status("Content-Length: 9", limits=HTTPLimits(max_body_bytes=8)) == 413
    block = parse(f"Content-Length: {10**18}", limits=HTTPLimits(max_body_bytes=0))
    assert block.content_length == 10**18


@pytest.mark.parametrize(
    ("value", "close", "keep_alive"),
    [
        ("close", True, False),
        ("Close", True, False),
        ("keep-alive", False, True),
        ("KEEP-ALIVE , Upgrade", False, True),
        ("keep-alive,\tclose", True, True),
        ("closed", False, False),
        ("", False, False),
    ],
)
def test_connection_options(value: str, close: bool, keep_alive: bool) -> None:
    block = parse(f"Connection: {value}")
    assert (block.close, block.keep_alive) == (close, keep_alive)


def test_expectations() -> None:
    assert parse("Content-Length: 1", "Expect: 100-Continue").expects_continue
    assert parse("Transfer-Encoding: chunked", "Expect: 100-continue").expects_continue
    assert not parse("Content-Length: 0", "Expect: 100-continue").expects_continue
    assert not parse("Content-Length: 1", "Expect: 100-continue", minor=0).expects_continue
    assert parse("Expect: 100-continue, x").unknown_expectation
    assert parse("Expect:").unknown_expectation
    assert not parse("Expect: x", minor=0).unknown_expectation


def test_too_many_fields_are_431_and_as_many_as_allowed_are_not() -> None:
    limits = HTTPLimits(max_headers=3)
    assert parse("A: 1", "B: 2", limits=limits).environ.keys() == {"HTTP_HOST", "HTTP_A", "HTTP_B"}
    assert status("A: 1", "B: 2", "C: 3", limits=limits) == 431
    assert status("A: 1", "A: 1", "A: 1", limits=limits) == 431  # lines, not names


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (" folded", "white space (obs-fold)"),
        ("A\nB: c", "LF of its own"),
        ("A: b\rc", "LF of its own"),
        ("nothing", "no colon"),
        (": b", "no name"),
        ("A : b", "before the colon"),
        ("A(: b", "no token"),
        ("A: \x01", "control character"),
    ],
)
def test_the_log_learns_which_line_is_wrong_and_why(line: str, fault: str) -> None:
    text = message("Good: one", line, "Authorization: secret")
    assert text.startswith("header line 3 ")
    assert fault in text


def test_no_value_ever_gets_into_a_message() -> None:
    for line in ("Authorization: secret\x01", "Host: secret", "Content-Length: secret",
                 "Transfer-Encoding: secret"):  # fmt: skip
        assert "secret" not in message(line)
    block = parse("Authorization: secret")
    assert "secret" not in repr(block)
    assert "HTTP_AUTHORIZATION" in repr(block)


def test_the_caches_stay_bounded() -> None:
    for number in range(3000):
        parse_fields(f"Host: h{number}\r\nX-{number}: a\r\n".encode(), 1, LIMITS)
    assert len(fields_module._environ_keys) <= 1024
    assert len(fields_module._valid_hosts) <= 1024
    parse_fields(b"Host: " + b"h" * 200 + b"\r\nX-" + b"y" * 200 + b": a\r\n", 1, LIMITS)
    assert max(map(len, fields_module._environ_keys)) <= 64
    assert max(map(len, fields_module._valid_hosts)) <= 64


def test_a_cache_never_lets_anything_through() -> None:
    parse("A: b")
    assert status("Host: a") == 400  # the second one, though the value is known
    assert status("A : b") == 400


REFUSING = HTTPLimits(refuse_underscores=True)


@pytest.mark.parametrize(
    "line", ["X_Forwarded_For: a", "Content_Length: 5", "_: a", "A_: a", "X-A_b: c"]
)
def test_a_name_with_an_underscore_is_left_out_or_refused_as_told(line: str) -> None:
    block = parse(line, "X-Other: b")
    assert block.environ == {"HTTP_HOST": "a", "HTTP_X_OTHER": "b"}
    assert status(line, limits=REFUSING) == 400
    assert status("X-Other: b", line, minor=0, limits=REFUSING) == 400


def test_an_underscore_in_a_value_is_no_fault() -> None:
    assert parse("X-A: b_c", limits=REFUSING).environ["HTTP_X_A"] == "b_c"


def test_the_name_that_was_refused_is_not_told_by_its_value() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse("X_Secret: password", limits=REFUSING)
    assert "password" not in caught.value.message
