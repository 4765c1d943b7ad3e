"""HTTPRequest: bytes in, messages out; never waits (RFC 9112).

Requests of one connection follow one another in the receive buffer:

    head --no body--> head        head --body--> body bytes* --> END_OF_MESSAGE --> head

`next_message` takes them out one by one, and stops at the first fault for good. Whether a
head arrives whole, octet by octet or cut anywhere, the messages and the status of a fault are
the same; only the sizes of the body pieces differ.

There are two ways through a head. The short one is for a head that lies complete in one
received piece, as nearly all do: find, look up, cut. The other is for heads that arrive in
pieces: it remembers how far it has looked, so the work is linear in the bytes, and
refuses hopeless ones before they are complete. It also decides which of several faults counts:
the short way asks it before it reports one.
"""

from __future__ import annotations

from typing import Final

from httpcore_srv.body import BodyReader, ChunkedReader, ContentLengthReader
from httpcore_srv.errors import ProtocolError
from httpcore_srv.fields import parse_fields, varied, varying_field
from httpcore_srv.grammar import MAX_METHOD_LENGTH, TOKEN_OCTETS
from httpcore_srv.messages import END_OF_MESSAGE, NEED_DATA, FieldBlock, Message, RequestHead
from httpcore_srv.request_line import RequestLine, judge_request_line, known_request_lines
from httpcore_srv.settings import HTTPLimits

# A head above this is parsed anew each time rather than kept with an idle connection.
_MAX_REMEMBERED_HEAD_BYTES: Final = 4096

_CR: Final = 0x0D
_FIRST_OCTETS: Final = TOKEN_OCTETS | {_CR}  # of a head; CR for the empty line before it


# A connection that mixes many clients' requests (a proxy's) is not looked at for ever.
_MAX_VAIN: Final = 4


