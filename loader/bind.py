"""Addresses to listen on, as they are typed: HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Final, NamedTuple

from .errors import UsageError
from .values import absolute

# unix(7): sun_path has 108 bytes, the last of them for the terminating NUL.
_UNIX_PATH_BYTES: Final = 107
# A pattern and not compiled yet: that takes a millisecond, and hardly anybody gives a name.
_HOST_NAME: Final = r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?"
_ONLY_NUMBERS = re.compile(r"[0-9.]+")
_EXAMPLE: Final = "127.0.0.1:8080, [::1]:8080, :8080 (all interfaces) or unix:/run/app.sock"


class TcpBind(NamedTuple):
    """A TCP address. `host` is a name or a numeric address, IPv6 without brackets.

    `port` 0 lets the kernel choose a free one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class UnixBind(NamedTuple):
    """A unix socket in the file system; `path` is absolute."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Bind = TcpBind | UnixBind


def parse_bind(text: str) -> Bind:
    """Read one address.

    Raises: UsageError that shows the right form.
    """
    text = text.strip()
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    if text.isascii() and text.isdigit():
        raise UsageError(
            f"a port alone could mean two things: 127.0.0.1:{text} is for this machine only,"
            f" :{text} for all interfaces"
        )
    if "://" in text:
        raise UsageError(f"an address has no scheme and no path; write {_EXAMPLE}")
    if "," in text:
        raise UsageError("one address at a time; give --bind once for each")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise UsageError(_port_is_missing(text))
    return TcpBind(_host(host, port), parse_port(port))


def parse_binds(text: str) -> tuple[Bind, ...]:
    """Read a comma-separated list of addresses, as the environment variable has it."""
    return tuple(parse_bind(part) for part in text.split(",") if part.strip())


def parse_port(text: str) -> int:
    """Read a TCP port number, 0 included (the kernel chooses)."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise UsageError(f"{text!r} is not a port; give a number from 0 (any free one) to 65535")
    return int(text)


def _unix(path: str) -> UnixBind:
    if not path or path.endswith("/"):
        raise UsageError("say where the socket shall be: unix:/run/app.sock")
    # Absolute from here on: the application's process may change its directory.
    path = absolute(path)
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        raise UsageError(f"{path} is too long for a unix socket; {_UNIX_PATH_BYTES} bytes at most")
    return UnixBind(path)


def _port_is_missing(text: str) -> str:
    if text.startswith("/") or text.endswith(".sock"):
        return f"a unix socket is written unix:{text}"
    return f"the port is missing: {text or '127.0.0.1'}:8080"


def _host(host: str, port: str) -> str:
    if not host or host == "*":
        return "0.0.0.0"
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1])
    if ":" in host:
        raise UsageError(f"an IPv6 address is written in brackets: {_in_brackets(host, port)}")
    if _ONLY_NUMBERS.fullmatch(host):
        return _ipv4(host)
    if not re.fullmatch(_HOST_NAME, host):
        raise UsageError(f"{host!r} is neither a host name nor an address; write {_EXAMPLE}")
    return host


def _in_brackets(host: str, port: str) -> str:
    # `::1` alone arrives here as host `:` and port `1`: the whole was the address.
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return f"[{host}:{port}]:8080"
    return f"[{host}]:{port}"


def _ipv6(host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise UsageError(f"{host!r} is not an IPv6 address; write as in [::1]:8080") from None
    return host


def _ipv4(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise UsageError(f"{host!r} is not an IPv4 address; write as in 127.0.0.1:8080") from None
