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


# -- what is remembered --------------------------------------------------------------------------


@pytest.fixture
def known_lines() -> dict[bytes, tuple[str, str]]:
    fields_module._known_lines.clear()
    return fields_module._known_lines


def test_field_lines_are_remembered_as_they_were_sent(
    known_lines: dict[bytes, tuple[str, str]],
) -> None:
    cold = parse("X-A:  b \t", "accept: */*")
    assert known_lines[b"X-A:  b \t"] == ("HTTP_X_A", "b")
    assert parse("X-A:  b \t", "accept: */*").environ == cold.environ


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    "line",
    ["Cookie: secret", "COOKIE:secret", "Authorization: secret", "Proxy-Authorization: secret"],
)
def test_secrets_are_not_remembered(
    known_lines: dict[bytes, tuple[str, str]], line: str, times: int
) -> None:
    for _ in range(times):
        parse(line, "X-A: b")
        parse(line, line.lower(), "X-A: b")  # twice in one section goes another way
        block = parse("X-A: b", line)
        assert fields_module.varying_field(block, line.encode()) is not None
    assert b"X-A: b" in known_lines
    kept = repr((known_lines, fields_module._environ_keys, fields_module._valid_hosts))
    assert "secret" not in kept


def test_memory_for_lines_is_bounded_in_number_and_length(
    known_lines: dict[bytes, tuple[str, str]],
) -> None:
    for number in range(5000):
        parse(f"X-A: {number}")
        assert len(known_lines) <= 2048
    parse("X-A: " + "b" * 187, "X-B: " + "b" * 188)
    assert max(map(len, known_lines)) == 192
    assert parse("X-B: " + "b" * 188).environ["HTTP_X_B"] == "b" * 188


def test_a_line_that_was_refused_is_not_remembered(
    known_lines: dict[bytes, tuple[str, str]],
) -> None:
    for line in ("A : b", " A: b", "A", "A: \0"):
        for _ in range(2):
            assert status(line) == 400
            assert line.encode() not in known_lines


def test_what_is_known_is_held_against_the_limits_of_those_who_ask(
    known_lines: dict[bytes, tuple[str, str]],
) -> None:
    lines = ("X_A: b", "Content-Length: 9")
    parse(*lines)
    assert status(*lines, limits=HTTPLimits(max_headers=2)) == 431
    assert status(*lines, limits=HTTPLimits(max_body_bytes=8)) == 413
    assert status(*lines, limits=REFUSING) == 400
    parse("Transfer-Encoding: chunked")
    assert status("Transfer-Encoding: chunked", minor=0) == 400


@pytest.mark.parametrize(
    "line",
    ["Host: a", "Content-Length: 3", "Content-Type: a/b", "Connection: close",
     "Expect: 100-continue", "X_A: b", "Proxy: b"],
)  # fmt: skip
def test_a_line_that_decides_about_more_than_itself_does_not_vary(line: str) -> None:
    lines = (line,) if line != "Host: a" else ()
    assert fields_module.varying_field(parse(*lines, "X-A: b"), line.encode()) is None


def test_a_line_that_comes_twice_does_not_vary() -> None:
    block = parse("X-A: b", "x-a: c", "X-A: ")
    for line in (b"X-A: b", b"x-a: c", b"X-A: "):
        assert fields_module.varying_field(block, line) is None


@pytest.mark.parametrize(
    "line",
    [b"Cookie:a", b"Cookie: a=b; c", b"Cookie:\t\xff ", b"Cookie:", b"Cookie: " + b"a" * 5000],
)
def test_a_line_that_varies_means_what_it_means_in_its_place(line: bytes) -> None:
    raw = b"Host: a\r\nContent-Length: 3\r\n%b\r\nExpect: 100-continue\r\n"
    last = parse_fields(raw % b"Cookie: x", 1, LIMITS)
    before = dict(last.environ)
    found = fields_module.varying_field(last, b"Cookie: x")
    assert found is not None
    block = fields_module.varied(last, *found, line)
    again = parse_fields(raw % line, 1, LIMITS)
    assert block is not None
    assert {name: getattr(block, name) for name in FieldBlock.__slots__} == {
        name: getattr(again, name) for name in FieldBlock.__slots__
    }
    assert last.environ == before, "it was given out already"


@pytest.mark.parametrize(
    "line",
    [b"", b"Cookie", b"cookie: a", b"Cookie : a", b"Set-Cookie: a", b"Cookie: a\n", b"Cookie: \0",
     b"Cookie: a\rb", b" Cookie: a", b"Cookie: a\nContent-Length: 5"],
)  # fmt: skip
def test_a_line_that_is_another_does_not_pass_for_the_one_that_varies(line: bytes) -> None:
    block = parse("Cookie: x")
    assert fields_module.varied(block, "HTTP_COOKIE", b"Cookie:", line) is None
