"""Response values to bytes: the head, its framing, and the pages of our own.

Applications send the same few heads, made of the same few lines, again and again. An
encoded head is remembered under all that it was made of, an encoded line under its
pair: one dictionary look-up replaces the checks and the encoding (0.6 us a response),
and no check is lost, for equal strings have equal faults. Content is never kept.
"""

from __future__ import annotations

import enum
import http
import logging
import re
from collections.abc import Sequence
from typing import Final, cast

from httpcore_srv.errors import AppError

log = logging.getLogger("smart_http.app")

SERVER: Final = "smart-http"


class Framing(enum.Enum):
    """How the end of a response's content is marked (RFC 9112 section 6.3)."""

    NONE = "no content at all"
    LENGTH = "Content-Length"
    CHUNKED = "Transfer-Encoding: chunked"
    CLOSE = "the connection's end"


Head = tuple[bytes, Framing, int, bool]
"""An encoded response head: its bytes, the framing, the length of the content still to
be sent (with Framing.LENGTH), and whether the connection may be kept. A plain tuple,
because one is made per response."""


class Field(enum.IntEnum):
    """Fields that the writer must know; all others are copied through."""

    ORDINARY = 0
    CONTENT_LENGTH = 1
    CONNECTION = 2
    HOP_BY_HOP = 3
    DATE = 4
    SERVER = 5


# RFC 9110 section 7.6.1 and PEP 3333 ("Other HTTP Features"): not the application's.
_SPECIAL: Final = {
    "content-length": Field.CONTENT_LENGTH,
    "connection": Field.CONNECTION,
    "keep-alive": Field.HOP_BY_HOP,
    "proxy-connection": Field.HOP_BY_HOP,
    "te": Field.HOP_BY_HOP,
    "trailer": Field.HOP_BY_HOP,
    "transfer-encoding": Field.HOP_BY_HOP,
    "upgrade": Field.HOP_BY_HOP,
    "date": Field.DATE,
    "server": Field.SERVER,
}

# token = 1*tchar  (RFC 9110 section 5.6.2)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# field-vchar = VCHAR / obs-text, with SP and HTAB between  (RFC 9110 section 5.5)
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# status-line's code and reason-phrase (RFC 9112 section 4)
_STATUS: Final = re.compile(r"([2-5][0-9][0-9])(?: [\t \x21-\x7e\x80-\xff]*)?")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")

_MAX_NAMES: Final = 1024  # names and statuses that an application invents per request stay out
_MAX_LINES: Final = 2048
_MAX_HEADS: Final = 512
_MAX_REMEMBERED_HEAD: Final = 1024  # bytes
_MAX_REMEMBERED_VALUE: Final = 128  # characters; a longer value is hardly sent twice

_Special = tuple[Field, int]  # and what the writer needs of the value

_names: dict[str, tuple[str, Field]] = {}
_statuses: dict[str, tuple[bytes, int]] = {}
_lines: dict[tuple[str, str], bytes | _Special] = {}
_heads: dict[tuple[object, ...], Head] = {}  # all that was asked for, the date too -> outcome

_SERVER_LINE: Final = f"Server: {SERVER}\r\n".encode()
_CLOSE_LINE: Final = b"Connection: close\r\n"
_KEEP_ALIVE_LINE: Final = b"Connection: keep-alive\r\n"
_CHUNKED_LINE: Final = b"Transfer-Encoding: chunked\r\n"
_END: Final = b"\r\n"


def encode_head(
    status: str,
    headers: Sequence[tuple[str, str]],
    minor: int,
    is_head: bool,
    keep_alive: bool,
    length: int | None,
    date: bytes,
) -> Head:
    """Encode a response head and choose its framing.

    minor: of the request's version, 0 or 1. is_head: no content will be sent.
    length: of the content if it is known and the application did not say it.
    date: the complete Date line with its CRLF.
    Raises: AppError for what PEP 3333 or RFC 9110 does not allow in status or fields.
    """
    try:
        key = (date, status, minor, is_head, keep_alive, length, *headers)
        known = _heads.get(key)
        if known is not None:
            return known
    except TypeError:  # something in it has no hash, and so is no str
        key = ()
    head = _encode_new_head(status, headers, minor, is_head, keep_alive, length, date)
    if key and len(head[0]) <= _MAX_REMEMBERED_HEAD:
        if len(_heads) >= _MAX_HEADS:
            _heads.clear()  # those of seconds gone by, or such that never repeat
        _heads[key] = head
    return head


def _encode_new_head(
    status: str,
    headers: Sequence[tuple[str, str]],
    minor: int,
    is_head: bool,
    keep_alive: bool,
    length: int | None,
    date: bytes,
) -> Head:
    """Encode a head that is not remembered; arguments and errors as `encode_head`."""
    status_line, code = _statuses.get(status) or _admit_status(status)
    lines = [status_line]
    declared: int | None = None
    server = _SERVER_LINE
    for pair in headers:
        line = _line_of(pair)
        if type(line) is bytes:
            lines.append(line)
            continue
        kind, fact = cast(_Special, line)
        if kind is Field.CONTENT_LENGTH:
            if declared is not None and declared != fact:
                raise AppError(f"two different Content-Length headers: {declared} and {fact}")
            declared = fact
        elif kind is Field.CONNECTION:
            keep_alive = keep_alive and not fact
        elif kind is Field.DATE:
            date = _plain_line(pair)
        elif kind is Field.SERVER:
            server = _plain_line(pair)
        else:
            _warn_hop_by_hop(pair[0])
    framing, length = _framing(code, declared, length, minor, is_head)
    if length is not None:
        lines.append(b"Content-Length: %d\r\n" % length)
    elif framing is Framing.CHUNKED:
        lines.append(_CHUNKED_LINE)
    elif framing is Framing.CLOSE:
        keep_alive = False
    lines += date, server
    if not keep_alive:
        lines.append(_CLOSE_LINE)
    elif not minor:
        lines.append(_KEEP_ALIVE_LINE)
    lines.append(_END)
    if framing is not Framing.LENGTH or length is None:
        length = 0  # what a HEAD tells of the GET's content is not to be sent
    return b"".join(lines), framing, length, keep_alive


