"""Listening sockets: made before the first fork, bound after the application has loaded.

All processes share the same open files, so a socket that the manager binds and
listens on is listening in the template and in every worker forked from it. One
shared accept queue outlives any worker; with SO_REUSEPORT each worker would have
its own, and its death would reset what waits there (measured: 44 of 100).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from httpcore_srv.errors import BindError

TcpAddress: TypeAlias = tuple[str, int]
"""Host (a name, or an address without brackets) and port; port 0 takes a free one."""

UnixAddress: TypeAlias = str
"""Path of a socket file."""

Address: TypeAlias = TcpAddress | UnixAddress

# struct tcp_info (linux/tcp.h): eight bytes, then tcpi_rto, tcpi_ato, tcpi_snd_mss,
# tcpi_rcv_mss, tcpi_unacked. On a listening socket tcpi_unacked is the accept queue.
_UNACKED: Final = struct.Struct("=24xI")


class Listeners:
    """The listening sockets of the server, in the order of its addresses.

    addresses: where to listen. backlog: length of each accept queue (listen(2)).
    Raises: BindError if a host name cannot be resolved.
    """

    def __init__(self, addresses: Sequence[Address], backlog: int) -> None:
        self._addresses = list(addresses)
        self._backlog = backlog
        self._unix_files: list[tuple[str, int]] = []  # path and inode of what we have bound
        self.sockets: list[socket.socket] = []
        try:
            for address in addresses:
                self.sockets.append(_make_socket(address))
        except BindError:
            self.release()
            raise

    def listen(self) -> None:
        """Bind and listen. Raises: BindError, and then nothing is left behind."""
        try:
            for sock, address in zip(self.sockets, self._addresses, strict=True):
                if isinstance(address, str):
                    self._bind_unix(sock, address)
                else:
                    self._bind_tcp(sock, address)
                try:
                    # Two servers that start at the same moment can both bind (SO_REUSEADDR)
                    # and only one can listen.
                    sock.listen(self._backlog)
                except OSError as error:
                    raise BindError(_explain(_shown(address), error)) from None
        except BindError:
            self.release()
            raise

    def names(self) -> list[str]:
        """Return the addresses as bound: URLs for TCP, `unix:PATH` for socket files."""
        return [address_name(sock) for sock in self.sockets]

    def accept_queue(self) -> int:
        """Return how many connections wait to be accepted on the TCP listeners.

        A unix socket does not tell by this way (EOPNOTSUPP) and counts as 0.
        """
        waiting = 0
        for sock in self.sockets:
            if sock.family != socket.AF_UNIX:
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size)
                waiting += _UNACKED.unpack(info)[0]
        return waiting

    def release(self) -> None:
        """Close the sockets and remove the socket files that `listen` made."""
        for sock in self.sockets:
            sock.close()
        for path, inode in self._unix_files:
            # Another server may have put its own socket there since.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._unix_files = []

    def _bind_tcp(self, sock: socket.socket, address: TcpAddress) -> None:
        host, port = address
        try:
            sock.bind((_resolve(host, port)[1], port))
        except OSError as error:
            raise BindError(_explain(_shown(address), error)) from None

    def _bind_unix(self, sock: socket.socket, path: str) -> None:
        try:
            _remove_dead_socket(path)
            sock.bind(path)
            self._unix_files.append((os.path.abspath(path), os.stat(path).st_ino))
        except OSError as error:
            raise BindError(_explain(_shown(path), error)) from None


def address_name(sock: socket.socket) -> str:
    """Return where a socket listens, as a person would type it."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"http://{_bracketed(name[0])}:{name[1]}"
    return f"unix:{name}"


def _make_socket(address: Address) -> socket.socket:
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        host, port = address
        try:
            family, _ = _resolve(host, port)
        except OSError as error:
            raise BindError(_explain(_shown(address), error)) from None
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by accepted sockets on Linux: no syscall per connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6 and host != "::":
            # [::] alone serves IPv4 too, as people expect of it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setblocking(False)
    return sock


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """Return family and numeric address; IPv4 where a name has both (`localhost`)."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError:  # a label above 63 characters, or an empty one
        raise OSError(errno.EINVAL, "not a host name") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, sockaddr = found[0]
    return family, str(sockaddr[0])


def _remove_dead_socket(path: str) -> None:
    """Remove the socket file of a server that is gone; leave a living one's alone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "the file exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            pass  # its accept queue is full: very much alive


def _shown(address: Address) -> str:
    if isinstance(address, str):
        return f"unix:{address}"
    return f"{_bracketed(address[0])}:{address[1]}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _explain(where: str, error: OSError) -> str:
    remedy = {
        errno.EADDRINUSE: "another program listens there; choose another address with --bind",
        errno.EACCES: "ports below 1024 and some directories are for root; choose another",
        errno.EADDRNOTAVAIL: "this machine has no such address; see `ip address`",
        errno.EEXIST: "choose another path with --bind unix:PATH",
        errno.ENOENT: "create the directory first",
    }.get(error.errno or 0, "check --bind")
    reason = error.strerror or str(error)
    return f"cannot listen on {where}: {reason[:1].lower()}{reason[1:]}; {remedy}"
