"""Answers are read the same however they are cut, and what is no answer is refused."""

from __future__ import annotations

import zlib

import pytest

from benchmarks.answer import KEPT_BYTES, Answer, AnswerReader, BadAnswer

COUNTED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nA\r\n, world...\r\n0\r\nX-Sum: 1\r\n\r\n"
)
EMPTY = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def read(data: bytes, size: int) -> list[Answer]:
    reader, found = AnswerReader(), []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        while (answer := reader.take()) is not None:
            found.append(answer)
    assert reader.at_rest
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_answers_are_the_same_however_they_are_cut(size: int) -> None:
    first, second, third = read(CONTINUE + COUNTED + CHUNKED + EMPTY, size)
    assert (first.status, first.start, first.length) == (200, b"hello", 5)
    assert (second.start, second.crc) == (b"hello, world...", zlib.crc32(b"hello, world..."))
    assert (third.status, third.length, third.closes) == (204, 0, True)
    assert not first.closes
    assert first.fields[b"content-type"] == b"text/plain"


def test_of_long_content_only_the_beginning_is_kept() -> None:
    content = bytes(range(256)) * 100
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
    (answer,) = read(head + content, 1000)
    assert answer.start == content[:KEPT_BYTES]
    assert (answer.length, answer.crc) == (len(content), zlib.crc32(content))


def test_content_without_a_length_ends_with_the_connection() -> None:
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    assert reader.take() is None
    answer = reader.end()
    assert answer is not None
    assert answer.start == b"all of it"


def test_an_end_between_answers_is_no_answer() -> None:
    assert AnswerReader().end() is None


@pytest.mark.parametrize("cut", [1, 20, len(COUNTED) - 1])
def test_an_end_in_the_middle_of_an_answer_is_an_error(cut: int) -> None:
    reader = AnswerReader()
    reader.feed(COUNTED[:cut])
    assert reader.take() is None
    with pytest.raises(BadAnswer, match="middle of an answer"):
        reader.end()


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    reader = AnswerReader()
    reader.feed(data)
    with pytest.raises(BadAnswer):
        reader.take()
