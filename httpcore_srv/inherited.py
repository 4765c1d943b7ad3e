"""Listening sockets that somebody else has made: systemd, or the server that this one replaces.

The protocol is that of sd_listen_fds(3): LISTEN_FDS descriptors from 3 on, meant for the process
LISTEN_PID, with names in LISTEN_FDNAMES. A server of ours gives each socket that it made itself
the name of its --bind (`name_of`), so that port 0 is recognised as well, and a socket file has
an owner.
"""

from __future__ import annotations

import os
import socket
import stat
import urllib.parse
from collections.abc import MutableMapping
from typing import Final, NamedTuple

from httpcore_srv.errors import BindError

_FIRST_FD: Final = 3
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_MOST: Final = 1024
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class InheritedSocket(NamedTuple):
    """A listening socket and the name that it came with."""

    sock: socket.socket
    name: str


def take_inherited(environ: MutableMapping[str, str]) -> list[InheritedSocket]:
    """Return the sockets that were passed to this process, in their order; once.

    environ: what they are announced in is removed from it, or a program that the application
        starts would take them for its own.
    Raises: BindError if one of them is not a listening stream socket.
    """
    pid, count, names = (environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()):
        return []  # meant for a process between systemd and us, or nothing was said
    if not (count.isascii() and count.isdigit() and int(count) <= _MOST):
        raise BindError(f"LISTEN_FDS is {count!r}, not a number of sockets; see sd_listen_fds(3)")
    named = names.split(":") if names else []
    sockets = []
    try:
        for index in range(int(count)):
            name = named[index] if index < len(named) else ""
            sockets.append(InheritedSocket(_adopt(_FIRST_FD + index, name), name))
    except BindError:
        for each in sockets:
            each.sock.close()
        raise
    return sockets


def name_of(text: str) -> str:
    """Return the name under which a socket made for this address is passed on.

    Names are separated by colons, which addresses have as well.
    """
    return urllib.parse.quote(text, safe="")


def _adopt(fd: int, name: str) -> socket.socket:
    """Take over one descriptor, of which nothing is known but its number."""
    where = f"inherited socket {name or 'without a name'} (descriptor {fd})"
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise BindError(f"{where} is not a socket; see LISTEN_FDS and sd_listen_fds(3)")
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BindError(f"{where}: {reason}; see LISTEN_FDS and sd_listen_fds(3)") from None
    wrong = _what_is_wrong(sock)
    if wrong:
        sock.close()
        raise BindError(f"{where} {wrong}")
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        # As on those that we make: inherited by accepted sockets.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _what_is_wrong(sock: socket.socket) -> str:
    if sock.family not in _FAMILIES:
        return "is neither TCP nor a unix socket; use ListenStream= with a port or a path"
    if sock.type != socket.SOCK_STREAM:
        return "is not a stream socket; use ListenStream="
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen; with systemd, use Accept=no"
    return ""
