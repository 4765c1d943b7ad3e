"""What went wrong in other servers, tried on this one: messages. One test to each class of CVE.

The comment in each test says where it happened, and what. Where a mistake cannot be made here
because the feature does not exist (TLS, PROXY protocol, addresses told by proxies), the test shows
that the bytes which exploited it do nothing. What happens in threads and in shared memory is in
test_cve_conduct.py.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.integration.conftest import Serve
from tests.integration.fault_target import CHUNKED, SMUGGLED, STATUS_LINE, Target, cpu_s
from tests.integration.server_process import APPS
from tests.unit.httpcore_srv.worker_in_thread import get


@pytest.fixture(scope="module")
def target(serve_all: Serve) -> Target:
    return Target(serve_all("fault_wire:app", "--max-workers", "1", chdir=APPS))


# -- responses ---------------------------------------------------------------------------------

SPLITS = ["a\r\nX-Injected: b", "a\nX-Injected: b", "a\rX-Injected: b", "a\r\n\r\nHTTP/1.1 200 OK"]


@pytest.mark.parametrize("text", [*SPLITS, "a\0", "a\r\n X-Injected: b"])
@pytest.mark.parametrize("where", ["value", "name", "status"])
def test_response_splitting(target: Target, where: str, text: str) -> None:
    # CVE-2018-1000164 gunicorn, CVE-2020-5247 Puma, CVE-2023-27522 mod_proxy_uwsgi: a line end
    # in what an application puts into the head began another header, or another response.
    text = f"200 {text}" if where == "status" else text
    raw = target.send(get(f"/{where}?{quote(text)}"))
    assert raw.startswith(b"HTTP/1.1 500 ")
    assert b"X-Injected" not in raw
    assert len(STATUS_LINE.findall(raw)) == 1


@pytest.mark.parametrize("text", SPLITS)
def test_response_splitting_in_early_hints(target: Target, text: str) -> None:
    # CVE-2020-5249 Puma: the same in the headers of a 103.
    raw = target.send(get(f"/hints?{quote(text)}"))
    assert raw.startswith(b"HTTP/1.1 500 ")
    assert b"X-Injected" not in raw
    assert len(STATUS_LINE.findall(raw)) == 1


# -- framing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: ",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("length", [b"", b"Content-Length: 5\r\n"], ids=["", "length"])
def test_transfer_encoding_not_validated(target: Target, field: bytes, length: bytes) -> None:
    # CVE-2024-1135 gunicorn, CVE-2020-11076 and CVE-2022-24790 Puma: more than one coding, or an
    # invalid one, was taken for `chunked` or passed over.
    head = b"POST / HTTP/1.1\r\nHost: a\r\n" + length + field + b"\r\n\r\n"
    target.assert_refused(head + b"0\r\n\r\n", status=(400, 501))


@pytest.mark.parametrize("coding", [b"unknown", b"identity", b"gzip", b"cow"])
def test_unknown_transfer_encoding_falls_back_to_the_length(target: Target, coding: bytes) -> None:
    # CVE-2024-6827 gunicorn: with an unknown coding Content-Length counted (TE.CL smuggling).
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: " + coding
    target.assert_refused(head + b"\r\n\r\n5c\r\n", status=(400, 501))


def test_transfer_encoding_beside_a_length(target: Target) -> None:
    # CVE-2021-41136 and CVE-2022-24790 Puma, CVE-2020-11077: servers and proxies that disagree
    # about which of the two counts.
    for fields in (
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    ):
        target.assert_refused(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n0\r\n\r\nG")


def test_transfer_encoding_in_http_1_0(target: Target) -> None:
    # RFC 9112 section 6.1: whoever sends it through a 1.0 proxy has framing that nobody shares.
    head = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    target.assert_refused(head + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\nContent-Length: 39\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\n\nGET /x HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED + b"5\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\n\r\n",
    ],
)
def test_bare_line_feed_or_carriage_return(target: Target, request_bytes: bytes) -> None:
    # CVE-2019-16785 waitress, CVE-2021-41136 Puma: LF alone ended a line, but not for the proxy.
    target.assert_refused(request_bytes)


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: chunked\x0c",
        b"Transfer-Encoding:\xa0chunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b" Transfer-Encoding: chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding: chun\x00ked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding: chunked;a=b",
    ],
)
def test_odd_white_space_and_loose_comparison_in_transfer_encoding(
    target: Target, field: bytes
) -> None:
    # CVE-2019-16786 and CVE-2019-16789 waitress: what was nearly `chunked` was passed over.
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + field + b"\r\n\r\n"
    target.assert_refused(head + b"0\r\n\r\n", status=(400, 501))


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 0",
        b"Content-Length: 0\r\nContent-Length: 44",
        b"Content-Length: 5, 5",
        b"Content-Length: 5,44",
        b"Content-Length: \r\nContent-Length: 5",
        b"Content-Length:\r\n 5",
        b"Content-Length: 5\r\n 0",
    ],
)
def test_duplicate_content_length(target: Target, fields: bytes) -> None:
    # GHSA-4ppp-gpcr-7qf6 waitress: two lengths counted as none. unbit/uwsgi#2775: two were joined
    # by a comma and read up to it; folded lines were accepted.
    target.assert_refused(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\nhello")


NO_NUMBERS = [
    b"+5",
    b"-5",
    b"0x5",
    b"5_0",
    b"1_0",
    b"5 5",
    b"5.0",
    b"5e0",
    b"",
    b"\xb2",
    b"\xd9\xa5",
]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_numbers_that_only_int_understands(target: Target, number: bytes) -> None:
    # CVE-2022-24761 waitress, CVE-2023-47627 aiohttp: int() takes signs, 0x, underscores and
    # foreign digits. CVE-2023-40175 Puma: an empty Content-Length was taken for zero.
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + number
    target.assert_refused(head + b"\r\n\r\nhello")
    if number != b"5e0":  # a number in hexadecimal
        target.assert_refused(CHUNKED + number + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("number", [b"9" * 19, b"9" * 30, b"1" + b"0" * 5000])
def test_numbers_that_overflow(target: Target, number: bytes) -> None:
    # unbit/uwsgi#2775: atoi() of a length wraps around.
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + number
    target.assert_refused(head + b"\r\n\r\nhello", status=(400, 413))
    target.assert_refused(CHUNKED + number + b"\r\nhello\r\n0\r\n\r\n", status=(400, 413))


@pytest.mark.parametrize(
    "extension", [b";\x00", b";a\rb", b";a\nGET /x HTTP/1.1", b" ; =", b';a="', b";" + b"a" * 20000]
)
def test_chunk_extensions(target: Target, extension: bytes) -> None:
    # CVE-2022-24761 waitress: not looked at, so they could hide a line end. CVE-2024-21647 Puma:
    # without a bound, so they could be sent for ever.
    target.assert_refused(CHUNKED + b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("end", [b"XX", b"X\r\n", b"\r", b"\rX", b"  \r\n", b"0\r\n\r\n"])
def test_the_end_of_a_chunk_is_looked_at(target: Target, end: bytes) -> None:
    # CVE-2025-43859 h11: two octets were skipped there, whatever they were.
    target.assert_refused(CHUNKED + b"5\r\nhello" + end + b"0\r\n\r\n")


def test_one_byte_chunks(target: Target) -> None:
    # Seen in 2026: a chunk of one byte costs a decoder in Python a hundred times its share.
    target.assert_refused(CHUNKED + b"1\r\nx\r\n" * 60_000)


def test_trailers_reach_neither_this_request_nor_the_next(target: Target) -> None:
    # CVE-2023-41419 gevent, CVE-2025-58068 eventlet, CVE-2023-40175 Puma: trailers were merged
    # into the headers, or left for the next request to begin with.
    trailers = (
        b"X-Admin: yes\r\nContent-Length: 100\r\nHost: evil\r\nTransfer-Encoding: gzip\r\n\r\n"
    )
    with target.connect() as client:
        client.send(CHUNKED + b"5\r\nhello\r\n0\r\n" + trailers + get("/next"))
        first, second = (json.loads(client.response().content)["said"] for _ in range(2))
    assert (first["content"], first["HTTP_HOST"]) == ("hello", "a")
    assert (first["CONTENT_LENGTH"], second["RAW_URI"]) == ("5", "/next")
    for environ in (first, second):
        assert not {"HTTP_X_ADMIN", "HTTP_TRANSFER_ENCODING"} & environ.keys()


@pytest.mark.parametrize(
    "trailer", [b"GET /smuggled HTTP/1.1\r\n", b"X : y\r\n", b"X\n\r\n", b"X: " + b"y" * 20_000]
)
def test_trailers_are_checked_and_bounded(target: Target, trailer: bytes) -> None:
    # CVE-2025-58068 eventlet: a request could be smuggled in what stood for the trailers.
    target.assert_refused(CHUNKED + b"0\r\n" + trailer + b"\r\n", status=(400, 431))


def test_a_slow_regular_expression(target: Target) -> None:
    # GHSA-73m2-3pwg-5fgc waitress: a pattern for fields that backtracked exponentially.
    before_s = cpu_s(target.pid())
    for value in (b"\x10" + b"\t" * 30_000 + b"\x10", b"a\t" * 15_000 + b"\x00", b" " * 40_000):
        raw = target.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + value + b"\r\nConnection: close\r\n\r\n"
        )
        assert STATUS_LINE.findall(raw) == [b"200" if value.isspace() else b"400"]
    assert cpu_s(target.pid()) - before_s < 5.0


@pytest.mark.parametrize("apart", [False, True])
def test_nothing_is_read_after_what_was_judged_bad(target: Target, apart: bool) -> None:
    # CVE-2024-49768 waitress: a request that was pipelined behind a bad one was run all the same.
    # CVE-2020-11077 Puma: the same on a connection of a proxy, for its next client.
    target.seen()
    with target.connect() as client:
        client.send(get("/first") + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        if apart:
            assert client.response().status == 200
            assert client.response().status == 400
        client.send(SMUGGLED)
        statuses = STATUS_LINE.findall(client.until_end())
    assert statuses == ([] if apart else [b"200", b"400"])
    assert target.seen() == ["GET /first"]


# -- environ -----------------------------------------------------------------------------------


def test_underscores_do_not_stand_for_dashes(target: Target) -> None:
    # CVE-2024-45614 Puma: X_Forwarded_For overwrote X-Forwarded-For. benoitc/gunicorn#3705: a
    # path without the check let a client set SCRIPT_NAME.
    fields = ("X-Forwarded-For: 10.0.0.1", "X_Forwarded_For: 6.6.6.6", "X_Forwarded-For: 6.6.6.6")
    forged = ("SCRIPT_NAME: /x", "Script_Name: /x", "wsgi.url_scheme: https", "REMOTE_ADDR: ::1")
    environ = target.environ(get("/", *fields, *forged, "Content_Length: 50", "X_Y: z"))
    assert environ["HTTP_X_FORWARDED_FOR"] == "10.0.0.1"
    assert (environ["SCRIPT_NAME"], environ["wsgi.url_scheme"]) == ("", "http")
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert not {"HTTP_SCRIPT_NAME", "HTTP_CONTENT_LENGTH", "HTTP_X_Y"} & environ.keys()
    assert environ["content"] == ""


def test_proxy_is_no_environment_variable(target: Target) -> None:
    # CVE-2016-5385 and others ("httpoxy"): a Proxy field became HTTP_PROXY, which clients obey.
    environ = target.environ(get("/", "Proxy: http://evil/", "proxy: http://evil/"))
    assert "HTTP_PROXY" not in environ
    assert "evil" not in str(environ)


def test_no_field_tells_who_the_client_is(target: Target) -> None:
    # CVE-2022-2255 mod_wsgi: fields of trusted proxies were taken from anybody.
    names = ("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "Forwarded", "True-Client-IP")
    schemes = ("X-Forwarded-Proto: https", "X-Forwarded-SSL: on", "X-Forwarded-Port: 443")
    more = ("X-Forwarded-Host: evil", "X-Script-Name: /x", "X-Forwarded-Prefix: /x")
    environ = target.environ(get("/", *(f"{name}: 6.6.6.6" for name in names), *schemes, *more))
    host, port = target.server.address
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (host, str(port))
    assert environ["SCRIPT_NAME"] == ""


@pytest.mark.parametrize("behind", [False, True])
def test_the_proxy_protocol_is_not_spoken(target: Target, behind: bool) -> None:
    # puma/puma#3944 and #3947: a PROXY line that was searched for anywhere, and again before
    # later requests of the connection, let a client choose its address.
    line = b"PROXY TCP4 6.6.6.6 6.6.6.6 1 2\r\n"
    if behind:
        environ = target.environ(get("/", "X: PROXY TCP4 6.6.6.6 6.6.6.6 1 2"))
        assert environ["REMOTE_ADDR"] == "127.0.0.1"
        assert STATUS_LINE.findall(target.send(get("/") + line + get("/"))) == [b"200", b"400"]
    else:
        target.assert_refused(line)


@pytest.mark.parametrize(
    ("path", "expected"), [("/a%0a/b.php", "/a\n/b.php"), ("/%0a", "/\n"), ("/..%2f%2e.", "/../..")]
)
def test_paths_are_not_taken_apart(target: Target, path: str, expected: str) -> None:
    # CVE-2019-11043 php-fpm: a line end in the path made an offset into it negative.
    environ = target.environ(get(path))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", expected)
    assert environ["RAW_URI"] == path
