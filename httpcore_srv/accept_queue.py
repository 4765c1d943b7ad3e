"""Accept queues: how many connections the kernel holds for us, and how many it would.

TCP tells by TCP_INFO, a system call of 0.5 µs. A unix socket tells only by netlink
(NETLINK_SOCK_DIAG, the way of `ss -xl`): 16 µs, of which 5 are for opening the netlink
socket. It is opened for each look all the same: kept open it would be inherited by every
template and worker. What the kernel does not tell counts as 0.

What came when a queue was full is not to be had per socket: ListenOverflows in
/proc/net/netstat counts for the whole network namespace, and unix sockets not at all.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

log = logging.getLogger("smart_http.listener")

# struct tcp_info (linux/tcp.h): eight bytes, then tcpi_rto, tcpi_ato, tcpi_snd_mss,
# tcpi_rcv_mss, tcpi_unacked, tcpi_sacked. On a listening socket the last two are the accept
# queue and its limit.
_TCP_INFO: Final = struct.Struct("=24xII")

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
# struct nlmsghdr: length, type, flags, sequence number, port.
_HEADER: Final = struct.Struct("=IHHII")
# struct unix_diag_req: family, protocol, padding; states, inode, what to show, cookie. States
# do not matter when one socket is asked for, nor does a cookie of ones: we hold the socket
# open, so nobody else can get its inode.
_REQUEST: Final = struct.Struct("=BBHIIIQ")
_ANY_COOKIE: Final = (1 << 64) - 1
_SHOW_QUEUE: Final = 0x10  # UDIAG_SHOW_RQLEN
_REPLY_BYTES: Final = 16  # struct unix_diag_msg; attributes follow
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr: length, type
_QUEUE_ATTRIBUTE: Final = 4  # UNIX_DIAG_RQLEN
_QUEUE: Final = struct.Struct("=II")  # struct unix_diag_rqlen
_ERROR: Final = struct.Struct("=i")
_MOST_BYTES: Final = 8192

# Want of something just now; everything else will be refused next time, too.
_PASSING: Final = (errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EMFILE, errno.ENFILE)


class AcceptQueue(NamedTuple):
    """One listening socket's queue. The kernel turns away what comes beyond limit + 1."""

    waiting: int
    limit: int | None  # None: the kernel does not tell, and the queue counts as empty


_UNKNOWN: Final = AcceptQueue(0, None)


class AcceptQueues:
    """The accept queues of listening sockets; of one that does not listen yet it is empty."""

    def __init__(self) -> None:
        self._refused = False

    def waiting(self, sockets: Sequence[socket.socket]) -> int:
        """Return how many connections wait to be accepted, on all sockets together."""
        return sum(queue.waiting for queue in self.look(sockets))

    def look(self, sockets: Sequence[socket.socket]) -> list[AcceptQueue]:
        """Return the queue of each socket."""
        inodes = [os.fstat(s.fileno()).st_ino for s in sockets if s.family == socket.AF_UNIX]
        unix = iter(self._ask(inodes) if inodes else ())
        return [next(unix) if sock.family == socket.AF_UNIX else _tcp(sock) for sock in sockets]

    def _ask(self, inodes: list[int]) -> list[AcceptQueue]:
        told: list[AcceptQueue] = []
        try:
            if not self._refused:
                with _netlink() as netlink:
                    told.extend(_unix(netlink, inode) for inode in inodes)
        except OSError as error:
            # There is no netlink (seccomp in containers, gVisor) or no unix_diag module.
            self._refused = error.errno not in _PASSING
            log.debug("the accept queues of unix sockets are not to be had: %s", error)
        return told + [_UNKNOWN] * (len(inodes) - len(told))


def _netlink() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)


def _tcp(sock: socket.socket) -> AcceptQueue:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return AcceptQueue(*_TCP_INFO.unpack(info))


def _unix(netlink: socket.socket, inode: int) -> AcceptQueue:
    """Ask for one socket's queue. Raises: OSError."""
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0, inode & 0xFFFFFFFF, _SHOW_QUEUE, _ANY_COOKIE)
    size = _HEADER.size + len(request)
    netlink.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + request)
    # The kernel answers within send(): there is nothing to wait for, and no answer (EAGAIN)
    # is an error.
    return _read_reply(netlink.recv(_MOST_BYTES))


def _read_reply(reply: bytes) -> AcceptQueue:
    size, kind, *_ = _HEADER.unpack_from(reply)
    offset = _HEADER.size
    if kind == _NLMSG_ERROR:
        code = -_ERROR.unpack_from(reply, offset)[0]
        raise OSError(code, os.strerror(code))
    offset += _REPLY_BYTES
    while offset + _ATTRIBUTE.size <= size:
        length, attribute = _ATTRIBUTE.unpack_from(reply, offset)
        if attribute == _QUEUE_ATTRIBUTE:
            return AcceptQueue(*_QUEUE.unpack_from(reply, offset + _ATTRIBUTE.size))
        offset += max(_ATTRIBUTE.size, (length + 3) & ~3)
    raise OSError(errno.EPROTO, "the kernel does not tell the queue of a unix socket")
