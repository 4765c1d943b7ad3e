"""The patterns, on what their ABNF says and where they depart from it."""

from __future__ import annotations

import re
from typing import AnyStr

import pytest

from httpcore_srv import grammar

TCHARS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_a_token_is_made_of_tchars_and_nothing_else() -> None:
    accepted = {i for i in range(256) if grammar.FIELD_LINE.fullmatch(bytes([i]) + b": a")}
    assert accepted == set(TCHARS.encode())


def test_a_value_takes_all_but_control_characters() -> None:
    accepted = {i for i in range(256) if grammar.FIELD_LINE.fullmatch(b"a:" + bytes([i]))}
    assert accepted == {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}


def test_a_path_takes_pchars_and_what_browsers_leave_raw() -> None:
    accepted = {chr(i) for i in range(256) if grammar.ORIGIN_FORM.fullmatch(f"/{chr(i)}?")}
    forbidden = set(' "#<>\\') | {chr(i) for i in [*range(0x21), *range(0x7F, 0x100)]}
    assert accepted == {chr(i) for i in range(256)} - forbidden


def test_a_query_takes_the_backslash_too() -> None:
    accepted = {chr(i) for i in range(256) if grammar.ORIGIN_FORM.fullmatch(f"/?{chr(i)}")}
    forbidden = set(' "#<>') | {chr(i) for i in [*range(0x21), *range(0x7F, 0x100)]}
    assert accepted == {chr(i) for i in range(256)} - forbidden


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [(b"A: b", b"A", b"b"), (b"C:d", b"C", b"d"), (b"E:", b"E", b""), (b"F: \t g h", b"F", b"g h")],
)
def test_a_field_line_is_name_and_value(line: bytes, name: bytes, value: bytes) -> None:
    match = grammar.FIELD_LINE.fullmatch(line)
    assert match is not None
    assert match.groups() == (name, value)


@pytest.mark.parametrize(
    "line",
    [b"", b"A", b"A b: c", b" A: b", b"\tA: b", b"x\nA: b", b"A: b\rC: d", b"A: b\r", b"A: b\n",
     b"(A: b", b": b", b"A : b", b"A: b\r\n", b"A: b\r\nC: d", b"A: \0", b"\xe4: b"],
)  # fmt: skip
def test_what_is_no_field_line(line: bytes) -> None:
    assert grammar.FIELD_LINE.fullmatch(line) is None


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "a.b.",
        "a_b",
        "a:80",
        "a:",
        "1.2.3.4",
        "[::]",
        "[::1]:8080",
        "[v1.x:y]",
        "%41",
        "a" * 255,
    ],
)
def test_a_host_with_or_without_a_port_is_one(host: str) -> None:
    assert grammar.is_host(host)


@pytest.mark.parametrize(
    "host",
    ["", ":80", "a b", "a,b", "a/b", "a@b", "a:b", "a:80:80", "a:123456", "%4", "%zz", "a" * 256,
     "::1", "[::1", "::1]", "[]", "[1]", "[::g]", "[::1]a", "[fe80::1%25lo]", "[::1::2]", "\xe4",
     "a\n", "[1.2.3.4]", "[v.a]", "a\0"],
)  # fmt: skip
def test_what_is_no_host_is_none(host: str) -> None:
    assert not grammar.is_host(host)


@pytest.mark.parametrize(
    ("path", "decoded"),
    [("/", "/"), ("/%41", "/A"), ("/%2F%2f", "///"), ("/%c3%A9", "/\xc3\xa9"), ("/%2541", "/%41"),
     ("%20%20", "  "), ("/%ff", "/\xff")],
)  # fmt: skip
def test_percent_decoding_happens_once(path: str, decoded: str) -> None:
    assert grammar.percent_decode(path) == decoded


@pytest.mark.parametrize(
    "path", ["/%", "/%4", "/%zz", "/%+1", "/% 1", "/%1_", "/%0x", "/%00", "%%41"]
)
def test_percent_decoding_refuses_what_is_not_two_digits_or_nul(path: str) -> None:
    assert grammar.percent_decode(path) is None


@pytest.mark.parametrize(
    "line",
    [b"0", b"00", b"5", b"aF", b"f" * 16, b"5;a", b"5;a=b", b'5;a="b;c"', b'5;a="\\""', b'5;a="";b',
     b"5 ;\ta = b", b'5;a="\t\xff"'],
)  # fmt: skip
def test_chunk_lines(line: bytes) -> None:
    match = grammar.CHUNK_LINE.match(line + b"\r\nrest")
    assert match is not None
    assert match.end() == len(line) + 2


@pytest.mark.parametrize(
    "line",
    [b"", b" 5", b"5 ", b"+5", b"0x5", b"5_0", b"g", b"f" * 17, b"5;", b"5;=b", b"5;a=", b"5;a b",
     b'5;a="b', b'5;a="\n"', b'5;a="\\\n"', b"5;a\r", b"5;\x00", b"5\r", b"5;a;", b'5;a="b"c'],
)  # fmt: skip
def test_what_is_no_chunk_line(line: bytes) -> None:
    assert grammar.CHUNK_LINE.match(line + b"\r\n") is None


@pytest.mark.timeout(20)  # one pass takes milliseconds, backtracking over this takes hours
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (grammar.FIELD_LINE, b"A:" + b" " * 500_000 + b"\0"),
        (grammar.FIELD_LINE, b"A" * 500_000),
        (grammar.FIELD_LINE, b"A: b\n" * 100_000),
        (grammar.REQUEST_LINE, "A" * 500_000),
        (grammar.REQUEST_LINE, "GET /" + "a" * 500_000),
        (grammar.ORIGIN_REQUEST_LINE, "GET /" + "a?" * 250_000 + " HTTP/1.2"),
        (grammar.ABSOLUTE_FORM, "http://" + "a." * 250_000),
        (grammar.ABSOLUTE_FORM, "http://a/" + "a?" * 250_000 + "#"),
        (grammar.AUTHORITY_FORM, "a" * 500_000),
        (grammar.TRANSFER_CODINGS, "a" + " , a" * 120_000 + "\0"),
        (grammar.TRANSFER_CODINGS, "a" + " " * 500_000),
    ],
)
def test_hostile_texts_are_refused_in_one_pass(pattern: re.Pattern[AnyStr], text: AnyStr) -> None:
    assert pattern.fullmatch(text) is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        b"5" + b" " * 500_000,
        b"5" + b";a" * 250_000,
        b"5;a" + b" " * 500_000 + b"x",
        b'5;a="' + b"\\a" * 250_000,
        b"5" + b' ; a = "b"' * 50_000 + b"\0",
    ],
)
def test_hostile_chunk_lines_are_refused_in_one_pass(text: bytes) -> None:
    assert grammar.CHUNK_LINE.match(text) is None
