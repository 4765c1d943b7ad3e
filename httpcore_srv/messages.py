"""The values that travel from the parser to the rest of the room.

These are made once a request on the hot path: plain classes with `__slots__`,
because a frozen dataclass pays one `object.__setattr__` call per field (measured
0.7 us against 0.1 us for a RequestHead on CPython 3.11). They are still values:
nobody changes one after the parser has given it out, and the parser relies on
that when it gives out the same object again for the same bytes.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias


class Signal(enum.Enum):
    """What the parser says when it has no head and no body bytes to give."""

    NEED_DATA = enum.auto()
    """More bytes are needed; also the answer for ever after end-of-file."""

    END_OF_MESSAGE = enum.auto()
    """The body is complete. Follows only heads whose `has_body` is true."""


# Plain module names: reading an attribute of an Enum class costs a metaclass look-up
# each time, and these are compared once or twice a request.
NEED_DATA: Final = Signal.NEED_DATA
END_OF_MESSAGE: Final = Signal.END_OF_MESSAGE


class FieldBlock:
    """One header section, parsed and validated (RFC 9110 section 5).

    Shared by all requests of a connection that sent the very same bytes, so its
    identity tells a caller that whatever it derived from it still holds.
    """

    __slots__ = (
        "chunked",
        "close",
        "content_length",
        "environ",
        "expects_continue",
        "keep_alive",
        "unknown_expectation",
    )

    def __init__(
        self,
        environ: dict[str, str],
        content_length: int | None,
        chunked: bool,
        expects_continue: bool,
        unknown_expectation: bool,
        close: bool,
        keep_alive: bool,
    ) -> None:
        self.environ = environ
        """CGI variables (PEP 3333): `HTTP_*`, CONTENT_TYPE, CONTENT_LENGTH. Copy, never
        change. Names with an underscore and `Proxy` are left out, and so are
        Transfer-Encoding (bodies are delivered decoded) and CONTENT_LENGTH of a chunked
        request (its length is known only at its end)."""
        self.content_length = content_length
        """Length of the body in bytes, or None if there was no Content-Length."""
        self.chunked = chunked
        """The body comes in chunks."""
        self.expects_continue = expects_continue
        """The client waits for 100 (Continue); never true for an HTTP/1.0 request."""
        self.unknown_expectation = unknown_expectation
        """Expect asks for something else; the parser turns that into a 417."""
        self.close = close
        """Connection has the option `close`."""
        self.keep_alive = keep_alive
        """Connection has the option `keep-alive`."""

    def __repr__(self) -> str:
        # Names only: values may be secrets (Cookie, Authorization).
        return f"<FieldBlock {', '.join(self.environ)}>"


class RequestHead:
    """Request line and header section of one request, validated."""

    __slots__ = (
        "authority",
        "fields",
        "has_body",
        "keep_alive",
        "method",
        "minor",
        "path",
        "query",
        "target",
    )

    def __init__(
        self,
        method: str,
        target: str,
        path: str,
        query: str,
        minor: int,
        authority: str | None,
        fields: FieldBlock,
        keep_alive: bool,
        has_body: bool,
    ) -> None:
        self.method = method
        """The method, in the case in which it was sent (methods are case-sensitive)."""
        self.target = target
        """The request target exactly as received (visible US-ASCII only)."""
        self.path = path
        """The percent-decoded path, its octets as latin-1 (PEP 3333). Empty for the
        asterisk form (`OPTIONS *`), which is about the server and no resource of it."""
        self.query = query
        """What follows the first `?`, as received; empty if there is none."""
        self.minor = minor
        """0 for HTTP/1.0, else 1."""
        self.authority = authority
        """host[:port] of an absolute-form target, else None. It replaces what Host
        says (RFC 9112 section 3.2.2)."""
        self.fields = fields
        self.keep_alive = keep_alive
        """What the client wants, by version and Connection (RFC 9112 section 9.3)."""
        self.has_body = has_body
        """Body bytes and END_OF_MESSAGE follow. False for `Content-Length: 0` too."""

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.target} HTTP/1.{self.minor}>"


Message: TypeAlias = RequestHead | bytes | Signal
