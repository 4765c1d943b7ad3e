"""The applications under test that need nothing but the standard library.

Flask's is in `flask_app`, so that a process that only says hello does not carry Flask's
objects: a full collection walks them, and that would be measured as the server's.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

HELLO_BODY: Final = b"Hello, World!"
JSON_BODY: Final = (
    b'{"message":"Hello, World!"}\n'  # what flask_app answers, kept here without Flask
)
SLEPT_BODY: Final = b"slept"
SLEEP_S: Final = 0.010
LARGE_BYTES: Final = 1_000_000
FILE_BYTES: Final = 100_000_000
UPLOAD_BYTES: Final = 100_000_000
FILE_VARIABLE: Final = "BENCHMARK_FILE"  # environment: the file that `file` sends
CHECK_PATH: Final = "/check"  # `upload` answers with a checksum as well
_BLOCK_BYTES: Final = 65536
_BLOCK: Final = bytes(range(256)) * (_BLOCK_BYTES // 256 + 1)
_large_body: list[bytes] = []


def content(length: int) -> Iterator[bytes]:
    """Yield `length` bytes in blocks, each of which begins otherwise: a lost one is noticed."""
    number = 0
    while length > 0:
        start = number % 251
        block = _BLOCK[start : start + min(length, _BLOCK_BYTES)]
        yield block
        length -= len(block)
        number += 1


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 13 bytes with the two fields that every application sets."""
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO_BODY)))]
    )
    return [HELLO_BODY]


def sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer after 10 ms without the processor, as a database query would."""
    time.sleep(SLEEP_S)
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(SLEPT_BODY)))]
    )
    return [SLEPT_BODY]


def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 1 MB that is in memory already."""
    if not _large_body:  # not at import: the other applications are to be small
        _large_body.append(b"".join(content(LARGE_BYTES)))
    start_response("200 OK", [*_BINARY, ("Content-Length", str(LARGE_BYTES))])
    return _large_body


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the file that the environment names, the way the server likes best."""
    opened = open(os.environ[FILE_VARIABLE], "rb")  # noqa: SIM115  the server closes it
    start_response("200 OK", [*_BINARY, ("Content-Length", str(FILE_BYTES))])
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is not None:
        wrapped: Iterable[bytes] = wrapper(opened, _BLOCK_BYTES)
        return wrapped
    return _blocks(opened)


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the request's content to its end and answer how many bytes it had.

    With the path CHECK_PATH their CRC-32 follows.
    """
    read = environ["wsgi.input"].read
    checks = environ["PATH_INFO"] == CHECK_PATH
    # PEP 3333 lets a server go on behind the content: not all of them stop at its end.
    left = int(environ["CONTENT_LENGTH"])
    received = checksum = 0
    while left > 0 and (block := read(min(left, _BLOCK_BYTES))):
        received += len(block)
        left -= len(block)
        if checks:
            checksum = zlib.crc32(block, checksum)
    answer = f"{received} {checksum:08x}" if checks else str(received)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer.encode()]


_BINARY: Final = (("Content-Type", "application/octet-stream"),)


def _blocks(opened: IO[bytes]) -> Iterator[bytes]:
    with opened:
        while block := opened.read(_BLOCK_BYTES):
            yield block