def encode_interim(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    """Encode an interim response (RFC 9110 section 15.2): a head, and nothing after it.

    Raises: AppError as `encode_head`, and for fields about content or the connection.
    """
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n".encode()]
    for pair in headers:
        line = _line_of(pair)
        if type(line) is not bytes:
            raise AppError(f"header {pair[0]} has no place in an interim response")
        lines.append(line)
    lines.append(_END)
    return b"".join(lines)


def error_page(status: int, *, date: bytes, is_head: bool = False, extra: str = "") -> bytes:
    """Return a whole response of our own, after which the connection closes.

    extra: further complete header lines.
    """
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    body = f"{status} {phrase}\n".encode("latin-1")
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"Server: {SERVER}\r\n{extra}Connection: close\r\n"
    ).encode("latin-1")
    head += date + _END
    return head if is_head else head + body


def _framing(
    code: int, declared: int | None, known: int | None, minor: int, is_head: bool
) -> tuple[Framing, int | None]:
    """Choose the framing and the Content-Length to be sent, if any (RFC 9112 section 6)."""
    if code == 204:
        return Framing.NONE, None  # RFC 9110 section 8.6: no Content-Length in a 204
    if code == 205:
        return Framing.NONE, 0  # RFC 9110 section 15.3.6: no content, and it must show
    if is_head or code == 304:
        # What the GET would have said. Nothing is added where a 304 or a stream said nothing,
        # nor where an application leaves away the content that a HEAD does not want.
        return Framing.NONE, (known or None) if declared is None and code != 304 else declared
    if declared is not None:
        return Framing.LENGTH, declared
    if known is not None:
        return Framing.LENGTH, known
    return (Framing.CHUNKED if minor else Framing.CLOSE), None


def _admit_status(status: str) -> tuple[bytes, int]:
    if not isinstance(status, str):
        raise AppError(f"status must be a str, not {type(status).__name__}")
    match = _STATUS.fullmatch(status)
    if match is None:
        raise AppError(f"status must be like '200 OK', not {status!r}")
    separator = "" if len(status) > 3 else " "  # the SP is there even without a phrase
    known = (f"HTTP/1.1 {status}{separator}\r\n".encode("latin-1"), int(match[1]))
    if len(_statuses) < _MAX_NAMES:
        _statuses[status] = known
    return known


def _admit_name(name: str) -> tuple[str, Field]:
    if not isinstance(name, str):
        raise AppError(f"header name must be a str, not {type(name).__name__}")
    if _TOKEN.fullmatch(name) is None:
        raise AppError(f"header name is not a token: {name!r}")
    known = (f"{name}: ", _SPECIAL.get(name.lower(), Field.ORDINARY))
    if len(_names) < _MAX_NAMES:
        _names[name] = known
    return known


def _line_of(pair: tuple[str, str]) -> bytes | _Special:
    """Return what is remembered of a header, or what comes of encoding it. Raises: AppError."""
    try:
        return _lines.get(pair) or _encode_line(pair)
    except (TypeError, ValueError):
        raise AppError(f"a header must be a tuple (name, value), not {pair!r}") from None


def _encode_line(pair: tuple[str, str]) -> bytes | _Special:
    """Check a header and encode it; remember the outcome."""
    name, value = pair
    if not isinstance(pair, tuple):
        raise TypeError
    _, kind = _names.get(name) or _admit_name(name)
    line = _plain_line(pair)
    outcome: bytes | _Special = line
    if kind is Field.CONTENT_LENGTH:
        if _DIGITS.fullmatch(value) is None:
            raise AppError(f"Content-Length must be digits, not {value!r}")
        outcome = (kind, int(value))
    elif kind is Field.CONNECTION:
        outcome = (kind, "close" in value.lower())
    elif kind is not Field.ORDINARY:
        outcome = (kind, 0)
    if len(value) <= _MAX_REMEMBERED_VALUE:
        if len(_lines) >= _MAX_LINES:
            # An application whose values never repeat: start again rather than choose.
            _lines.clear()
        _lines[pair] = outcome
    return outcome


def _plain_line(pair: tuple[str, str]) -> bytes:
    name, value = pair
    if not isinstance(value, str):
        raise AppError(f"value of header {name} must be a str, not {type(value).__name__}")
    if _FORBIDDEN.search(value):
        # Response splitting: whatever follows the CR LF would be a header, or a response.
        # Not shown: it may be a cookie.
        raise AppError(f"value of header {name} has a control character")
    try:
        return f"{name}: {value}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise AppError(f"value of header {name} has a character outside latin-1") from None


_warned: set[str] = set()  # lower-case names; bounded by _SPECIAL


def _warn_hop_by_hop(name: str) -> None:
    """Say once per name that the server, not the application, decides about it."""
    if name.lower() not in _warned:
        _warned.add(name.lower())
        log.warning("response header %s is hop-by-hop and was dropped (PEP 3333)", name)
