"""Reads HTTP/1.1 responses out of pieces of bytes, strictly: for clients that check a server.

The standard library's reader waits on a socket; this one is fed, so that thousands of
connections can share a thread. Content is counted and summed, not kept beyond its beginning.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KEPT_BYTES: Final = 4096  # of the content of one answer
_MAX_HEAD_BYTES: Final = 65536
_MAX_LINE_BYTES: Final = 1024

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [^\r\n\0]*")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}")
_FIELD_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")


class BadAnswer(Exception):
    """What came is not a response, or less than a whole one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole response; names of fields in lower case."""

    status: int
    fields: Mapping[bytes, bytes]
    length: int
    crc: int
    start: bytes  # the first KEPT_BYTES of the content

    @property
    def closes(self) -> bool:
        """Whether the server has said that the connection ends with it."""
        return self.fields.get(b"connection", b"").lower() == b"close"


class AnswerReader:
    """Takes bytes in any pieces, gives whole answers; 100 Continue and its kind are skipped."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._head: tuple[int, dict[bytes, bytes]] | None = None
        self._left = 0  # of the content, or of the chunk
        self._state = "head"
        self._length = self._crc = 0
        self._start = b""
        self._elements = {
            "head": self._read_head,
            "content": self._read_content,
            "rest": self._read_rest,
            "size": self._read_size,
            "chunk": self._read_chunk,
            "trailer": self._read_trailer,
        }

    @property
    def at_rest(self) -> bool:
        """Whether nothing of a further answer has come."""
        return self._state == "head" and not self._unread

    def feed(self, data: bytes) -> None:
        """Take in what has been received."""
        self._unread += data

    def take(self) -> Answer | None:
        """Return the next whole answer; None until there is one. Raises: BadAnswer."""
        while True:
            if self._state == "done":
                return self._finish()
            if not self._elements[self._state]():
                return None

    def end(self) -> Answer | None:
        """The server has closed: return the answer that ends with it, None if nothing is open.

        Raises: BadAnswer if it has closed in the middle of one.
        """
        if self.at_rest:
            return None
        if self._state == "rest":
            return self._finish()
        raise BadAnswer(f"the connection was closed in the middle of an answer ({self._state})")

    # Each of these reads one element; False if it is not whole yet.

    def _read_head(self) -> bool:
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            if len(self._unread) > _MAX_HEAD_BYTES:
                raise BadAnswer("an endless head")
            return False
        status, fields = _parse_head(bytes(self._unread[:end]))
        del self._unread[: end + 4]
        if status < 200:
            return True
        self._head = status, fields
        self._length = self._crc = 0
        self._start = b""
        if fields.get(b"transfer-encoding"):
            if fields[b"transfer-encoding"] != b"chunked" or b"content-length" in fields:
                raise BadAnswer(f"framing that can be read in two ways: {fields}")
            self._state = "size"
        elif status in (204, 304):
            self._state = "done"
        elif (length := fields.get(b"content-length")) is not None:
            if not length.isdigit():
                raise BadAnswer(f"Content-Length: {length!r}")
            self._left = int(length)
            self._state = "content" if self._left else "done"
        else:
            self._state = "rest"
        return True

    def _read_content(self) -> bool:
        self._left -= self._count(self._left)
        if not self._left:
            self._state = "done"
        return not self._left

    def _read_rest(self) -> bool:
        self._count(len(self._unread))
        return False

    def _read_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if _CHUNK_SIZE.fullmatch(line) is None:
            raise BadAnswer(f"a chunk of size {line!r}")
        self._left = int(line, 16)
        self._state = "chunk" if self._left else "trailer"
        return True

    def _read_chunk(self) -> bool:
        self._left -= self._count(self._left)
        if self._left or len(self._unread) < 2:
            return False
        if self._unread[:2] != b"\r\n":
            raise BadAnswer(f"{bytes(self._unread[:2])!r} after a chunk")
        del self._unread[:2]
        self._state = "size"
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line:
            self._state = "done"
        return True

    def _line(self) -> bytes | None:
        end = self._unread.find(b"\r\n")
        if end < 0:
            if len(self._unread) > _MAX_LINE_BYTES:
                raise BadAnswer("an endless line")
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 2]
        return line

    def _count(self, most: int) -> int:
        with memoryview(self._unread)[:most] as piece:
            size = len(piece)
            self._crc = zlib.crc32(piece, self._crc)
            if len(self._start) < KEPT_BYTES:
                self._start += bytes(piece[: KEPT_BYTES - len(self._start)])
        del self._unread[:size]
        self._length += size
        return size

    def _finish(self) -> Answer:
        assert self._head is not None
        status, fields = self._head
        self._state, self._head = "head", None
        return Answer(status, fields, self._length, self._crc, self._start)


def _parse_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise BadAnswer(f"not a status line: {first[:100]!r}")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD_LINE.fullmatch(line)
        if field is None:
            raise BadAnswer(f"not a field line: {line[:100]!r}")
        name = field[1].lower()
        if name in fields and name in (b"content-length", b"transfer-encoding", b"date"):
            raise BadAnswer(f"{name!r} comes twice")
        fields[name] = field[2]
    return int(found[1]), fields
