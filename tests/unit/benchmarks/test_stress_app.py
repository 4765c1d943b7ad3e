"""The application of the stress scripts answers what their clients compute beforehand."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.test import Client

from benchmarks.memory import write_file
from benchmarks.stress_app import (
    FILE_VARIABLE,
    HELLO_BODY,
    LARGE_BYTES,
    STREAM_BYTES,
    app,
    crc_of_pieces,
    pieces,
)


@pytest.fixture
def client() -> Client:
    return Client(LintMiddleware(app))


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/", 200, HELLO_BODY),
        ("/echo?what-I-said", 200, b"what-I-said"),
        ("/sleep?ms=1", 200, b"slept"),
        ("/work?ms=1", 200, b"worked"),
        ("/pid", 200, str(os.getpid()).encode()),
        ("/nowhere", 404, b"no such page\n"),
    ],
)
def test_small_answers(client: Client, target: str, status: int, body: bytes) -> None:
    response = client.get(target)
    assert (response.status_code, response.data) == (status, body)


def test_a_large_page_comes_in_one_piece_and_a_stream_in_many(client: Client) -> None:
    page = client.get("/large")
    assert (len(page.data), page.headers["Content-Length"]) == (LARGE_BYTES, str(LARGE_BYTES))
    stream = client.get("/stream")
    assert (len(stream.data), stream.headers.get("Content-Length")) == (STREAM_BYTES, None)
    assert zlib.crc32(stream.data) == crc_of_pieces(STREAM_BYTES)


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_a_stream_is_as_long_as_was_asked(client: Client, length: int) -> None:
    data = client.get(f"/stream?bytes={length}").data
    assert (len(data), zlib.crc32(data)) == (length, crc_of_pieces(length))
    assert sum(len(piece) for piece in pieces(length)) == length


def test_an_upload_is_counted_and_summed(client: Client) -> None:
    body = bytes(range(256)) * 1000
    assert client.post("/upload", data=body).data == b"%d %d" % (len(body), zlib.crc32(body))


def test_the_file_is_what_was_written(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    crc = write_file(path, 300_000)
    response = client.get("/file")
    assert (len(response.data), zlib.crc32(response.data)) == (300_000, crc)
    response.close()
