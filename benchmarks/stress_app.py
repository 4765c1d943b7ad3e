"""The application that slow, hostile and well-behaved clients ask in the stress scripts.

Everything it answers can be computed beforehand, so that a client can tell a wrong byte, a
byte too many and another client's answer from its own.
"""

from __future__ import annotations

import gc
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

HELLO_BODY: Final = b"Hello, World!"
PIECE_BYTES: Final = 64 * 1024
PIECE: Final = bytes(range(256)) * (PIECE_BYTES // 256)
LARGE_BYTES: Final = 8 << 20
STREAM_BYTES: Final = 32 << 20
FILE_VARIABLE: Final = "STRESS_FILE"
"""The environment variable with the path of what /file answers."""

_LARGE: Final = PIECE * (LARGE_BYTES // PIECE_BYTES)
_LONGEST_S: Final = 60.0


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer by path: see `_ROUTES`."""
    route = _ROUTES.get(environ["PATH_INFO"])
    if route is None:
        return _answer(start_response, b"no such page\n", "404 Not Found")
    return route(environ, start_response)


def crc_of_pieces(length: int) -> int:
    """Return the CRC-32 of a streamed answer of `length` bytes."""
    crc = 0
    for piece in pieces(length):
        crc = zlib.crc32(piece, crc)
    return crc


def pieces(length: int) -> Iterator[bytes]:
    """Yield `length` bytes in pieces of 64 KiB."""
    whole, rest = divmod(length, PIECE_BYTES)
    for _ in range(whole):
        yield PIECE
    if rest:
        yield PIECE[:rest]


def _hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _answer(start_response, HELLO_BODY)


def _echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _answer(start_response, environ["QUERY_STRING"].encode("latin-1"))


def _pid(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _answer(start_response, str(os.getpid()).encode())


def _large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer everything at once, as a page that was built in memory."""
    return _answer(start_response, _LARGE)


def _stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer from a generator, without saying how much it will be."""
    length = int(_number(environ, "bytes", STREAM_BYTES))
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return pieces(length)


def _file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a file in the way that the server offers, if it does."""
    # Closed by the wrapper, or by the server with the iterable (PEP 3333).
    file: IO[bytes] = open(os.environ[FILE_VARIABLE], "rb", buffering=0)  # noqa: SIM115
    size = os.fstat(file.fileno()).st_size
    start_response(
        "200 OK",
        [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))],
    )
    wrapper: Callable[[IO[bytes], int], Iterable[bytes]]
    wrapper = environ.get("wsgi.file_wrapper", _plain_wrapper)
    return wrapper(file, PIECE_BYTES)


def _plain_wrapper(file: IO[bytes], size: int) -> Iterator[bytes]:
    with file:
        while piece := file.read(size):
            yield piece


def _upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the whole body; answer its length and CRC-32."""
    source, length, crc = environ["wsgi.input"], 0, 0
    while piece := source.read(PIECE_BYTES):
        length += len(piece)
        crc = zlib.crc32(piece, crc)
    return _answer(start_response, b"%d %d" % (length, crc))


def _sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Wait without the processor, as for a database."""
    time.sleep(min(_LONGEST_S, _number(environ, "ms", 10) / 1000))
    return _answer(start_response, b"slept")


def _work(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Compute for some milliseconds of this thread's time."""
    end_s = time.thread_time() + min(_LONGEST_S, _number(environ, "ms", 1) / 1000)
    while time.thread_time() < end_s:
        zlib.crc32(PIECE)
    return _answer(start_response, b"worked")


def _unreachable(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer how many objects only a garbage collection could free, and free them."""
    return _answer(start_response, b"%d" % gc.collect())


def _number(environ: WSGIEnvironment, name: str, default: float) -> float:
    values = parse_qs(environ["QUERY_STRING"]).get(name)
    return float(values[0]) if values else default


def _answer(start_response: StartResponse, body: bytes, status: str = "200 OK") -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


_ROUTES: Final[dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]]] = {
    "/": _hello,
    "/echo": _echo,
    "/pid": _pid,
    "/large": _large,
    "/stream": _stream,
    "/file": _file,
    "/upload": _upload,
    "/sleep": _sleep,
    "/work": _work,
    "/unreachable": _unreachable,
}
