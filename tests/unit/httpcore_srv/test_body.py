"""The body readers, alone with a buffer."""

from __future__ import annotations

import pytest

from httpcore_srv.body import BodyReader, ChunkedReader, ContentLengthReader
from httpcore_srv.errors import ProtocolError
from httpcore_srv.settings import HTTPLimits
from tests.corpus.reading import cuttings

LIMITS = HTTPLimits()


def read(reader: BodyReader, data: bytes, pos: int = 0) -> tuple[bytes, bytes]:
    """Return the body that `reader` takes out of `data`, and what it leaves."""
    body, stop = reader.take(data, pos)
    assert reader.done
    return body, data[stop:]


def read_in_pieces(reader: BodyReader, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The same, with what is left over put before the next piece, as the parser does."""
    body, rest = b"", bytearray()
    for piece in pieces:
        rest += piece
        if not reader.done:
            taken, stop = reader.take(rest, 0)
            assert type(taken) is bytes
            body += taken
            del rest[:stop]
    return body, bytes(rest)


def status_of(data: bytes, limits: HTTPLimits = LIMITS) -> int:
    with pytest.raises(ProtocolError) as caught:
        take_all(ChunkedReader(limits), data)
    return caught.value.status


def take_all(reader: ChunkedReader, data: bytes) -> bytes:
    body, pos = reader.take(data, 0)
    while not reader.done:
        taken, after = reader.take(data, pos)
        assert after > pos, "not complete"
        body, pos = body + taken, after
    return body


def test_content_length_takes_its_bytes_and_no_more() -> None:
    assert read(ContentLengthReader(5), b"helloGET /") == (b"hello", b"GET /")


def test_content_length_zero_is_done_at_once() -> None:
    assert ContentLengthReader(0).done


def test_a_whole_piece_of_body_is_not_copied() -> None:
    piece = b"x" * 1000
    assert ContentLengthReader(5000).take(piece, 0)[0] is piece


@pytest.mark.parametrize("pieces", list(cuttings(b"helloREST")))
def test_content_length_in_any_cutting(pieces: list[bytes]) -> None:
    assert read_in_pieces(ContentLengthReader(5), pieces) == (b"hello", b"REST")


CHUNKS = b'5\r\nhello\r\nA;ext="\\";"\r\n0123456789\r\n0\r\nTrailer: dropped\r\n\r\nREST'


def test_chunks_come_out_joined() -> None:
    assert read(ChunkedReader(LIMITS), b"xx" + CHUNKS, 2) == (b"hello0123456789", b"REST")


@pytest.mark.parametrize("pieces", list(cuttings(CHUNKS)))
def test_chunks_in_any_cutting(pieces: list[bytes]) -> None:
    assert read_in_pieces(ChunkedReader(LIMITS), pieces) == (b"hello0123456789", b"REST")


def test_data_is_given_out_before_its_chunk_is_complete() -> None:
    reader = ChunkedReader(LIMITS)
    assert reader.take(b"A\r\nhello", 0) == (b"hello", 8)
    assert not reader.done


def test_what_came_before_a_fault_is_given_out_and_then_the_fault_again_and_again() -> None:
    reader = ChunkedReader(LIMITS)
    data = b"5\r\nhello\r\nnonsense"
    body, pos = reader.take(data, 0)
    assert (body, data[pos:]) == (b"hello", b"nonsense")
    for _ in range(2):
        with pytest.raises(ProtocolError, match="not hexadecimal"):
            reader.take(data, pos)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"5\nhello\r\n",
        b"5\r\nhelloX",
        b"5\r\nhello\rX",
        b"5\r\nhello\n",
        b"5;\x00\r\n",
        b"0\r\nA: b\n",
        b"0\r\n A: b\r\n",
        b"1" * 17,
    ],
)
def test_faults_are_400(data: bytes) -> None:
    if data.startswith(b"1" * 17):
        data += b"\r\n"
    assert status_of(data) == 400


def test_the_sum_of_chunks_above_the_limit_is_413() -> None:
    limits = HTTPLimits(max_body_bytes=8)
    assert take_all(ChunkedReader(limits), b"4\r\nabcd\r\n4\r\nabcd\r\n0\r\n\r\n") == b"abcdabcd"
    assert status_of(b"4\r\nabcd\r\n5\r\n", limits) == 413


def test_a_limit_of_zero_bounds_nothing() -> None:
    reader = ChunkedReader(HTTPLimits(max_body_bytes=0))
    assert reader.take(b"FFFFFFFFFFFFFFFF\r\nabc", 0) == (b"abc", 21)


def test_extensions_are_bounded_in_length() -> None:
    limits = HTTPLimits(max_chunk_extension_bytes=4)
    assert take_all(ChunkedReader(limits), b"1;abc\r\nx\r\n0\r\n\r\n") == b"x"
    assert status_of(b"1;abcd\r\nx\r\n0\r\n\r\n", limits) == 400
    assert status_of(b"1;" + b"a" * 50, limits) == 400


def test_framing_may_exceed_twice_the_data_by_the_limit_only() -> None:
    limits = HTTPLimits(max_chunk_overhead_bytes=10)
    # One octet in a chunk: five of framing, of which two are paid for.
    assert take_all(ChunkedReader(limits), b"1\r\nx\r\n" * 3 + b"0\r\n\r\n") == b"xxx"
    assert status_of(b"1\r\nx\r\n" * 4, limits) == 400
    # Three octets in a chunk pay for it.
    many = b"3\r\nabc\r\n" * 1000 + b"0\r\n\r\n"
    assert take_all(ChunkedReader(limits), many) == b"abc" * 1000


def test_trailers_are_bounded_in_length_and_number() -> None:
    limits = HTTPLimits(max_trailer_bytes=12, max_headers=2)
    assert take_all(ChunkedReader(limits), b"0\r\nA: b\r\nC: d\r\n\r\n") == b""
    assert status_of(b"0\r\nA: b\r\nC: de\r\n\r\n", limits) == 431
    assert status_of(b"0\r\n" + b"A" * 15, limits) == 431
    assert status_of(b"0\r\nA:\r\nB:\r\nC:\r\n\r\n", limits) == 431
