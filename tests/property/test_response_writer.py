"""Response heads: what is written reads back the same, and nothing forged gets out."""

from __future__ import annotations

import http.client
import io
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from httpcore_srv.errors import AppError
from httpcore_srv.response_writer import Framing, encode_head, encode_interim

DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
TCHARS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUE_CHARS = [chr(i) for i in [0x09, *range(0x20, 0x7F), *range(0x80, 0x100)]]

# What the server itself decides about; everything else is copied through.
OURS = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade", "content-length", "date", "server"}  # fmt: skip

names = st.text(TCHARS, min_size=1, max_size=20)
values = st.text(VALUE_CHARS, max_size=40)
ordinary = st.tuples(names.filter(lambda name: name.lower() not in OURS), values)
special = st.tuples(
    st.sampled_from(sorted(OURS - {"content-length"})).flatmap(
        lambda name: st.sampled_from([name, name.title(), name.upper()])
    ),
    st.sampled_from(["close", "keep-alive", "chunked", "x", ""]),
)
lengths = st.integers(0, 10**18 - 1)
statuses = st.builds(
    "{} {}".format, st.integers(200, 599), st.text(VALUE_CHARS, max_size=20)
) | st.integers(200, 599).map(str)

# Anything at all, with the dangerous characters made likely.
evil_text = st.text(st.characters() | st.sampled_from("\r\n\x00\t :\x85\x1c\u2028"), max_size=20)
evil_pairs = st.tuples(names | evil_text, values | evil_text)


