"""From the bytes of a request line to its parts (RFC 9112 section 3)."""

from __future__ import annotations

from typing import Final, TypeAlias

from httpcore_srv.errors import ProtocolError
from httpcore_srv.grammar import (
    ABSOLUTE_FORM,
    AUTHORITY_FORM,
    MAX_METHOD_LENGTH,
    ORIGIN_FORM,
    ORIGIN_REQUEST_LINE,
    REQUEST_LINE,
    is_host,
    percent_decode,
)
from httpcore_srv.settings import HTTPLimits

RequestLine: TypeAlias = tuple[str, str, str, str, int, str | None]
"""method, target, path, query, minor, authority: as in RequestHead."""

# Request lines that were found valid, by their bytes; shared by all connections. Short lines
# only, so that it stays below half a megabyte whatever clients send; emptied when full.
_MAX_REMEMBERED_LINES: Final = 1024
_MAX_REMEMBERED_LINE_BYTES: Final = 128
known_request_lines: Final[dict[bytes, RequestLine]] = {}


def judge_request_line(raw: bytes, limits: HTTPLimits) -> RequestLine:
    """Parse a request line of whatever length, and remember it if it is short."""
    if len(raw) > limits.max_request_line_bytes:
        raise ProtocolError(414, f"request line above {limits.max_request_line_bytes} bytes")
    line = parse_request_line(raw)
    if line[0] == "CONNECT":
        if not limits.pass_connect:
            raise ProtocolError(501, "CONNECT")
        return line  # not remembered, for others may have other limits
    # One with a query seldom comes a second time.
    if len(raw) <= _MAX_REMEMBERED_LINE_BYTES and not line[3]:
        if len(known_request_lines) >= _MAX_REMEMBERED_LINES:
            known_request_lines.clear()
        known_request_lines[raw] = line
    return line


def parse_request_line(raw: bytes) -> RequestLine:
    """Parse a request line without its CRLF (RFC 9112 section 3).

    Raises: ProtocolError: 501 for an overlong method, 505 for another major version, 400 for
        all else.
    """
    text = raw.decode("latin-1")
    match = ORIGIN_REQUEST_LINE.fullmatch(text)
    if match is None:
        return _parse_rare_line(text)
    method, target, path, query, minor = match.groups()
    if method == "CONNECT":
        raise ProtocolError(400, "CONNECT without host:port")
    if "%" in path:
        path = _decoded(path)
    return method, target, path, query or "", 1 if minor == "1" else 0, None


def _parse_rare_line(text: str) -> RequestLine:
    """Parse what is no origin-form with version 1.0 or 1.1, or say what is wrong with it."""
    match = REQUEST_LINE.fullmatch(text)
    if match is None:
        # HTTP/0.9 (a method and a path alone) ends here too: nobody speaks it any more,
        # and an answer without a status line would be read as anything.
        raise ProtocolError(400, "malformed request line")
    method, target, major, minor = match.groups()
    if len(method) > MAX_METHOD_LENGTH:
        # RFC 9112, 3: longer than any that the server implements.
        raise ProtocolError(501, f"method above {MAX_METHOD_LENGTH} bytes")
    if major != "1":
        raise ProtocolError(505, f"HTTP/{major}.{minor}")
    # RFC 9110, 2.5: a minor version above ours is treated as the highest one we have.
    minor_number = min(int(minor), 1)
    if method == "CONNECT":
        if AUTHORITY_FORM.fullmatch(target) and is_host(target):
            return method, target, "", "", minor_number, None
        raise ProtocolError(400, "CONNECT without host:port")
    if target == "*" and method == "OPTIONS":
        return method, target, "", "", minor_number, None
    if match := ORIGIN_FORM.fullmatch(target):
        path, query = match.groups()
        return method, target, _decoded(path), query or "", minor_number, None
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is not None and is_host(match[1]):
        authority, path, query, query_alone = match.groups()
        query = query or query_alone or ""
        if path is None and query_alone is None and method == "OPTIONS":
            decoded = ""  # RFC 9112, 3.2.4: means `*`
        else:
            # RFC 9110, 4.2.3: an empty path and `/` are the same.
            decoded = _decoded(path or "/")
        return method, target, decoded, query, minor_number, authority
    raise ProtocolError(400, "invalid request target")


def _decoded(path: str) -> str:
    """Percent-decode a path into PEP 3333's octets in latin-1."""
    if "%" not in path:
        return path
    decoded = percent_decode(path)
    if decoded is None:
        raise ProtocolError(400, "a % in the path without two digits, or %00")
    return decoded
