"""Readers of a request body: by Content-Length, and in chunks (RFC 9112 sections 6 and 7).

A reader is shown the receive buffer and takes from it what belongs to its body, so that the
first octet after the body is exactly where the next request begins. Neither does work per
octet: whole buffers are cut, never walked.
"""

from __future__ import annotations

from typing import Final, Protocol

from httpcore_srv.errors import ProtocolError
from httpcore_srv.grammar import CHUNK_LINE, TRAILER_LINE
from httpcore_srv.settings import HTTPLimits

_MAX_SIZE_DIGITS: Final = 16
_HEXDIGITS: Final = frozenset(b"0123456789abcdefABCDEF")


class BodyReader(Protocol):
    """Takes one body out of the receive buffer."""

    done: bool
    """Everything that belongs to the message has been taken."""

    def take(self, data: bytes | bytearray, pos: int) -> tuple[bytes, int]:
        """Take what there is of the body in `data` from `pos` on.

        Returns the decoded bytes (empty if there are none yet) and the new position.
        Raises: ProtocolError. What was good before the fault is given out first.
        """


class ContentLengthReader:
    """Reads a body of known length (RFC 9112 section 6.2)."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length  # bytes that have not been taken yet
        self.done = length == 0

    def take(self, data: bytes | bytearray, pos: int) -> tuple[bytes, int]:
        """Take what there is of the body. See `BodyReader`."""
        stop = min(pos + self.left, len(data))
        self.left -= stop - pos
        self.done = self.left == 0
        # bytes() and a slice of everything copy nothing when `data` is bytes already.
        return bytes(data[pos:stop]), stop


class ChunkedReader:
    """Reads a body in chunks; drops extensions and trailers (RFC 9112 section 7.1).

        SIZE --size > 0--> DATA --all of it--> DATA_END --CRLF--> SIZE
        SIZE --size = 0--> TRAILER --empty line--> done

    State changes only after everything about a step has been checked, so a step that finds
    a fault can be tried again: `take` first gives out what came before the fault.
    """

    __slots__ = (
        "_chunk_left",
        "_data_bytes",
        "_in_trailer",
        "_limits",
        "_line_end_due",
        "_overhead_bytes",
        "_trailer_bytes",
        "_trailer_lines",
        "done",
    )

    def __init__(self, limits: HTTPLimits) -> None:
        self._limits = limits
        self._chunk_left = 0  # above 0: DATA
        self._line_end_due = False  # DATA_END
        self._in_trailer = False  # TRAILER
        self._data_bytes = 0
        self._overhead_bytes = 0
        self._trailer_bytes = 0
        self._trailer_lines = 0
        self.done = False

    def take(self, data: bytes | bytearray, pos: int) -> tuple[bytes, int]:
        """Take what there is of the body. See `BodyReader`."""
        pieces: list[bytes | bytearray] = []
        try:
            while not self.done:
                if self._chunk_left > 0:
                    stop = min(pos + self._chunk_left, len(data))
                    if stop == pos:
                        break
                    pieces.append(data[pos:stop])
                    self._chunk_left -= stop - pos
                    pos = stop
                    continue
                if self._line_end_due:
                    after = self._take_line_end(data, pos)
                elif self._in_trailer:
                    after = self._take_trailer_line(data, pos)
                else:
                    after = self._take_size_line(data, pos)
                if after == pos:
                    break
                pos = after
        except ProtocolError:
            # Nothing was changed by the step that failed, so the next call fails again.
            if not pieces:
                raise
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces), pos

    def _take_size_line(self, data: bytes | bytearray, pos: int) -> int:
        """Read one chunk-size line; return the position behind it, or `pos` if it is not whole."""
        match = CHUNK_LINE.match(data, pos)
        if match is None:
            return self._await_size_line(data, pos)
        digits, extensions = match.span(2)
        if extensions - digits > self._limits.max_chunk_extension_bytes:
            raise ProtocolError(400, "chunk extensions too long")
        size = int(match[1], 16)
        if size == 0:
            self._in_trailer = True
            return match.end()
        data_bytes = self._data_bytes + size
        if 0 < self._limits.max_body_bytes < data_bytes:
            raise ProtocolError(413, f"chunked body above {self._limits.max_body_bytes}")
        overhead_bytes = self._overhead_bytes + match.end() - pos + 2
        if overhead_bytes > self._limits.max_chunk_overhead_bytes + 2 * data_bytes:
            raise ProtocolError(400, "chunked body has more framing than data")
        self._data_bytes = data_bytes
        self._overhead_bytes = overhead_bytes
        self._chunk_left = size
        self._line_end_due = True
        return match.end()

    def _await_size_line(self, data: bytes | bytearray, pos: int) -> int:
        """Return `pos`, unless what is there can never become a chunk-size line."""
        if pos == len(data):
            return pos
        if data[pos] not in _HEXDIGITS:
            raise ProtocolError(400, "chunk size is not hexadecimal")
        longest = _MAX_SIZE_DIGITS + self._limits.max_chunk_extension_bytes + len("\r\n")
        if data.find(b"\n", pos, pos + longest) >= 0:
            raise ProtocolError(400, "malformed chunk size line")
        if len(data) - pos >= longest:
            raise ProtocolError(400, "chunk size line too long")
        return pos

    def _take_line_end(self, data: bytes | bytearray, pos: int) -> int:
        """Read the CRLF behind the data of a chunk.

        h11 once skipped two octets here without a look (CVE-2025-43859): a proxy that does
        look then sees another body.
        """
        line_end = bytes(data[pos : pos + 2])
        if line_end == b"\r\n":
            self._line_end_due = False
            return pos + 2
        if not b"\r\n".startswith(line_end):
            raise ProtocolError(400, "chunk data is not followed by CRLF")
        return pos

    def _take_trailer_line(self, data: bytes | bytearray, pos: int) -> int:
        """Read and drop one line of the trailer section, or the empty line that ends it.

        Dropped, never merged: RFC 9112 section 7.1.2 allows merging only for fields that are
        defined to permit it, and PEP 3333 has no place for the others.
        """
        budget = self._limits.max_trailer_bytes + len("\r\n") - self._trailer_bytes
        stop = data.find(b"\n", pos, pos + budget) + 1
        if stop == 0:
            if len(data) - pos >= budget:
                raise ProtocolError(431, "trailer section too long")
            return pos
        if data[pos:stop] == b"\r\n":
            self.done = True
            return stop
        if not TRAILER_LINE.fullmatch(data, pos, stop):
            raise ProtocolError(400, "malformed trailer line")
        if self._trailer_lines >= self._limits.max_headers:
            raise ProtocolError(431, f"more than {self._limits.max_headers} trailer fields")
        self._trailer_lines += 1
        self._trailer_bytes += stop - pos
        return stop
