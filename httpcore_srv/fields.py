"""From the bytes of a header section to a FieldBlock (RFC 9110 section 5, RFC 9112 section 5).

Everything that decides where a message ends, or for which host it is, is judged here and
before anything else looks at it.
"""

from __future__ import annotations

from typing import Final

from httpcore_srv.errors import ProtocolError
from httpcore_srv.grammar import (
    CONTENT_LENGTH,
    FIELD_LINE,
    FIELD_VALUE,
    TRANSFER_CODINGS,
    is_host,
)
from httpcore_srv.messages import FieldBlock
from httpcore_srv.settings import HTTPLimits

# Caches of what has been judged before. They hold nothing that has not passed its pattern, so
# a hit drops no check. Bounded in number and length, since clients choose what goes in; when
# full they are emptied, which costs a busy server some microseconds now and then.
_MAX_REMEMBERED: Final = 1024
_MAX_REMEMBERED_LENGTH: Final = 64
_environ_keys: Final[dict[str, str]] = {}
_valid_hosts: Final[set[str]] = set()

# Whole field lines, for clients send the same ones with request after request: a look-up in
# place of pattern, decoding and key (0.1 us against 0.6 us a line).
_MAX_REMEMBERED_LINES: Final = 2048
_MAX_REMEMBERED_LINE_BYTES: Final = 192
_known_lines: Final[dict[bytes, tuple[str, str]]] = {}  # field line -> CGI variable, value

_DROPPED: Final = ""
"""The environ key of a field that must not reach the application."""

# Who may do what is not kept longer than its request, and differs from client to client anyway.
_SECRET: Final = frozenset({"HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION"})

# A second line of these would have to be chosen from, and the proxy in front may choose
# otherwise. (RFC 9112, 3.2 for Host; 6.3 for Content-Length; RFC 9110, 8.3 for Content-Type.)
# Equal values are refused too: RFC 9110, 8.6 would let us, not make us, accept them.
_SINGLE: Final = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE"})

# What decides about more than itself: a change of these means judging the whole section anew.
_JUDGED: Final = _SINGLE | {
    _DROPPED,
    "HTTP_TRANSFER_ENCODING",
    "HTTP_CONNECTION",
    "HTTP_EXPECT",
}

# What almost every Connection field says, and what that means: (close, keep_alive).
_CONNECTION: Final = {
    "keep-alive": (False, True),
    "Keep-Alive": (False, True),
    "close": (True, False),
}


def parse_fields(raw: bytes, minor: int, limits: HTTPLimits) -> FieldBlock:
    """Parse and judge one header section.

    raw: the field lines, each with its CRLF, without the empty line that ends them.
    minor: minor version of the request; HTTP/1.0 needs no Host, knows no Transfer-Encoding
        and its Expect is ignored (RFC 9110 section 10.1.1).

    Raises: ProtocolError: 431 for too many lines, 413 for a body above the limit, 501 for a
        transfer coding that we do not know, 400 for all else.
    """
    lines = raw.split(b"\r\n")
    del lines[-1]  # what follows the last CRLF: nothing
    environ: dict[str, str] = {}
    known = _known_lines.get
    for line in lines:
        key, value = known(line) or _judge_line(line, lines)
        environ[key] = value
    if len(lines) > limits.max_headers:
        raise ProtocolError(431, f"more than {limits.max_headers} header fields")
    if limits.refuse_underscores and any(b"_" in line.partition(b":")[0] for line in lines):
        raise ProtocolError(400, "a field name with an underscore")
    if len(environ) != len(lines):
        environ = _combine(lines)
    environ.pop(_DROPPED, None)

    host = environ.get("HTTP_HOST")
    if host not in _valid_hosts:
        _check_host(host, minor)
    length = None
    chunked = False
    if "HTTP_TRANSFER_ENCODING" in environ:
        _check_transfer_codings(environ, minor)
        del environ["HTTP_TRANSFER_ENCODING"]
        chunked = True
    elif "CONTENT_LENGTH" in environ:
        length = _content_length(environ["CONTENT_LENGTH"], limits.max_body_bytes)
        environ["CONTENT_LENGTH"] = str(length)  # without leading zeros
    connection = environ.get("HTTP_CONNECTION")
    close = keep_alive = False
    if connection is not None:
        close, keep_alive = _CONNECTION.get(connection) or _connection_options(connection)
    expects = unknown = False
    if "HTTP_EXPECT" in environ and minor > 0:
        unknown = _expects_the_unknown(environ["HTTP_EXPECT"])
        # Without content there is nothing to wait for (RFC 9110, 10.1.1: may be omitted).
        expects = not unknown and bool(chunked or length)
    return FieldBlock(environ, length, chunked, expects, unknown, close, keep_alive)


