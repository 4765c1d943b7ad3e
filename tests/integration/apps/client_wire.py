"""What clients and proxies are tested with: bodies of any size in every framing, checksums."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.util import FileWrapper

from werkzeug import Request

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

TEXT = ("Content-Type", "text/plain")
PIECE_BYTES = 1 << 16
WHOLE = b"all of it\n"
SHOWN = (str, int, bool)
# The same in the tests' process: no piece is like another, so none can be lost or exchanged.
_NOISE = random.Random(9112).randbytes(PIECE_BYTES)


def pieces(count: int) -> Iterator[bytes]:
    """Yield `count` bytes, always the same ones, piece by piece."""
    for offset in range(0, count, PIECE_BYTES):
        yield (offset.to_bytes(8, "big") + _NOISE[8:])[: count - offset]


def digest(content: Iterable[bytes]) -> str:
    """Return the checksum of some pieces."""
    total = hashlib.sha256()
    for piece in content:
        total.update(piece)
    return total.hexdigest()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the path says."""
    view = VIEWS.get(environ["PATH_INFO"].strip("/"), show)
    return view(environ, start_response)


def asked(environ: WSGIEnvironment, name: str, default: str = "0") -> str:
    """Return a parameter of the query."""
    values: dict[str, list[str]] = parse_qs(environ["QUERY_STRING"])
    return values.get(name, [default])[0]


def answer(start_response: StartResponse, value: Any) -> Iterable[bytes]:
    """Return a value as JSON."""
    content = json.dumps(value).encode()
    length = ("Content-Length", str(len(content)))
    start_response("200 OK", [("Content-Type", "application/json"), length])
    return [content]


def show(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The environ: what any path without a view gives."""
    shown = {key: value for key, value in environ.items() if isinstance(value, SHOWN)}
    return answer(start_response, shown)


def whole(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A few bytes."""
    start_response("200 OK", [TEXT, ("Content-Length", str(len(WHOLE)))])
    return [WHOLE]


def whoami(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The process that answers."""
    return answer(start_response, {"pid": os.getpid()})


def sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The process that answers, after some milliseconds."""
    time.sleep(int(asked(environ, "ms")) / 1000)
    return whoami(environ, start_response)


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Size and checksum of what was sent, and how it was announced."""
    total, received = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(PIECE_BYTES):
        total.update(piece)
        received += len(piece)
    kind = environ.get("CONTENT_TYPE", "")
    length = environ.get("CONTENT_LENGTH", "")
    seen = {"method": environ["REQUEST_METHOD"], "type": kind, "length": length}
    return answer(start_response, {**seen, "bytes": received, "digest": total.hexdigest()})


def form(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The fields of a form, and names, types and checksums of its files."""
    request = Request(environ)
    files = {
        name: [file.filename, file.content_type, digest(FileWrapper(file.stream, PIECE_BYTES))]
        for name, file in request.files.items()
    }
    fields = {name: request.form.getlist(name) for name in request.form}
    request.close()
    return answer(start_response, {"fields": fields, "files": files})


def sized(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Many bytes of a declared length."""
    count = int(asked(environ, "bytes"))
    start_response("200 OK", [TEXT, ("Content-Length", str(count))])
    return pieces(count)


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Many bytes of a length that is not known before."""
    start_response("200 OK", [TEXT])
    return pieces(int(asked(environ, "bytes")))


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Many bytes from a file, by the server's own wrapper."""
    count = int(asked(environ, "bytes"))
    start_response("200 OK", [TEXT, ("Content-Length", str(count))])
    # Opened anew: each response has a position of its own in it.
    content = open(f"/proc/self/fd/{stored(count)}", "rb")  # noqa: SIM115 - the server closes it
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](content)
    return wrapped


@functools.cache
def stored(count: int) -> int:
    """Return the descriptor of a file without a name that has so many bytes."""
    fd = os.memfd_create("content")
    with open(fd, "wb", closefd=False) as content:
        content.writelines(pieces(count))
    return fd


def held(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """A piece, and another one when somebody lets go of a FIFO."""
    start_response("200 OK", [TEXT])
    yield b"before, "
    with open(asked(environ, "fifo")) as fifo:
        fifo.read()
    yield b"after\n"


def waiting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A whole answer when somebody lets go of a FIFO."""
    with open(asked(environ, "fifo")) as fifo:
        fifo.read()
    return whole(environ, start_response)


def broken(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """A response that is never completed."""
    start_response("200 OK", [TEXT])
    yield from pieces(PIECE_BYTES)
    raise RuntimeError("broken in the middle")


def missing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """404 with a page."""
    start_response("404 Not Found", [TEXT])
    return [b"nothing here\n"]


def empty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """204."""
    start_response("204 No Content", [])
    return []


def tagged(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """304 for who has it already."""
    tag = ("ETag", '"one"')
    if environ.get("HTTP_IF_NONE_MATCH") == tag[1]:
        start_response("304 Not Modified", [tag])
        return []
    start_response("200 OK", [TEXT, tag])
    return [WHOLE]


def moved(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """303: it is elsewhere."""
    start_response("303 See Other", [TEXT, ("Location", "/whole")])
    return [b"elsewhere\n"]


def last(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A response after which the application wants the connection closed."""
    start_response("200 OK", [TEXT, ("Connection", "close")])
    return [WHOLE]


View = Callable[["WSGIEnvironment", "StartResponse"], Iterable[bytes]]
VIEWS: dict[str, View] = {
    view.__name__: view
    for view in (
        whole,
        whoami,
        sleep,
        upload,
        form,
        sized,
        stream,
        file,
        held,
        waiting,
        broken,
        missing,
        empty,
        tagged,
        moved,
        last,
    )
}
