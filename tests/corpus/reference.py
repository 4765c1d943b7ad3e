"""A second parser, slow and plain, to hold the fast one against.

It shares no code and no pattern with `httpcore_srv`: sets of octets, loops and splits, over
bytes that are all there from the beginning. Where the two disagree about any bytes, one of
them is wrong, and in front of a proxy that could be request smuggling.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from httpcore_srv.settings import HTTPLimits
from tests.corpus.reading import Seen, Transcript

DIGITS = frozenset("0123456789")
HEX = frozenset("0123456789abcdefABCDEF")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
TCHAR = frozenset("!#$%&'*+-.^_`|~") | DIGITS | LETTERS
VALUE = frozenset(map(chr, [9, *range(32, 127), *range(128, 256)]))
HOST = frozenset("-._~!$&'()*+;=") | DIGITS | LETTERS
PATH = HOST | frozenset(",%:@/[]^`{|}")
QUERY = PATH | frozenset("?\\")


class Refused(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class Incomplete(Exception):
    pass


@dataclass
class Cursor:
    """What is there, and how far it has been read."""

    data: str  # latin-1: one character, one octet
    pos: int = 0

    def line(self, limit: int, too_long: int) -> str:
        """Read a line without its CRLF; `limit`: how long it may be."""
        line = self.data[self.pos : self.pos + limit + 2]
        if "\n" not in line:
            if len(line) == limit + 2:
                raise Refused(too_long)
            raise Incomplete
        line = line[: line.index("\n") + 1]
        if not line.endswith("\r\n"):
            raise Refused(400)
        self.pos += len(line)
        return line[:-2]


def reference_read(data: bytes, limits: HTTPLimits) -> Transcript:
    """Read all requests in `data`, as `reading.read` does with the fast parser."""
    cursor = Cursor(data.decode("latin-1"))
    transcript = Transcript()
    try:
        while True:
            if cursor.data[cursor.pos : cursor.pos + 2] == "\r\n":
                cursor.pos += 2
            if cursor.pos == len(cursor.data):
                transcript.at_boundary = True
                return transcript
            read_request(cursor, limits, transcript)
    except Refused as refused:
        transcript.status = refused.status
    except Incomplete:
        pass
    return transcript


def read_request(cursor: Cursor, limits: HTTPLimits, transcript: Transcript) -> None:
    begin = cursor.pos
    if cursor.data[begin] not in TCHAR | {"\r"}:
        raise Refused(400)
    try:
        line = cursor.line(limits.max_request_line_bytes, 414)
    except Refused as refused:
        looked_at = min(33, limits.max_request_line_bytes)
        if refused.status == 414 and " " not in cursor.data[begin : begin + looked_at]:
            raise Refused(400) from None
        raise
    request = read_request_line(line, limits)
    lines = []
    left = limits.max_header_bytes
    while line := cursor.line(left, 431):
        lines.append(line)
        left -= len(line) + 2
        if left < -2:
            raise Refused(431)
    length, chunked = read_fields(lines, request, limits)
    transcript.requests.append(request)
    if chunked:
        read_chunks(cursor, request, limits)
    elif length:
        body = cursor.data[cursor.pos : cursor.pos + length]
        cursor.pos += len(body)
        request.body = body.encode("latin-1")
        if len(body) < length:
            raise Incomplete
    request.whole = True


def read_request_line(line: str, limits: HTTPLimits) -> Seen:
    words = line.split(" ")
    if len(words) != 3:
        raise Refused(400)
    method, target, version = words
    if not method or not set(method) <= TCHAR or not target:
        raise Refused(400)
    if any(not "!" <= character <= "~" for character in target):
        raise Refused(400)
    if len(version) != 8 or version[:5] != "HTTP/" or version[6] != ".":
        raise Refused(400)
    if version[5] not in DIGITS or version[7] not in DIGITS:
        raise Refused(400)
    if len(method) > 32:
        raise Refused(501)
    if version[5] != "1":
        raise Refused(505)
    minor = 0 if version[7] == "0" else 1
    if method == "CONNECT":
        if not is_host(target, port_needed=True):
            raise Refused(400)
        if not limits.pass_connect:
            raise Refused(501)
        return Seen(method, target, "", "", minor, None, False, False, {})
    path, query, authority = read_target(method, target)
    return Seen(method, target, path, query, minor, authority, False, False, {})


def read_target(method: str, target: str) -> tuple[str, str, str | None]:
    if target == "*" and method == "OPTIONS":
        return "", "", None
    path, question, query = target.partition("?")
    if not set(query) <= QUERY:
        raise Refused(400)
    if path.startswith("/"):
        return decode(path), query, None
    scheme, separator, rest = path.partition("://")
    authority, slash, segments = rest.partition("/")
    if scheme.lower() not in ("http", "https") or not separator or not is_host(authority):
        raise Refused(400)
    if not slash and not question and method == "OPTIONS":
        return "", "", authority
    return decode("/" + segments), query, authority


def decode(path: str) -> str:
    if not set(path) <= PATH:
        raise Refused(400)
    decoded = ""
    while path:
        character, path = path[0], path[1:]
        if character == "%":
            if len(path) < 2 or path[0] not in HEX or path[1] not in HEX or path[:2] == "00":
                raise Refused(400)
            character, path = chr(int(path[:2], 16)), path[2:]
        decoded += character
    return decoded


def is_host(text: str, *, port_needed: bool = False) -> bool:
    if text.startswith("["):
        literal, bracket, port = text[1:].partition("]")
        if not bracket or (port and port[0] != ":"):
            return False
        has_port, port = bool(port), port[1:]
        if literal[:1] in ("v", "V"):
            version, dot, address = literal[1:].partition(".")
            if not (dot and 1 <= len(version) <= 8 and set(version) <= HEX):
                return False
            if not (1 <= len(address) <= 64 and set(address) <= HOST | {":"}):
                return False
        else:
            if not set(literal) <= HEX | {":", "."}:
                return False
            try:
                ipaddress.IPv6Address(literal)
            except ValueError:
                return False
    else:
        name, colon, port = text.partition(":")
        has_port = bool(colon)
        units = 0
        while name:
            if name[0] == "%" and len(name) >= 3 and set(name[1:3]) <= HEX:
                name = name[3:]
            elif name[0] in HOST:
                name = name[1:]
            else:
                return False
            units += 1
        if not 1 <= units <= 255:
            return False
    if port_needed and not port:
        return False
    return set(port) <= DIGITS and len(port) <= 5 and (has_port or not port)


def read_field_line(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or not set(name) <= TCHAR or not set(value) <= VALUE:
        raise Refused(400)
    return name, value.strip(" \t")


def read_fields(lines: list[str], request: Seen, limits: HTTPLimits) -> tuple[int, bool]:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, value = read_field_line(line)
        fields.setdefault(name.lower(), []).append(value)
    if len(lines) > limits.max_headers:
        raise Refused(431)
    if limits.refuse_underscores and any("_" in name for name in fields):
        raise Refused(400)
    for single in ("host", "content-length", "content-type"):
        if len(fields.get(single, [])) > 1:
            raise Refused(400)
    host = fields.get("host", [None])[0]
    if not host and request.minor == 1:
        raise Refused(400)
    if host and not is_host(host):
        raise Refused(400)
    length, chunked = read_framing(fields, request.minor, limits)
    options = read_list(fields.get("connection", []))
    request.keep_alive = (
        "close" not in options
        and (request.minor == 1 or "keep-alive" in options)
        and request.method != "CONNECT"  # what follows may be meant for the tunnel
    )
    if request.minor == 1 and "expect" in fields:
        if set(read_list(fields["expect"])) != {"100-continue"}:
            raise Refused(417)
        request.expects_continue = chunked or length > 0
    for name, values in fields.items():
        if "_" in name or name in ("proxy", "transfer-encoding"):
            continue
        key = name.upper().replace("-", "_")
        if name not in ("content-type", "content-length"):
            key = "HTTP_" + key
        request.environ[key] = ("; " if name == "cookie" else ", ").join(values)
    if "content-length" in fields:
        request.environ["CONTENT_LENGTH"] = str(length)
    return length, chunked


def read_framing(fields: dict[str, list[str]], minor: int, limits: HTTPLimits) -> tuple[int, bool]:
    if "transfer-encoding" in fields:
        if "content-length" in fields or minor == 0:
            raise Refused(400)
        codings = read_list(fields["transfer-encoding"])
        if not all(coding and set(coding) <= TCHAR for coding in codings):
            raise Refused(400)
        if codings[-1] != "chunked" or codings.count("chunked") != 1:
            raise Refused(400)
        if len(codings) > 1:
            raise Refused(501)
        return 0, True
    if "content-length" not in fields:
        return 0, False
    digits = fields["content-length"][0]
    if not 1 <= len(digits) <= 19 or not set(digits) <= DIGITS:
        raise Refused(400)
    if 0 < limits.max_body_bytes < int(digits):
        raise Refused(413)
    return int(digits), False


def read_list(values: list[str]) -> list[str]:
    return (
        [element.strip(" \t").lower() for element in ",".join(values).split(",")] if values else []
    )


def read_chunks(cursor: Cursor, request: Seen, limits: HTTPLimits) -> None:
    overhead = total = 0
    longest = 16 + limits.max_chunk_extension_bytes
    while True:
        if cursor.data[cursor.pos : cursor.pos + 1] not in HEX | {""}:
            raise Refused(400)
        line = cursor.line(longest, 400)
        size = read_size_line(line, limits)
        if size == 0:
            break
        total += size
        overhead += len(line) + 4
        if 0 < limits.max_body_bytes < total:
            raise Refused(413)
        if overhead > limits.max_chunk_overhead_bytes + 2 * total:
            raise Refused(400)
        data = cursor.data[cursor.pos : cursor.pos + size]
        cursor.pos += len(data)
        request.body += data.encode("latin-1")
        if len(data) < size:
            raise Incomplete
        end = cursor.data[cursor.pos : cursor.pos + 2]
        if end in ("", "\r"):
            raise Incomplete
        if end != "\r\n":
            raise Refused(400)
        cursor.pos += 2
    left = limits.max_trailer_bytes
    count = 0
    while line := trailer_line(cursor, left):
        read_field_line(line)
        count += 1
        left -= len(line) + 2
        if count > limits.max_headers:
            raise Refused(431)


def trailer_line(cursor: Cursor, left: int) -> str:
    if left <= -2:
        raise Refused(431)
    return cursor.line(left, 431)


def read_size_line(line: str, limits: HTTPLimits) -> int:
    digits = 0
    while digits < len(line) and line[digits] in HEX:
        digits += 1
    extensions = line[digits:]
    if not 1 <= digits <= 16 or len(extensions) > limits.max_chunk_extension_bytes:
        raise Refused(400)
    while extensions:
        extensions = extensions.lstrip(" \t")
        if extensions[:1] != ";":
            raise Refused(400)
        extensions = take_token(extensions[1:].lstrip(" \t"))
        if extensions.lstrip(" \t")[:1] == "=":
            extensions = extensions.lstrip(" \t")[1:].lstrip(" \t")
            quoted = extensions[:1] == '"'
            extensions = take_quoted(extensions[1:]) if quoted else take_token(extensions)
    return int(line[:digits], 16)


def take_token(text: str) -> str:
    length = 0
    while length < len(text) and text[length] in TCHAR:
        length += 1
    if length == 0:
        raise Refused(400)
    return text[length:]


def take_quoted(text: str) -> str:
    while text and text[0] != '"':
        if text[0] == "\\":
            text = text[1:]
        if not text or text[0] not in VALUE:
            raise Refused(400)
        text = text[1:]
    if not text:
        raise Refused(400)
    return text[1:]