def varying_field(block: FieldBlock, line: bytes) -> tuple[str, bytes] | None:
    """Return the CGI variable of a line of `block` and its name with the colon, for `varied`.

    None: the server judges the field, or it is not in the block just once, or not at all.
    """
    key, value = _known_lines.get(line) or _judge_line(line, [line])
    if key in _JUDGED or block.environ.get(key) != value:
        return None
    return key, line[: line.index(b":") + 1]


def varied(block: FieldBlock, key: str, name: bytes, line: bytes) -> FieldBlock | None:
    """Return the block with another line in the place of the one that gave `key`.

    name: what that began with, the colon included. None: this is no such line.
    """
    if not line.startswith(name) or FIELD_VALUE.fullmatch(line, len(name)) is None:
        return None
    environ = block.environ.copy()
    environ[key] = line[len(name) :].strip(b" \t").decode("latin-1")
    return FieldBlock(
        environ,
        block.content_length,
        block.chunked,
        block.expects_continue,
        block.unknown_expectation,
        block.close,
        block.keep_alive,
    )


def _judge_line(line: bytes, lines: list[bytes]) -> tuple[str, str]:
    """Return the CGI variable and value of a field line; remember them.

    lines: the section, for the message if the line is no field line.
    """
    match = FIELD_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError(400, _what_is_wrong(lines.index(line) + 1, line.decode("latin-1")))
    name = match[1].decode("latin-1")
    key = _environ_keys.get(name)
    if key is None:
        key = _environ_key(name)
    field = (key, match[2].rstrip(b" \t").decode("latin-1"))
    if len(line) <= _MAX_REMEMBERED_LINE_BYTES and key not in _SECRET:
        if len(_known_lines) >= _MAX_REMEMBERED_LINES:
            _known_lines.clear()
        _known_lines[line] = field
    return field


def _combine(lines: list[bytes]) -> dict[str, str]:
    """Turn judged field lines, some with the same name, into CGI variables."""
    environ: dict[str, str] = {}
    for line in lines:
        key, value = _known_lines.get(line) or _judge_line(line, lines)
        if key in environ:
            value = _combined(key, environ[key], value)
        environ[key] = value
    return environ


def _environ_key(name: str) -> str:
    """Return the CGI variable for a field name that has passed its pattern; remember it."""
    # `X-Forwarded_For` and `X-Forwarded-For` would be the same variable, so that a client could
    # fill what a proxy vouches for; and HTTP_PROXY is what many programs take for their own
    # proxy setting (httpoxy, CVE-2016-5385).
    upper = name.upper()
    if "_" in name or upper == "PROXY":
        key = _DROPPED
    elif upper in ("CONTENT-TYPE", "CONTENT-LENGTH"):
        key = upper.replace("-", "_")
    else:
        key = "HTTP_" + upper.replace("-", "_")
    if len(name) <= _MAX_REMEMBERED_LENGTH:
        if len(_environ_keys) >= _MAX_REMEMBERED:
            _environ_keys.clear()
        _environ_keys[name] = key
    return key


