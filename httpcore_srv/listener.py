"""Listening sockets: made before the first fork, bound after the application has loaded.

Or inherited (see `inherited`): those listen already.

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
from collections.abc import Sequence
from typing import TypeAlias

from httpcore_srv.accept_queue import AcceptQueues
from httpcore_srv.errors import BindError
from httpcore_srv.inherited import InheritedSocket, name_of

TcpAddress: TypeAlias = tuple[str, int]
"""Host (a name, or an address without brackets) and port; port 0 takes a free one."""

UnixAddress: TypeAlias = str
"""Path of a socket file."""

Address: TypeAlias = TcpAddress | UnixAddress


class Listeners:
    """The listening sockets of the server, in the order of its addresses.

    addresses: where to listen. backlog: length of each accept queue (listen(2)).
    inherited: sockets that listen already; each takes the place of the address that it has.
    explicit: whether somebody asked for these addresses. If not, and there are inherited
        sockets, those alone are served.
    Raises: BindError if a host name cannot be resolved, or an inherited socket is at none of
        the addresses that were asked for.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        backlog: int,
        inherited: Sequence[InheritedSocket] = (),
        *,
        explicit: bool = True,
    ) -> None:
        self._backlog = backlog
        self._unix_files: list[tuple[str, int]] = []  # path and inode of what is ours to remove
        self._bequeathed: list[str] = []  # paths of socket files that our predecessor made
        self._unbound: list[tuple[int, Address]] = []  # place in `sockets`, and where to bind it
        self._names: list[str] = []  # under which each is passed on
        self.sockets: list[socket.socket] = []
        self._queues = AcceptQueues()
        left = list(inherited)
        try:
            if left and not explicit:
                self._serve_all(left)
            else:
                for address in addresses:
                    self._add(address, left)
                _refuse_strangers(left, addresses)
        except BindError:
            self.release()
            for each in left:
                each.sock.close()
            raise

    def _serve_all(self, inherited: list[InheritedSocket]) -> None:
        while inherited:
            each = inherited.pop(0)
            self.sockets.append(each.sock)
            self._names.append(each.name)

    def _add(self, address: Address, inherited: list[InheritedSocket]) -> None:
        """Listen at an address: with the inherited socket that is there, else with a new one."""
        name = name_of(_shown(address))
        named = [each for each in inherited if each.name == name]
        found = named or [each for each in inherited if _is_at(each.sock, address)]
        if not found:
            sock = _make_socket(address)
            self._unbound.append((len(self.sockets), address))
        else:
            inherited.remove(found[0])
            sock, name = found[0]
            if named and isinstance(address, str):
                self._bequeathed.append(address)
        self.sockets.append(sock)
        self._names.append(name)

    def listen(self) -> None:
        """Bind and listen. Raises: BindError, and then nothing is left behind."""
        try:
            for index, address in self._unbound:
                sock = self.sockets[index]
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
        """Return how many connections wait to be accepted, on all listeners together."""
        return self._queues.waiting(self.sockets)

    def backlogs(self) -> list[int | None]:
        """Return how many connections may wait on each listener, as the kernel has it."""
        return [queue.limit for queue in self._queues.look(self.sockets)]

    def to_pass_on(self) -> list[tuple[int, str]]:
        """Return the descriptors for a server that is to replace this one, and their names."""
        return [(sock.fileno(), name) for sock, name in zip(self.sockets, self._names, strict=True)]

    def own(self) -> None:
        """Take the socket files over from a predecessor that made them and has disowned them."""
        for path in self._bequeathed:
            with contextlib.suppress(FileNotFoundError):
                self._unix_files.append((os.path.abspath(path), os.stat(path).st_ino))
        self._bequeathed = []

    def disown(self) -> None:
        """Leave the socket files alone from now on: they are a successor's."""
        self._unix_files = []

    def release(self) -> None:
        """Close the sockets and remove the socket files that are ours."""
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


def _is_at(sock: socket.socket, address: Address) -> bool:
    """Whether an inherited socket listens where we were told to."""
    name = sock.getsockname()
    if isinstance(address, str) or not isinstance(name, tuple):
        return isinstance(address, str) and os.fsdecode(name) == os.path.abspath(address)
    host, port = address
    if port == 0 or name[1] != port:
        return False
    try:
        family, numeric = _resolve(host, port)
    except OSError:
        return False  # told in the words of `_make_socket`
    if (sock.family, name[0]) == (family, numeric):
        return True
    # What systemd makes of a port alone takes IPv4 as well, as `:PORT` means it.
    return (numeric, name[0]) == ("0.0.0.0", "::") and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )


def _refuse_strangers(left: Sequence[InheritedSocket], addresses: Sequence[Address]) -> None:
    """See that no inherited socket is left over: its clients would wait for ever."""
    if left:
        strangers = ", ".join(address_name(each.sock) for each in left)
        asked = ", ".join(_shown(address) for address in addresses)
        raise BindError(
            f"inherited socket at {strangers}, but --bind says {asked}; leave --bind out to serve"
            " what was inherited, or name it there as well"
        )


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
    # Bytes go to the C library as they are; for a str the codec is imported that turns names
    # of other scripts into ASCII, 1 ms with its tables.
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
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
