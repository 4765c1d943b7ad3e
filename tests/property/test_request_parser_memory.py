"""A parser that remembers says what one says that has forgotten everything.

On one connection come heads that differ from one another in a line or two, the way browsers'
and attackers' do; each is also given to a new parser, with all memories emptied.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from httpcore_srv import fields, request_line
from httpcore_srv.errors import ProtocolError
from httpcore_srv.messages import NEED_DATA
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.settings import HTTPLimits
from tests.corpus.cases import connections
from tests.corpus.reading import Transcript, cut, write_down

LIMITS = [
    HTTPLimits(),
    HTTPLimits(refuse_underscores=True),
    HTTPLimits(max_header_bytes=60),
    HTTPLimits(max_headers=4, max_request_line_bytes=20, max_body_bytes=4),
]

NAMES = [b"Cookie", b"cookie", b"Referer", b"Accept", b"X-A", b"Authorization", b"Host",
         b"Connection", b"Content-Length", b"Content-Type", b"Transfer-Encoding", b"Expect",
         b"Proxy", b"X_A", b"Content_Length", b"X-A ", b"", b" X", b"X\xe4", b"X-A\r",
         b"\nX"]  # fmt: skip
VALUES = [b"", b"a", b" a \t", b"\xff\x80", b"close", b"keep-alive", b"0", b"3", b"007", b"chunked",
          b"gzip", b"100-continue", b"a:b", b"a\0", b"a\nX: y", b"a\rb", b"a\r\n", b"\r\n\r\n",
          b"\x7f", b"a\r\nHost: b", b"x" * 50, b"x" * 250]  # fmt: skip

usual_lines = [b"Host: a", b"Accept: */*", b"Cookie: a=b", b"Referer: /x"]
lines = st.builds(
    lambda name, colon, value: name + colon + value,
    st.sampled_from(NAMES),
    st.sampled_from([b": ", b":", b" : ", b""]),
    st.sampled_from(VALUES) | st.binary(max_size=6),
)
request_lines = st.sampled_from(
    [b"GET / HTTP/1.1", b"GET / HTTP/1.1", b"GET /a?b HTTP/1.1", b"GET / HTTP/1.0",
     b"HEAD /%41 HTTP/1.1", b"POST / HTTP/1.1", b"GET /\xff HTTP/1.1", b"OPTIONS * HTTP/1.1",
     b"GET http://b/ HTTP/1.1", b""]
)  # fmt: skip
edits = st.tuples(
    st.sampled_from(["replace", "replace value", "replace value", "insert", "delete", "none"]),
    st.integers(0, 5),
    lines,
)
changes = st.tuples(request_lines, st.lists(edits, max_size=2), st.floats(0, 1), st.booleans())


def changed(section: list[bytes], kind: str, place: int, line: bytes) -> list[bytes]:
    """Return a header section with one thing changed."""
    place = min(place, len(section))
    if kind == "insert":
        return [*section[:place], line, *section[place:]]
    if place == len(section) or kind == "none":
        return section
    if kind == "delete":
        return section[:place] + section[place + 1 :]
    if kind == "replace value":
        line = section[place].partition(b":")[0] + b":" + line.partition(b":")[2]
    return [*section[:place], line, *section[place + 1 :]]


def forget() -> None:
    """Empty what all parsers remember together."""
    for memory in (fields._known_lines, fields._environ_keys, request_line.known_request_lines):
        memory.clear()
    fields._valid_hosts.clear()


def feed(parser: HTTPRequest, pieces: Iterable[bytes]) -> Transcript:
    """Write down what a parser says to these pieces."""
    transcript = Transcript()
    try:
        for piece in pieces:
            message = parser.receive(piece)
            while message is not NEED_DATA:
                write_down(message, transcript)
                message = parser.next_message()
    except ProtocolError as error:
        transcript.status = error.status
    transcript.at_boundary = parser.at_boundary
    return transcript


def content_for(head: bytes, limits: HTTPLimits) -> bytes:
    """Return what must follow a head so that the request is whole, as a new parser sees it."""
    parser = HTTPRequest(limits)
    transcript = feed(parser, [head])
    if transcript.status is not None or parser.in_head or parser.at_boundary:
        return b""
    if transcript.requests[-1].environ.get("CONTENT_LENGTH"):
        return b"xyz"  # the only length that is drawn; another one ends the conversation
    return b"0\r\n\r\n"


@settings(deadline=None, max_examples=400)
@given(limits=st.sampled_from(LIMITS), turns=st.lists(changes, min_size=2, max_size=8))
@example(
    limits=LIMITS[0],
    turns=[(b"GET / HTTP/1.1", [("replace", 2, b"Cookie: %d" % n)], 0.5, False) for n in range(4)]
    + [(b"GET / HTTP/1.1", [("replace", 2, b"Cookie: a\nb")], 0.5, False)],
)
def test_a_head_means_the_same_whatever_came_before_it(
    limits: HTTPLimits, turns: list[tuple[bytes, list[tuple[str, int, bytes]], float, bool]]
) -> None:
    warm = HTTPRequest(limits)
    section = usual_lines
    for line, edits, place, is_cut in turns:
        for edit in edits:
            section = changed(section, *edit)
        data = b"\r\n".join([line, *section, b"", b""])
        data += content_for(data, limits)
        pieces = cut(data, {int(place * len(data))}) if is_cut else [data]
        said = feed(warm, pieces)
        forget()
        cold = feed(HTTPRequest(limits), [data])
        assert said == cold, data
        if cold.status is not None or not cold.at_boundary:
            return


def test_the_corpus_means_the_same_the_second_time() -> None:
    for data in connections():
        forget()
        cold = feed(HTTPRequest(HTTPLimits()), [data])
        assert feed(HTTPRequest(HTTPLimits()), [data]) == cold, data
        assert feed(HTTPRequest(HTTPLimits()), [data[i : i + 1] for i in range(len(data))]) == cold
        if cold.status is None and cold.at_boundary:
            twice = HTTPRequest(HTTPLimits())
            assert feed(twice, [data]) == cold, data
            assert feed(twice, [data]) == cold, data
            assert feed(twice, cut(data, {len(data) // 2})) == cold, data