def lines_of(head: bytes) -> list[bytes]:
    """Take a head apart as RFC 9112 says: CRLF ends a line, and nothing else does."""
    assert head.endswith(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    assert all(lines)
    assert not any(b"\r" in line or b"\n" in line or b"\x00" in line for line in lines)
    return lines


def fields_of(head: bytes) -> list[tuple[str, str]]:
    fields = []
    for line in lines_of(head)[1:]:
        name, colon, value = line.decode("latin-1").partition(": ")
        assert colon
        fields.append((name, value))
    return fields


def values_of(head: bytes, wanted: str) -> list[str]:
    return [value for name, value in fields_of(head) if name.lower() == wanted]


@given(
    status=statuses,
    headers=st.lists(ordinary | special, max_size=8),
    declared=st.none() | lengths,
    known=st.none() | lengths,
    minor=st.integers(0, 1),
    is_head=st.booleans(),
    keep_alive=st.booleans(),
)
def test_what_is_written_reads_back_the_same(
    status: str,
    headers: list[tuple[str, str]],
    declared: int | None,
    known: int | None,
    minor: int,
    is_head: bool,
    keep_alive: bool,
) -> None:
    if declared is not None:
        headers = [*headers, ("Content-Length", str(declared))]
    head, framing, _, kept = encode_head(status, headers, minor, is_head, keep_alive, known, DATE)
    assert lines_of(head)[0].decode("latin-1").rstrip() == f"HTTP/1.1 {status}".rstrip()

    copied = [pair for pair in headers if pair[0].lower() not in OURS]
    assert [pair for pair in fields_of(head) if pair[0].lower() not in OURS] == copied
    for name in ("date", "server"):
        assert len(values_of(head, name)) == 1
    for name in ("keep-alive", "proxy-connection", "te", "trailer", "upgrade"):
        assert values_of(head, name) == []

    # One framing, and the one that was promised (RFC 9112 section 6.3).
    content_length = values_of(head, "content-length")
    chunked = values_of(head, "transfer-encoding")
    if framing is Framing.LENGTH:
        assert content_length == [str(known if declared is None else declared)]
    elif framing is not Framing.NONE:
        assert content_length == []
    assert chunked == (["chunked"] if framing is Framing.CHUNKED else [])
    if framing is Framing.CHUNKED:
        assert minor == 1
    if is_head or status[:3] in ("204", "205", "304"):
        assert framing is Framing.NONE

    # And the client hears what will become of the connection.
    assert kept <= keep_alive
    assert framing is not Framing.CLOSE or not kept
    expected = ["close"] if not kept else [] if minor else ["keep-alive"]
    assert values_of(head, "connection") == expected


class Wire:
    """Enough of a socket for http.client."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


@given(
    status=statuses,
    headers=st.lists(
        st.tuples(
            names.filter(lambda name: name.lower() not in OURS),
            values.map(lambda value: value.strip(" \t")),
        ),
        max_size=8,
    ),
    content=st.binary(max_size=50),
    known=st.booleans(),
    minor=st.integers(0, 1),
)
def test_the_standard_librarys_client_reads_what_was_written(
    status: str, headers: list[tuple[str, str]], content: bytes, known: bool, minor: int
) -> None:
    assume(status[:3] not in ("204", "205", "304"))
    length = len(content) if known else None
    head, framing, _, kept = encode_head(status, headers, minor, False, True, length, DATE)
    if framing is Framing.CHUNKED:
        wire = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        wire += b"0\r\n\r\n"
    else:
        wire = content
    if kept:
        wire += b"HTTP/1.1 200 the next one\r\n\r\n"
    response = http.client.HTTPResponse(Wire(head + wire))  # type: ignore[arg-type]
    response.begin()
    assert response.status == int(status[:3])
    assert response.read() == content
    assert response.will_close is not kept
    for name, _ in headers:
        meant = [value for key, value in headers if key.lower() == name.lower()]
        assert response.headers.get_all(name) == meant


@given(
    status=statuses | evil_text | st.builds("200 {}".format, evil_text),
    headers=st.lists(ordinary | evil_pairs, max_size=4),
    minor=st.integers(0, 1),
    length=st.none() | lengths,
)
def test_no_line_gets_out_that_the_application_did_not_mean(
    status: str, headers: list[tuple[str, str]], minor: int, length: int | None
) -> None:
    for _ in range(2):  # what was refused once is not remembered as good
        try:
            head, *_ = encode_head(status, headers, minor, False, True, length, DATE)
        except AppError:
            continue
        ordinary_ones = [pair for pair in headers if pair[0].lower() not in OURS]
        assert [p for p in fields_of(head) if p[0].lower() not in OURS] == ordinary_ones


@given(
    st.lists(
        st.tuples(
            st.one_of(names, st.none(), st.integers(), st.binary(max_size=3)),
            st.one_of(values, st.none(), st.integers(), st.binary(max_size=3)),
        ),
        max_size=4,
    )
)
def test_pairs_of_anything_raise_nothing_but_app_error(headers: list[tuple[Any, Any]]) -> None:
    try:
        head, *_ = encode_head("200 OK", headers, 1, False, True, 0, DATE)
    except AppError:
        return
    lines_of(head)


@given(st.lists(ordinary, max_size=6))
def test_an_interim_response_is_its_fields_and_nothing_else(
    headers: list[tuple[str, str]],
) -> None:
    data = encode_interim(103, headers)
    assert lines_of(data)[0] == b"HTTP/1.1 103 Early Hints"
    written = [(name, value.strip(" \t")) for name, value in fields_of(data)]
    assert written == [(name, value.strip(" \t")) for name, value in headers]


@given(st.lists(ordinary, max_size=3), special | st.tuples(st.just("Content-Length"), values))
def test_an_interim_response_says_nothing_of_content_or_connection(
    headers: list[tuple[str, str]], wrong: tuple[str, str]
) -> None:
    with pytest.raises(AppError):
        encode_interim(103, [*headers, wrong])


@given(st.lists(evil_pairs, max_size=4))
def test_nothing_forged_gets_into_an_interim_response(headers: list[Any]) -> None:
    try:
        data = encode_interim(103, headers)
    except AppError:
        return
    assert len(lines_of(data)) == 1 + len(headers)
    assert not {name.lower() for name, _ in fields_of(data)} & OURS
