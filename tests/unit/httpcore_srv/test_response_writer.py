"""Response heads: the framing of every kind of response, and what never gets out."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from httpcore_srv import response_writer
from httpcore_srv.errors import AppError
from httpcore_srv.response_writer import (
    SERVER,
    Framing,
    encode_head,
    encode_interim,
    error_page,
)

DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
DATE_VALUE = "Sun, 06 Nov 1994 08:49:37 GMT"


class Written(NamedTuple):
    """An encoded head, taken apart again."""

    status_line: str
    fields: list[tuple[str, str]]
    framing: Framing
    length: int
    keep_alive: bool

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1
        return values[0] if values else None


def encode(
    status: str = "200 OK",
    headers: Sequence[Any] = (),
    *,
    minor: int = 1,
    is_head: bool = False,
    keep_alive: bool = True,
    length: int | None = None,
) -> Written:
    head, framing, left, kept = encode_head(
        status, headers, minor, is_head, keep_alive, length, DATE
    )
    assert head.endswith(b"\r\n\r\n")
    first, *rest = head[:-4].decode("latin-1").split("\r\n")
    fields = []
    for line in rest:
        name, colon, value = line.partition(": ")
        assert colon
        fields.append((name, value))
    return Written(first, fields, framing, left, kept)


# -- framing -------------------------------------------------------------------------------

NONE, LENGTH, CHUNKED, CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE


@pytest.mark.parametrize(
    ("code", "declared", "known", "minor", "is_head", "framing", "content_length"),
    [
        # The application declares a length: it counts, whatever else is known.
        (200, 5, None, 1, False, LENGTH, "5"),
        (200, 5, 9, 1, False, LENGTH, "5"),
        (200, 0, None, 1, False, LENGTH, "0"),
        (200, 5, None, 0, False, LENGTH, "5"),
        (404, 5, None, 1, False, LENGTH, "5"),
        # It declares none, but the content is all there.
        (200, None, 9, 1, False, LENGTH, "9"),
        (200, None, 0, 1, False, LENGTH, "0"),
        (200, None, 9, 0, False, LENGTH, "9"),
        # A stream: chunks, and for HTTP/1.0 the end of the connection.
        (200, None, None, 1, False, CHUNKED, None),
        (500, None, None, 1, False, CHUNKED, None),
        (200, None, None, 0, False, CLOSE, None),
        # HEAD: what a GET would have said, and no content.
        (200, 5, None, 1, True, NONE, "5"),
        (200, 5, 0, 1, True, NONE, "5"),
        (200, None, 9, 1, True, NONE, "9"),
        (200, None, None, 1, True, NONE, None),
        (200, None, None, 0, True, NONE, None),
        # 204: no content and no length (RFC 9110 section 8.6).
        (204, None, None, 1, False, NONE, None),
        (204, None, 0, 1, False, NONE, None),
        (204, 5, 5, 1, False, NONE, None),
        (204, 0, None, 0, False, NONE, None),
        (204, None, 0, 1, True, NONE, None),
        # 205: no content, and the client must see that (section 15.3.6).
        (205, None, None, 1, False, NONE, "0"),
        (205, 7, 7, 1, False, NONE, "0"),
        (205, None, None, 0, False, NONE, "0"),
        # 304: the length of what was not sent, if the application knows it.
        (304, None, None, 1, False, NONE, None),
        (304, None, 0, 1, False, NONE, None),
        (304, 5, 0, 1, False, NONE, "5"),
        (304, 5, None, 1, True, NONE, "5"),
        (304, None, 0, 0, True, NONE, None),
    ],
)
def test_framing(
    code: int,
    declared: int | None,
    known: int | None,
    minor: int,
    is_head: bool,
    framing: Framing,
    content_length: str | None,
) -> None:
    headers = [] if declared is None else [("Content-Length", str(declared))]
    written = encode(f"{code} X", headers, minor=minor, is_head=is_head, length=known)
    assert written.framing is framing
    assert written.one("Content-Length") == content_length
    assert written.one("Transfer-Encoding") == ("chunked" if framing is CHUNKED else None)
    assert written.keep_alive is (framing is not CLOSE)
    if framing is LENGTH:
        assert written.length == int(content_length or "")


def test_a_head_without_content_does_not_say_that_a_get_would_have_none() -> None:
    assert encode(is_head=True, length=0).one("Content-Length") is None


@pytest.mark.parametrize("status", ["200 OK", "304 Not Modified"])
def test_nothing_is_left_to_be_sent_of_a_response_without_content(status: str) -> None:
    assert encode(status, [("Content-Length", "5")], is_head=True).length == 0


def test_a_length_of_eighteen_digits_is_written_as_it_is() -> None:
    assert encode(headers=[("Content-Length", "9" * 18)]).one("Content-Length") == "9" * 18


# -- connection ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minor", "keep_alive", "said"),
    [(1, True, None), (1, False, "close"), (0, True, "keep-alive"), (0, False, "close")],
)
def test_the_connection_field_says_what_the_version_does_not(
    minor: int, keep_alive: bool, said: str | None
) -> None:
    written = encode(minor=minor, keep_alive=keep_alive, length=1)
    assert written.one("Connection") == said
    assert written.keep_alive is keep_alive


def test_a_stream_to_an_old_client_says_that_the_connection_ends() -> None:
    written = encode(minor=0)
    assert written.one("Connection") == "close"
    assert not written.keep_alive


@pytest.mark.parametrize("value", ["close", "Close", "CLOSE", "x, close", "close, x"])
def test_an_application_may_close_the_connection(value: str) -> None:
    written = encode(headers=[("Connection", value)], length=1)
    assert written.all("Connection") == ["close"]
    assert not written.keep_alive


@pytest.mark.parametrize("value", ["keep-alive", "upgrade", ""])
def test_an_application_cannot_say_anything_else_about_the_connection(value: str) -> None:
    assert encode(headers=[("Connection", value)], length=1).all("Connection") == []
    written = encode(headers=[("Connection", value)], length=1, keep_alive=False)
    assert written.all("Connection") == ["close"]
    assert not written.keep_alive


# -- fields --------------------------------------------------------------------------------


def test_ordinary_fields_go_out_in_order_with_their_duplicates_and_their_case() -> None:
    headers = [("Set-Cookie", "a=1"), ("x-ONE", "1"), ("Set-Cookie", "b=2"), ("X-Empty", "")]
    assert encode(headers=headers, length=0).fields[:4] == headers


def test_date_and_server_are_said_once() -> None:
    written = encode(length=0)
    assert written.one("Date") == DATE_VALUE
    assert written.one("Server") == SERVER


@pytest.mark.parametrize("name", ["Date", "date", "Server", "SERVER"])
def test_an_applications_date_and_server_replace_ours(name: str) -> None:
    written = encode(headers=[(name, "mine")], length=0)
    assert written.all(name) == ["mine"]
    assert (name, "mine") in written.fields
    assert len(written.all("Date")) == len(written.all("Server")) == 1


def test_equal_lengths_are_said_once() -> None:
    headers = [("Content-Length", "5"), ("content-length", "5"), ("Content-Length", "05")]
    written = encode(headers=headers)
    assert written.all("Content-Length") == ["5"]
    assert written.length == 5


@pytest.mark.parametrize(
    "name",
    [
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_hop_by_hop_fields_are_dropped_with_one_warning(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_writer, "_warned", set())
    with caplog.at_level(logging.WARNING, "smart_http.app"):
        for spelling in (name, name.lower(), name.upper(), name):
            written = encode(headers=[(spelling, "chunked"), ("X-Other", "1")], length=3)
            assert written.all(name) == []
            assert written.one("X-Other") == "1"
            assert written.framing is LENGTH
    (record,) = caplog.records
    assert name in record.getMessage()


def test_values_may_hold_tabs_blanks_and_latin_1() -> None:
    value = "a\tb  c \xe9\xff\x80 d"
    written = encode(headers=[("X-Any", value)], length=0)
    assert written.one("X-Any") == value


@pytest.mark.parametrize("control", [chr(i) for i in range(32) if i != 9] + ["\x7f"])
@pytest.mark.parametrize("name", ["X-Any", "Date", "Server", "Connection", "Keep-Alive"])
def test_a_control_character_in_a_value_never_gets_out(name: str, control: str) -> None:
    for value in (f"a{control}b", control, f"a{control}", f"{control}a"):
        for _ in range(2):  # what was refused once is not remembered as good
            with pytest.raises(AppError, match="control character"):
                encode(headers=[(name, value)], length=0)


def test_a_split_response_is_refused_wherever_it_is_tried() -> None:
    evil = "x\r\nSet-Cookie: evil=1"
    for headers in ([(evil, "v")], [("X", evil)], [("Content-Length", evil)]):
        with pytest.raises(AppError):
            encode(headers=headers)
    with pytest.raises(AppError):
        encode(f"200 {evil}")


@pytest.mark.parametrize("value", ["€", "a\u0141", "\U0001f600", "\ud800"])
def test_a_character_outside_latin_1_is_refused(value: str) -> None:
    with pytest.raises(AppError, match="latin-1"):
        encode(headers=[("X-Any", value)], length=0)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:", ":a", "a\r", "a\n", "é", "a\x00", "(a)", "a\t", "a,b", "\u0130"]
)
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(AppError, match="not a token"):
        encode(headers=[(name, "v")], length=0)


def test_all_token_characters_are_good_in_a_name() -> None:
    name = "!#$%&'*+-.^_`|~09azAZ"
    assert encode(headers=[(name, "v")], length=0).one(name) == "v"


@pytest.mark.parametrize(
    "header",
    [(b"X", "v"), ("X", b"v"), ("X", 5), ("X", None), (5, "v"), (None, "v"), ("Content-Length", 5)],
)
def test_a_header_that_is_not_of_str_is_refused(header: tuple[Any, Any]) -> None:
    with pytest.raises(AppError, match=r"must be (a )?str"):
        encode(headers=[header], length=0)


@pytest.mark.parametrize(
    "header", [["X", "v"], ("X",), ("X", "v", "w"), None, 5, "XY", (["X"], "v")]
)
def test_a_header_that_is_no_pair_is_refused(header: Any) -> None:
    with pytest.raises(AppError):
        encode(headers=[header], length=0)


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "0x1", " 5", "5 ", "5, 5", "9" * 19, "٣"])
def test_a_length_that_is_not_digits_is_refused(value: str) -> None:
    with pytest.raises(AppError):
        encode(headers=[("Content-Length", value)])


def test_two_different_lengths_are_refused() -> None:
    with pytest.raises(AppError, match="two different"):
        encode(headers=[("Content-Length", "5"), ("content-length", "6")])


def test_headers_that_never_repeat_are_all_written_right() -> None:
    # More than are remembered, names and values, and remembered ones between them.
    for number in range(5000):
        headers = [("X-Same", "same"), ("X-Number", str(number)), (f"X-{number}", "1")]
        assert encode(headers=headers, length=0).fields[:3] == headers


def test_headers_that_never_repeat_are_not_all_remembered() -> None:
    def encode_many(first: int) -> None:
        for number in range(first, first + 8_000):
            encode(headers=[("X-Number", str(number)), (f"X-{number}", "1")], length=0)

    encode_many(0)
    tracemalloc.start()
    try:
        encode_many(1_000_000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2_000_000


def test_a_long_value_is_written_whole() -> None:
    value = "v" * 100_000
    for _ in range(2):
        assert encode(headers=[("X-Long", value)], length=0).one("X-Long") == value


# -- status --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("200 OK", "HTTP/1.1 200 OK"),
        ("404 Not Found", "HTTP/1.1 404 Not Found"),
        ("299 ", "HTTP/1.1 299 "),
        ("299", "HTTP/1.1 299 "),  # the blank is there even without a phrase
        ("599 Any thing\tgoes \xe9", "HTTP/1.1 599 Any thing\tgoes \xe9"),
    ],
)
@pytest.mark.parametrize("minor", [0, 1])
def test_the_status_line_says_our_version_whatever_the_clients(
    status: str, line: str, minor: int
) -> None:
    for _ in range(2):
        assert encode(status, minor=minor, length=0).status_line == line


@pytest.mark.parametrize(
    "status",
    [
        "",
        "OK",
        "20 OK",
        "2000 OK",
        "200OK",
        "100 Continue",
        "101 Switching Protocols",
        "099 X",
        "600 X",
        "200\tOK",
        " 200 OK",
        "200 a\r\nb",
        "200 a\n",
        "200 OK\n",
        "200 \x00",
        "200 \x7f",
        "200 €",
        "٢٠٠ OK",
    ],
)
def test_a_status_that_is_none_is_refused(status: str) -> None:
    for _ in range(2):
        with pytest.raises(AppError, match="status"):
            encode(status, length=0)


@pytest.mark.parametrize("status", [200, b"200 OK", None, 200.0])
def test_a_status_that_is_no_str_is_refused(status: Any) -> None:
    with pytest.raises(AppError, match="status must be a str"):
        encode(status, length=0)


def test_statuses_that_never_repeat_are_all_written_right() -> None:
    for number in range(3000):
        assert encode(f"200 {number}", length=0).status_line == f"HTTP/1.1 200 {number}"


# -- pages of our own ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "phrase"),
    [(400, "Bad Request"), (431, "Request Header Fields Too Large"), (599, "Error")],
)
def test_an_error_page_is_a_whole_response_that_closes(status: int, phrase: str) -> None:
    head, _, body = error_page(status, date=DATE).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    assert first == f"HTTP/1.1 {status} {phrase}"
    assert f"Content-Length: {len(body)}" in lines
    assert "Connection: close" in lines
    assert f"Date: {DATE_VALUE}" in lines
    assert f"Server: {SERVER}" in lines
    assert body == f"{status} {phrase}\n".encode()


def test_an_error_page_for_head_is_its_head() -> None:
    page = error_page(500, date=DATE)
    head = error_page(500, date=DATE, is_head=True)
    assert head.endswith(b"\r\n\r\n")
    assert page.startswith(head)
    assert page != head


def test_an_error_page_takes_further_lines() -> None:
    page = error_page(503, date=DATE, extra="Retry-After: 1\r\n")
    assert b"\r\nRetry-After: 1\r\n" in page.partition(b"\r\n\r\n")[0] + b"\r\n"


# -- interim responses -----------------------------------------------------------------------------


def test_an_interim_response_is_a_head_with_the_given_fields_only() -> None:
    data = encode_interim(103, [("Link", "</a.css>; rel=preload"), ("X-Any", "")])
    assert data == (b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Any: \r\n\r\n")
    assert encode_interim(100, []) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    "name",
    ["Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade", "TE", "Trailer",
     "Proxy-Connection", "Date", "Server"],
)  # fmt: skip
def test_an_interim_response_has_no_place_for_what_the_final_one_says(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        with pytest.raises(AppError, match="no place in an interim response"):
            encode_interim(103, [(spelling, "5")])


@pytest.mark.parametrize(
    "pair",
    [("Li nk", "a"), ("Link", "a\r\nb"), ("Link", "\u20ac"), ("Link", 1), ("Link",), None, 5, "ab"],
)
def test_a_bad_field_of_an_interim_response_is_the_applications_error(pair: Any) -> None:
    with pytest.raises(AppError):
        encode_interim(103, [pair])