def _combined(key: str, first: str, second: str) -> str:
    """Join the values of a repeated field (RFC 9110 section 5.2)."""
    if key in _SINGLE:
        raise ProtocolError(400, f"more than one {key.removeprefix('HTTP_')} field")
    if key == "HTTP_COOKIE":
        # RFC 6265, 5.4 wants one line, but HTTP/2 gateways split it (RFC 9113, 8.2.3).
        return f"{first}; {second}"
    return f"{first}, {second}"


def _check_host(host: str | None, minor: int) -> None:
    """Hold Host against RFC 9112 section 3.2.

    An empty Host is meant for target URIs without an authority; http and https, all that we
    serve, have none such (RFC 9110 section 4.2.1), so it is an invalid value. HTTP/1.0 had
    no Host: there a missing or empty one is the absence of virtual hosting.
    """
    if not host:
        if minor > 0:
            raise ProtocolError(400, "no Host field" if host is None else "empty Host field")
        return
    if not is_host(host):
        raise ProtocolError(400, "Host is not host[:port]")
    if len(host) <= _MAX_REMEMBERED_LENGTH:
        if len(_valid_hosts) >= _MAX_REMEMBERED:
            _valid_hosts.clear()
        _valid_hosts.add(host)


def _check_transfer_codings(environ: dict[str, str], minor: int) -> None:
    """Accept `chunked` alone (RFC 9112 section 6.1).

    Section 6.3 lets a server read a message with both lengths by its chunks; whoever put a
    Content-Length beside them hopes for a reader that does not.
    """
    if "CONTENT_LENGTH" in environ:
        raise ProtocolError(400, "both Transfer-Encoding and Content-Length")
    if minor == 0:
        raise ProtocolError(400, "Transfer-Encoding in an HTTP/1.0 request")
    value = environ["HTTP_TRANSFER_ENCODING"].lower()
    if value == "chunked":
        return
    if not TRANSFER_CODINGS.fullmatch(value):
        raise ProtocolError(400, "Transfer-Encoding is not a list of codings")
    codings = [coding.strip(" \t") for coding in value.split(",")]
    if codings[-1] != "chunked" or codings.count("chunked") > 1:
        # Section 6.3: the length cannot be known, "the server MUST respond with 400". It
        # comes before the 501, which is a SHOULD.
        raise ProtocolError(400, "Transfer-Encoding does not end with one chunked")
    raise ProtocolError(501, "a transfer coding other than chunked")


def _content_length(value: str, max_body_bytes: int) -> int:
    """Return the length that Content-Length gives (RFC 9110 section 8.6)."""
    if not CONTENT_LENGTH.fullmatch(value):
        raise ProtocolError(400, "Content-Length is not a number of up to 19 digits")
    length = int(value)
    if 0 < max_body_bytes < length:
        raise ProtocolError(413, f"Content-Length {length} is above {max_body_bytes}")
    return length


def _connection_options(value: str) -> tuple[bool, bool]:
    """Return whether Connection says close, and whether keep-alive (RFC 9110 section 7.6.1)."""
    options = {option.strip(" \t") for option in value.lower().split(",")}
    return "close" in options, "keep-alive" in options


def _expects_the_unknown(value: str) -> bool:
    """Tell whether Expect wants more than `100-continue` (RFC 9110 section 10.1.1)."""
    return any(member.strip(" \t") != "100-continue" for member in value.lower().split(","))


def _what_is_wrong(number: int, line: str) -> str:
    """Name the fault of a line that is no field line; for the log.

    Says which line, never what is in it: it may be a secret.
    """
    name, colon, _ = line.partition(":")
    if line[:1] in (" ", "\t"):
        fault = "begins with white space (obs-fold)"
    elif "\n" in line or "\r" in line:
        fault = "has a CR or LF of its own"
    elif not colon:
        fault = "has no colon"
    elif not name:
        fault = "has no name"
    elif name != name.rstrip(" \t"):
        fault = "has white space before the colon"
    elif not FIELD_LINE.fullmatch(f"{name}:".encode("latin-1")):
        fault = "has a name that is no token"
    else:
        fault = "has a control character"
    return f"header line {number} {fault}"
