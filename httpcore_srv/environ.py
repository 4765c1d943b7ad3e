"""The environ of a request (PEP 3333), and what an application finds in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, Any, Final

from httpcore_srv.messages import RequestHead
from httpcore_srv.response_writer import SERVER

Environ = dict[str, Any]

PROTOCOLS: Final = ("HTTP/1.0", "HTTP/1.1")
BLOCK_BYTES: Final = 65536  # what a file without a descriptor is read by


class FileWrapper:
    """`wsgi.file_wrapper`: an iterable over a file that the server may send by sendfile(2)."""

    def __init__(self, filelike: IO[bytes], blksize: int = BLOCK_BYTES) -> None:
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.filelike.read(self.blksize), b"")

    def __next__(self) -> bytes:
        block = self.filelike.read(self.blksize)
        if not block:
            raise StopIteration
        return block


def base_environ(server_name: str, server_port: str, multiprocess: bool) -> Environ:
    """Return what is the same in every request that comes over one listener (PEP 3333)."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "SERVER_SOFTWARE": SERVER,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
    }


class Environs:
    """Makes the environs of one connection's requests.

    base: what they have in common. Belongs to whoever owns the connection's stream.
    """

    __slots__ = ("_base", "_last", "_template")

    def __init__(self, base: Environ) -> None:
        self._base = base
        self._last: RequestHead | None = None
        self._template: Environ | None = None  # of `_last`, once that has come a second time

    def forget(self) -> None:
        """The connection is closed: let go of what refers to it."""
        self._base = {}
        self._last = self._template = None

    def make(self, request: RequestHead) -> Environ:
        """Return the environ of a request, but for its content; it is the caller's.

        The parser gives out the same object for the same bytes, and nobody changes it: a
        client that repeats itself costs one copy of a dictionary.
        """
        if request is self._last:
            template = self._template
            if template is None:
                self._template = template = self._make(request)
            return template.copy()
        self._last = request
        self._template = None
        return self._make(request)

    def _make(self, request: RequestHead) -> Environ:
        environ = {**self._base, **request.fields.environ}
        environ["REQUEST_METHOD"] = request.method
        environ["PATH_INFO"] = request.path
        environ["QUERY_STRING"] = request.query
        environ["SERVER_PROTOCOL"] = PROTOCOLS[request.minor]
        environ["RAW_URI"] = environ["REQUEST_URI"] = request.target
        if request.authority is not None:
            environ["HTTP_HOST"] = request.authority
        return environ