class HTTPRequest:
    """The requests of one connection, parsed one after the other. No I/O, no clock.

    limits: what a client may send.

    Give it what was received with `receive_data`, ask with `next_message`.
    """

    __slots__ = (
        "_blank_line_seen",
        "_eof",
        "_head",
        "_limits",
        "_line",
        "_line_end",
        "_line_start",
        "_pos",
        "_reader",
        "_scanned",
        "_seen",
        "_seen_fields",
        "_vain",
        "_varying",
        "_varying_end",
        "_varying_key",
        "_varying_name",
        "buffer",
    )

    def __init__(self, limits: HTTPLimits) -> None:
        self._limits = limits
        # What was received; consumed up to _pos; empty once all was used. bytes as received, as
        # long as nothing had to be put together; a bytearray, with _pos 0, if a piece was added
        # to a rest.
        self.buffer: bytes | bytearray = b""
        self._pos = 0
        self._eof = False
        self._reader: BodyReader | None = None  # a body is being read (or: broken)
        # The last head, for clients that send the same again on their connection.
        self._head: RequestHead | None = None
        self._line: RequestLine | None = None
        self._seen = b""  # its octets; empty: not kept, and no head either
        self._seen_fields = 0  # where in these the header section begins
        # The one line of the section that differed from the request before: where it begins and
        # where its CRLF ends, and its CGI variable. If there is none: the section's end, and "".
        self._varying = self._varying_end = 0
        self._varying_key = ""
        self._varying_name = b""
        self._vain = 0  # looks in a row that did not find just one
        # How far an unfinished head has been looked through. Offsets from its first octet.
        self._scanned = 0
        self._line_start = 0  # where the line that is not complete yet begins
        self._line_end = 0  # just behind the request line; 0 while that is incomplete
        self._blank_line_seen = False

    def receive(self, data: bytes) -> Message:
        """Store what the peer sent and take the next message: both of the below in one."""
        if self.buffer or self._reader is not None:
            self.receive_data(data)
            return self.next_message()
        # The very octets that were found valid before; nothing about them can be different.
        if data == self._seen:
            head = self._head
            if head is not None and not head.has_body:
                self._blank_line_seen = False
                return head
        if not data:
            self._eof = True
            return NEED_DATA
        self.buffer = data
        return self._next_head(data)

    def receive_data(self, data: bytes) -> None:
        """Store what the peer sent; b"" says that it will send nothing more.

        The caller bounds how much it stores ahead of `next_message`.
        """
        if not data:
            self._eof = True
        elif not self.buffer:
            self.buffer = data
        elif isinstance(self._reader, _Broken):
            pass  # nobody will ever look at it
        else:
            if isinstance(self.buffer, bytes):
                self.buffer = bytearray(memoryview(self.buffer)[self._pos :])
            else:
                del self.buffer[: self._pos]
            self._pos = 0
            self.buffer += data

    def next_message(self) -> Message:
        """Take the next complete message out of what has been received.

        Returns: a RequestHead; then, if its `has_body` is true, pieces of the decoded body as
            large as they lie there, and END_OF_MESSAGE. NEED_DATA if there is nothing
            complete; after end-of-file that stays so, and `truncated` tells whether a
            message was cut off.
        Raises: ProtocolError if the peer broke the rules, and the same again at any later
            call. Never anything else, whatever the bytes.
        """
        if self._reader is not None:
            return self._next_of_body(self._reader)
        data = self.buffer
        return self._next_head(data) if data else NEED_DATA

    def _next_head(self, data: bytes | bytearray) -> Message:
        """Take a head out of `data`, which is the buffer and not empty."""
        try:
            if isinstance(data, bytearray):
                if not self._look_through():
                    return NEED_DATA
                data = self.buffer = bytes(data)
            head = self._take_head(data)
        except ProtocolError as error:
            raise self._break(error) from None
        if head is None:
            return NEED_DATA
        if head.has_body:
            fields = head.fields
            self._reader = (
                ChunkedReader(self._limits)
                if fields.chunked
                else ContentLengthReader(fields.content_length or 0)
            )
        return head

    def leave_body(self) -> None:
        """The rest of the body that is being read will never come this way.

        What is given to `receive_data` next is the beginning of another request.
        """
        self._reader = None

    def take_whole_body(self, limit: int) -> bytes | None:
        """Take the body whose head was the last message, if all of it lies here.

        None: it does not, or comes in chunks, or is larger than `limit`; nothing was taken.
        """
        reader = self._reader
        if type(reader) is not ContentLengthReader:
            return None
        stop = self._pos + reader.left
        if stop > len(self.buffer) or reader.left > limit:
            return None
        body = bytes(self.buffer[self._pos : stop])
        self._reader = None
        self._consume(stop)
        return body

    @property
    def at_boundary(self) -> bool:
        """Between requests, with nothing of a next one received."""
        return self._reader is None and not self.buffer

    @property
    def in_head(self) -> bool:
        """Some bytes of a head are there. Ask after NEED_DATA: then it is unfinished."""
        return self._reader is None and bool(self.buffer)

    @property
    def truncated(self) -> bool:
        """End-of-file came in the middle of a message. Ask after NEED_DATA."""
        return self._eof and not self.at_boundary

    @property
    def unparsed_bytes(self) -> int:
        """How much `unparsed` would return."""
        return len(self.buffer) - self._pos

    def unparsed(self) -> bytes:
        """Return what was received and not consumed.

        Between requests that is the beginning of the next ones: another HTTPRequest that
        receives it goes on as this one would.
        """
        return bytes(self.buffer[self._pos :])

    def _take_head(self, data: bytes) -> RequestHead | None:
        """Take the head that begins at the position; None if it is not complete. The hot path."""
        pos = self._pos
        limits = self._limits
        eol = data.find(b"\r\n", pos)
        if eol < 0:
            self._look_through()
            return None
        line = known_request_lines.get(data[pos:eol])
        if line is None or eol - pos > limits.max_request_line_bytes:
            if eol == pos and not self._blank_line_seen:
                self._skip_blank_line()
                return self._take_head(data) if self.buffer else None
            line = judge_request_line(data[pos:eol], limits)

        start = eol + 2
        last = self._head
        known = None if last is None else self._take_known_fields(last, line[4], data, start)
        if known is not None and last is not None:
            fields, stop = known
            same = line is self._line and fields is last.fields
            head = last if same else _make_head(line, fields)
        else:
            end = data.find(b"\r\n\r\n", eol)
            if end < 0:
                self._look_through()
                return None
            stop = end + 4
            head = _make_head(line, _judge_fields(data[start : end + 2], line[4], limits))
            self._find_varying_line(head, data[start:stop])
        self._line = line
        if stop - pos <= _MAX_REMEMBERED_HEAD_BYTES:
            self._head = head
            self._seen = data[pos:stop]  # copies nothing if that is all of it
            self._seen_fields = start - pos
        else:
            self._head = None
            self._seen = b""

        if stop == len(data):
            self.buffer = b""
            self._pos = 0
        else:
            self._pos = stop
        self._scanned = self._line_start = self._line_end = 0
        self._blank_line_seen = False
        return head

    def _take_known_fields(
        self, last: RequestHead, minor: int, data: bytes, start: int
    ) -> tuple[FieldBlock, int] | None:
        """Return the fields of the section that begins there, and where it ends.

        None, if more than one line differs from the last head's, or another line than
        before. Octets that were found valid need not be judged again, but for the version
        by which they are judged.
        """
        seen, fields_at, varying = self._seen, self._seen_fields, self._varying
        if last.minor != minor or not data.startswith(seen[fields_at : fields_at + varying], start):
            return None
        if not self._varying_key:
            return last.fields, start + varying
        line_at = start + varying
        after = data.find(b"\r\n", line_at) + 2
        if after == 1 or not data.startswith(seen[fields_at + self._varying_end :], after):
            return None
        stop = after + len(seen) - fields_at - self._varying_end
        line = data[line_at : after - 2]
        if line == seen[fields_at + varying : fields_at + self._varying_end - 2]:
            return last.fields, stop
        if stop - start - 2 > self._limits.max_header_bytes:
            return None
        fields = varied(last.fields, self._varying_key, self._varying_name, line)
        if fields is None:
            return None
        self._varying_end = after - start
        return fields, stop

    def _find_varying_line(self, head: RequestHead, section: bytes) -> None:
        """See whether just one line differs from the last head's: so it may be the next time.

        Browsers send the same lines but for Cookie or Referer with request after request.
        """
        last, before = self._head, self._seen[self._seen_fields :]
        self._varying = self._varying_end = len(section)
        self._varying_key = ""
        if last is None or last.minor != head.minor or self._vain >= _MAX_VAIN:
            return
        self._vain += 1
        lines, old_lines = section.split(b"\r\n"), before.split(b"\r\n")
        if len(lines) != len(old_lines):
            return
        changed = [number for number, line in enumerate(lines) if line != old_lines[number]]
        if len(changed) != 1:
            return
        number = changed[0]
        field = varying_field(head.fields, lines[number])
        if field is not None:
            self._vain = 0
            self._varying_key, self._varying_name = field
            self._varying = sum(len(line) + 2 for line in lines[:number])
            self._varying_end = self._varying + len(lines[number]) + 2

    def _skip_blank_line(self) -> None:
        """Pass over one empty line before a request line (RFC 9112 section 2.2).

        Old clients send one after a body that they did not count it into. One, not many: a
        stream of empty lines would keep the connection busy without ever being a request.
        """
        self._blank_line_seen = True
        self._scanned = 0
        self._consume(self._pos + 2)

    def _consume(self, stop: int) -> None:
        """Move the position, and let go of the received piece once all of it was used."""
        if stop == len(self.buffer):
            self.buffer = b""
            self._pos = 0
        else:
            self._pos = stop

    def _look_through(self) -> bool:
        """Look at what has come of a head since the last look; True if it is complete.

        Judges line by line, in the order in which the octets came, so that the verdict does
        not depend on how they were cut:

            first octet no method's   -> 400      longer than its limit -> 414, 431
            LF without a CR before it -> 400      request line complete -> judged
            empty line -> complete

        A bare LF is refused here rather than when the head is complete, since a head that
        is written with bare LFs never would be: its sender would wait for our time-out. So
        would one who speaks TLS to a plain port; the first octet tells.
        """
        limits = self._limits
        while self.buffer:
            data, start = self.buffer, self._pos
            if self._scanned == 0 and data[start] not in _FIRST_OCTETS:
                raise ProtocolError(400, "not a request line: no beginning of a method")
            budget = limits.max_header_bytes if self._line_end else limits.max_request_line_bytes
            bound = start + self._line_end + budget + len("\r\n")
            lf = data.find(b"\n", start + self._scanned, bound)
            if lf < 0:
                if len(data) >= bound:
                    raise self._too_long()
                self._scanned = len(data) - start
                break
            if data[lf - 1] != _CR:
                raise ProtocolError(400, "LF without CR in a head")
            line_length = lf + 1 - start - self._line_start
            if self._line_end:
                if line_length == 2:
                    return True
            elif line_length == 2 and not self._blank_line_seen:
                self._skip_blank_line()
                continue
            else:
                judge_request_line(bytes(data[start : lf - 1]), limits)
                self._line_end = lf + 1 - start
            self._line_start = self._scanned = lf + 1 - start
        if self._pos:
            # What was consumed need not stay in memory as long as the rest makes us wait.
            self.buffer = self.buffer[self._pos :]
            self._pos = 0
        return False

    def _too_long(self) -> ProtocolError:
        """Return the error for a part of the head that is above its limit."""
        limits = self._limits
        if self._line_end:
            return ProtocolError(431, f"header section above {limits.max_header_bytes} bytes")
        # Only octets within the limit: more may have come already, or not.
        looked_at = min(MAX_METHOD_LENGTH + 1, limits.max_request_line_bytes)
        if b" " not in self.buffer[self._pos : self._pos + looked_at]:
            return ProtocolError(400, "not a request line: no end of a method")
        return ProtocolError(414, f"request line above {limits.max_request_line_bytes} bytes")

    def _next_of_body(self, reader: BodyReader) -> Message:
        """Take body bytes, or the end of the message."""
        if not reader.done:
            try:
                piece, stop = reader.take(self.buffer, self._pos)
            except ProtocolError as error:
                raise self._break(error) from None
            self._consume(stop)
            if piece:
                return piece
            if not reader.done:
                return NEED_DATA
        self._reader = None
        return END_OF_MESSAGE

    def _break(self, error: ProtocolError) -> ProtocolError:
        """Make this parser refuse for ever; return the error that counts.

        A request that was judged bad is never followed by another (waitress, CVE-2024-49768).
        """
        if self._reader is None:
            # The short way finds faults in another order than the bytes came in.
            self._scanned = self._line_start = self._line_end = 0
            try:
                self._look_through()
            except ProtocolError as first:
                error = first
        if not isinstance(self._reader, _Broken):
            self._reader = _Broken(error)
        self._head = self._line = None
        self.buffer = self._seen = b""
        self._pos = 0
        return error.with_traceback(None)


