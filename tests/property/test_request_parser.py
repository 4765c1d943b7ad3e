"""HTTPRequest on made-up connections: valid ones, spoilt ones, and noise."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from httpcore_srv.messages import NEED_DATA
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.settings import HTTPLimits
from tests.corpus.cases import connections, invalid_cases, valid_cases
from tests.corpus.mutation import HOSTILE, mutated
from tests.corpus.reading import Seen, Transcript, cut, read, write_down
from tests.corpus.reference import reference_read

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

DEFAULT = HTTPLimits()
TIGHT = HTTPLimits(
    max_request_line_bytes=40,
    max_header_bytes=80,
    max_headers=3,
    max_body_bytes=12,
    max_chunk_extension_bytes=8,
    max_chunk_overhead_bytes=25,
    max_trailer_bytes=20,
)

UNUSUAL = HTTPLimits(refuse_underscores=True, pass_connect=True, max_body_bytes=0)

TCHARS = "!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUE_CHARS = [chr(i) for i in [0x09, *range(0x20, 0x7F), *range(0x80, 0x100)]]
PLAIN_PATH = (
    "-._~!$&'()*+,;=:@/[]^`{|}0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

tokens = st.text(TCHARS, min_size=1, max_size=20)
spaces = st.text(" \t", max_size=3)
hosts = st.sampled_from(["example.com", "a:80", "127.0.0.1", "[::1]:8080", "x_y"])

# Names that mean something to the parser are generated where they are meant.
SPECIAL = {"host", "content-length", "transfer-encoding", "content-type", "connection", "expect",
           "proxy", "cookie"}  # fmt: skip
names = tokens.filter(lambda name: name.lower() not in SPECIAL)
dropped = st.sampled_from(["Proxy", "X_A", "Content_Length", "_"])
values = st.text(VALUE_CHARS, max_size=30).map(lambda value: value.strip(" \t"))


@st.composite
def paths(draw: Draw) -> tuple[str, str]:
    """A path as written and as decoded."""
    written = decoded = "/"
    for octet in draw(st.binary(max_size=20)):
        character = chr(octet)
        if character in PLAIN_PATH and draw(st.booleans()):
            written += character
        elif octet == 0:
            continue
        else:
            digits = f"{octet:02x}"
            written += "%" + (digits.upper() if draw(st.booleans()) else digits)
        decoded += character
    return written, decoded


@st.composite
def chunked_bodies(draw: Draw, body: bytes) -> bytes:
    """`body` in chunks of any sizes, with extensions and trailers."""
    written = b""
    places = draw(st.sets(st.integers(0, len(body)), max_size=4))
    for piece in cut(body, places):
        size = f"{len(piece):x}"
        size = draw(st.sampled_from([size, size.upper(), "000" + size]))
        extension = draw(st.sampled_from(["", ";a", ";a=b", ' ; a = "b\\";"', ";a;b"]))
        written += f"{size}{extension}\r\n".encode() + piece + b"\r\n"
    trailer = draw(st.sampled_from([b"", b"A: b\r\n", b"Content-Length: 99\r\nHost: x\r\n"]))
    return b"".join([written, b"0\r\n", trailer, b"\r\n"])


@st.composite
def targets(draw: Draw) -> tuple[str, str, str, str, str | None]:
    """A method and a target in any of its forms; its path, query and authority."""
    form = draw(st.sampled_from(["origin", "origin", "absolute", "no path", "asterisk"]))
    method = draw(tokens.filter(lambda token: token != "CONNECT"))
    if form == "asterisk":
        return "OPTIONS", "*", "", "", None
    path, decoded = draw(paths())
    query = draw(st.text(PLAIN_PATH + "?\\%", max_size=20))
    rest = f"?{query}" if query else draw(st.sampled_from(["", "?"]))
    if form == "origin":
        return method, path + rest, decoded, query, None
    authority = draw(hosts)
    scheme = draw(st.sampled_from(["http", "https", "HTTP", "hTtPs"]))
    if form == "absolute":
        return method, f"{scheme}://{authority}{path}{rest}", decoded, query, authority
    # Without a path: the root, but the whole server for OPTIONS (RFC 9112, 3.2.4).
    method = draw(st.sampled_from([method, "OPTIONS"]))
    decoded = "" if method == "OPTIONS" and not rest else "/"
    return method, f"{scheme}://{authority}{rest}", decoded, query, authority


@st.composite
def requests(draw: Draw) -> tuple[bytes, Seen]:
    """A valid request on the wire, and what an application must see of it."""
    method, target, path, query, authority = draw(targets())
    version = draw(st.sampled_from([0, 1, 1, 1, 2, 9]))
    minor = min(version, 1)
    environ: dict[str, str] = {}
    lines = []

    def add(name: str, value: str) -> None:
        lines.append(f"{name}:{draw(spaces)}{value}{draw(spaces)}")

    if minor == 1 or draw(st.booleans()):
        environ["HTTP_HOST"] = draw(hosts)
        add("Host", environ["HTTP_HOST"])
    for name, value in draw(st.lists(st.tuples(names | dropped, values), max_size=6)):
        add(name, value)
        if "_" in name or name == "Proxy":
            continue
        key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]}, {value}" if key in environ else value
    keep_alive = minor == 1
    if connection := draw(st.sampled_from(["", "close", "Keep-Alive", "keep-alive, upgrade"])):
        add("connection", connection)
        environ["HTTP_CONNECTION"] = connection
        keep_alive = "keep" in connection.lower() or (minor == 1 and connection != "close")
    body = draw(st.binary(max_size=40))
    framing = draw(st.sampled_from(["none", "length"] + ["chunked"] * minor))
    if framing == "none":
        body = wire_body = b""
    elif framing == "length":
        wire_body = body
        environ["CONTENT_LENGTH"] = str(len(body))
        add("Content-Length", draw(st.sampled_from(["", "0", "00"])) + str(len(body)))
    else:
        wire_body = draw(chunked_bodies(body))
        add("Transfer-Encoding", draw(st.sampled_from(["chunked", "Chunked"])))
    expects = framing != "none" and draw(st.booleans())
    if expects:
        add("Expect", "100-continue")
        environ["HTTP_EXPECT"] = "100-continue"
    expects = expects and minor == 1 and (framing == "chunked" or body != b"")
    if len({line.partition(":")[0].lower() for line in lines}) == len(lines):
        lines = draw(st.permutations(lines))  # the order means nothing unless names repeat
    head = "\r\n".join([f"{method} {target} HTTP/1.{version}", *lines, "", ""]).encode("latin-1")
    wire = draw(st.sampled_from([b"", b"\r\n"])) + head + wire_body
    return wire, Seen(method, target, path, query, minor, authority, keep_alive, expects,
                      environ, body, whole=True)  # fmt: skip


def any_cutting(draw: Draw, data: bytes) -> list[bytes]:
    """`data` in pieces: few, or as many as there are octets."""
    if draw(st.booleans()):
        return [data[i : i + 1] for i in range(len(data))]
    return cut(data, draw(st.sets(st.integers(0, len(data)), max_size=10)))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.lists(requests(), max_size=5))
def test_what_was_written_is_read_again_however_it_is_cut(
    data: st.DataObject, written: list[tuple[bytes, Seen]]
) -> None:
    wire = b"".join(octets for octets, _ in written)
    expected = Transcript([seen for _, seen in written], at_boundary=True)
    assert read(any_cutting(data.draw, wire), end_of_file=True) == expected
    assert read([wire]) == expected
    assert reference_read(wire, DEFAULT) == expected


@settings(max_examples=150, deadline=None)
@given(st.data(), st.lists(requests(), min_size=1, max_size=3))
def test_a_beginning_of_a_valid_connection_is_never_a_fault(
    data: st.DataObject, written: list[tuple[bytes, Seen]]
) -> None:
    wire = b"".join(octets for octets, _ in written)
    transcript = read([wire[: data.draw(st.integers(0, len(wire)))]], end_of_file=True)
    assert transcript.status is None
    assert transcript.truncated is not transcript.at_boundary
    for seen, (_, whole) in zip(transcript.requests, written, strict=False):
        assert seen.environ == whole.environ
        assert whole.body.startswith(seen.body)
        assert seen == whole or not seen.whole


FRAGMENTS = [*(bytes([octet]) for octet in b"\r\n\0 \t:,;=\"05a\xff\x0b/\\*#"),
             b"\r\n", b"\r\n\r\n", b"%00", b"%41", b"chunked", b"HTTP/1.0", b"HTTP/1.1", b"http://a",
             b"[::1]", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n",
             b"Connection: close\r\n", b"Expect: 100-continue\r\n",
             b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]  # fmt: skip
noise = st.binary(max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join)

CORPUS = [
    (case.data, case.limits) for case in valid_cases() + invalid_cases() if len(case.data) < 500
]
CONNECTIONS = connections()


@st.composite
def spoilt(draw: Draw) -> tuple[bytes, HTTPLimits]:
    """A connection of the corpus, changed in up to four places."""
    data, limits = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 8)))
        data = (
            data[:begin]
            + draw(st.sampled_from([*FRAGMENTS, b"", data[begin:end] * 2]))
            + data[end:]
        )
    return data, draw(st.sampled_from([limits, limits, TIGHT]))


def assert_one_interpretation(pieces: list[bytes], limits: HTTPLimits) -> None:
    """However the bytes come, the parser says the same, and the slow reference agrees."""
    wire = b"".join(pieces)
    whole = read([wire], limits)
    assert read(pieces, limits) == whole
    assert reference_read(wire, limits) == whole


@settings(max_examples=1000, deadline=None)
@given(st.data(), spoilt())
def test_spoilt_connections_have_one_interpretation(
    data: st.DataObject, connection: tuple[bytes, HTTPLimits]
) -> None:
    wire, limits = connection
    assert_one_interpretation(any_cutting(data.draw, wire), limits)


@settings(max_examples=1000, deadline=None)
@given(
    st.data(),
    st.randoms(use_true_random=False),
    st.sampled_from([DEFAULT, DEFAULT, UNUSUAL, TIGHT]),
)
def test_mutated_connections_have_one_interpretation(
    data: st.DataObject, random: Random, limits: HTTPLimits
) -> None:
    wire = mutated(random, CONNECTIONS)
    assert_one_interpretation(any_cutting(data.draw, wire), limits)


@settings(max_examples=500, deadline=None)
@given(st.lists(noise, max_size=4), st.sampled_from([DEFAULT, TIGHT]))
def test_noise_raises_nothing_but_protocol_errors(pieces: list[bytes], limits: HTTPLimits) -> None:
    assert_one_interpretation([piece for piece in pieces if piece], limits)


@settings(max_examples=300, deadline=None)
@given(st.lists(noise, min_size=1, max_size=4))
def test_noise_in_a_chunked_body_raises_nothing_but_protocol_errors(pieces: list[bytes]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert_one_interpretation([head, *filter(None, pieces)], DEFAULT)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(requests(), min_size=1, max_size=4))
def test_a_connection_can_change_hands_between_any_two_requests(
    data: st.DataObject, written: list[tuple[bytes, Seen]]
) -> None:
    parser = HTTPRequest(DEFAULT)
    transcript = Transcript()
    for piece in any_cutting(data.draw, b"".join(octets for octets, _ in written)):
        parser.receive_data(piece)
        parser = take_all_and_hand_over(parser, transcript, data.draw)
    assert transcript.requests == [seen for _, seen in written]


def take_all_and_hand_over(parser: HTTPRequest, transcript: Transcript, draw: Draw) -> HTTPRequest:
    """Take messages out; between two requests another parser may take over what is there."""
    while (message := parser.next_message()) is not NEED_DATA:
        write_down(message, transcript)
        if transcript.requests[-1].whole and draw(st.booleans()):
            heir = HTTPRequest(DEFAULT)
            if rest := parser.unparsed():
                heir.receive_data(rest)
            parser = heir
    return parser


# -- every octet in every place ------------------------------------------------------------

RICH = (
    b"POST http://a.b:8/c%2f?d HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 002\r\n"
    b"Expect: 100-continue\r\nA-B:\t c \r\nConnection: x, close\r\n\r\nhi",
    b"PUT /c;d/../?e HTTP/1.1\r\nhost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'3;a;b=c;d="e\\"f"\r\nabc\r\n0A\r\n0123456789\r\n0;g\r\nT: u\r\n\r\nGET / HTTP/1.1\r\n',
    b"\r\nOPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\nCONNECT [::1]:443 HTTP/1.1\r\n"
    b"Host: a\r\nX_Y: z\r\nCookie: a=b\r\ncookie: c\r\n\r\n",
)


@pytest.mark.parametrize("wire", RICH, ids=["length", "chunked", "pipelined"])
@pytest.mark.parametrize("limits", [DEFAULT, UNUSUAL], ids=["default", "unusual"])
def test_one_octet_more_or_less_has_one_interpretation(wire: bytes, limits: HTTPLimits) -> None:
    for place in range(len(wire)):
        before, octet, after = wire[:place], wire[place : place + 1], wire[place + 1 :]
        for other in {b"", octet * 2, *(bytes([each]) for each in HOSTILE)}:
            for spoilt in (before + other + after, before + other + octet + after):
                assert read([spoilt], limits) == reference_read(spoilt, limits), spoilt


TCHAR_OCTETS = set(TCHARS.encode()) | {ord("_")}
VALUE_OCTETS = {ord(each) for each in VALUE_CHARS}
PATH_OCTETS = set(PLAIN_PATH.encode())
HOST_OCTETS = set(b"-._~!$&'()*+;=0123456789") | set(range(65, 91)) | set(range(97, 123))
HEX_OCTETS = set(b"0123456789abcdefABCDEF")
QUOTED_OCTETS = VALUE_OCTETS - {ord('"'), ord("\\")}
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

# What comes before an octet, what comes after it, and which octets may stand there.
PLACES = {
    "method": (b"GE", b"T / HTTP/1.1\r\nHost: a\r\n\r\n", TCHAR_OCTETS),
    "path": (b"GET /a", b"zz HTTP/1.1\r\nHost: a\r\n\r\n", (PATH_OCTETS | set(b"?")) - set(b"%")),
    "query": (b"GET /?a", b"zz HTTP/1.1\r\nHost: a\r\n\r\n", PATH_OCTETS | set(b"?\\%")),
    "percent": (b"GET /%4", b" HTTP/1.1\r\nHost: a\r\n\r\n", HEX_OCTETS),
    "authority": (b"GET http://a", b"z/ HTTP/1.1\r\nHost: a\r\n\r\n", HOST_OCTETS | set(b"/?")),
    "before version": (b"GET /", b"HTTP/1.1\r\nHost: a\r\n\r\n", set(b" ")),
    "major": (b"GET / HTTP/", b".1\r\nHost: a\r\n\r\n", set(b"1")),
    "minor": (b"GET / HTTP/1.", b"\r\nHost: a\r\n\r\n", set(b"0123456789")),
    "behind version": (b"GET / HTTP/1.1", b"\r\nHost: a\r\n\r\n", set()),
    "before a field": (HEAD, b"A: b\r\n\r\n", TCHAR_OCTETS),
    "field name": (HEAD + b"A", b"B: c\r\n\r\n", TCHAR_OCTETS | set(b":")),
    "before colon": (HEAD + b"A", b": b\r\n\r\n", TCHAR_OCTETS | set(b":")),
    "before a value": (HEAD + b"A:", b"b\r\n\r\n", VALUE_OCTETS),
    "value": (HEAD + b"A: b", b"c\r\n\r\n", VALUE_OCTETS),
    "behind a value": (HEAD + b"A: b", b"\r\n\r\n", VALUE_OCTETS),
    "behind fields": (HEAD, b"\r\n\r\n", set()),
    "host": (b"GET / HTTP/1.1\r\nHost: a", b"z\r\n\r\n", HOST_OCTETS),
    "port": (b"GET / HTTP/1.1\r\nHost: a:8", b"\r\n\r\n", set(b"0123456789 \t")),
    "length": (HEAD + b"Content-Length: 1", b"2\r\n\r\n", set(b"0123456789")),
    "coding": (HEAD + b"Transfer-Encoding:", b"chunked\r\n\r\n", set(b" \t")),
    "behind coding": (HEAD + b"Transfer-Encoding: chunked", b"\r\n\r\n", set(b" \t")),
    "before a size": (CHUNKED, b"5\r\n", HEX_OCTETS),
    "size": (CHUNKED + b"5", b"\r\n", HEX_OCTETS),
    "behind data": (CHUNKED + b"2\r\nhi", b"\r\n0\r\n\r\n", set()),
    "extension": (CHUNKED + b"5;a", b"\r\n", TCHAR_OCTETS),
    "before extension": (CHUNKED + b"5;", b"a\r\n", TCHAR_OCTETS | set(b" \t")),
    "extension value": (CHUNKED + b"5;a=b", b"\r\n", TCHAR_OCTETS),
    "extension string": (CHUNKED + b'5;a="', b'b"\r\n', QUOTED_OCTETS | set(b"\\")),
    "extension escape": (CHUNKED + b'5;a="\\', b'"\r\n', VALUE_OCTETS),
    "trailer name": (CHUNKED + b"0\r\nA", b"B: c\r\n\r\n", TCHAR_OCTETS | set(b":")),
    "trailer value": (CHUNKED + b"0\r\nA: b", b"c\r\n\r\n", VALUE_OCTETS),
    "behind trailers": (CHUNKED + b"0\r\n", b"\r\n\r\n", set()),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_octet_is_taken_where_it_must_not_be(place: str) -> None:
    before, after, legal = PLACES[place]
    taken = {
        octet for octet in range(256) if read([before + bytes([octet]) + after]).status is None
    }
    assert taken == legal