class _Broken:
    """Stands where a body reader would, and fails again whenever asked."""

    __slots__ = ("_message", "_status", "done")

    def __init__(self, error: ProtocolError) -> None:
        # Not the error itself: its traceback would keep everything alive that led to it.
        self._status = error.status
        self._message = error.message
        self.done = False

    def take(self, data: bytes | bytearray, pos: int) -> tuple[bytes, int]:
        raise ProtocolError(self._status, self._message)


def _make_head(line: RequestLine, fields: FieldBlock) -> RequestHead:
    """Put a judged request line and judged fields together."""
    method, target, path, query, minor, authority = line
    # RFC 9112, 9.3: `close` wins; else HTTP/1.1 persists and HTTP/1.0 does if asked.
    # What comes after a CONNECT may be meant for the tunnel that there will not be.
    keep_alive = not fields.close and (minor > 0 or fields.keep_alive) and method != "CONNECT"
    has_body = fields.chunked or bool(fields.content_length)
    return RequestHead(method, target, path, query, minor, authority, fields, keep_alive, has_body)


def _judge_fields(raw: bytes, minor: int, limits: HTTPLimits) -> FieldBlock:
    """Parse a header section and refuse what we cannot serve."""
    if len(raw) > limits.max_header_bytes:
        raise ProtocolError(431, f"header section above {limits.max_header_bytes} bytes")
    fields = parse_fields(raw, minor, limits)
    if fields.unknown_expectation:
        raise ProtocolError(417, "an expectation other than 100-continue")
    return fields
