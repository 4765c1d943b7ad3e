"""Taking in descriptors that another process sends along with a message."""

from __future__ import annotations

import array
import socket
from typing import Final

_FD_BYTES: Final = array.array("i").itemsize
_CONTROL_SPACE: Final = socket.CMSG_SPACE(_FD_BYTES)


def receive(sock: socket.socket, limit: int) -> tuple[bytes, int]:
    """Return one message and the descriptor that came with it, -1 for none.

    No program that is started from here inherits it. That is why it is not
    `socket.recv_fds`, which drops the flags it is given (CPython 3.11 to 3.13): its
    descriptors stay open in whatever is executed later.
    Raises: OSError as recvmsg(2).
    """
    message, control, _, _ = sock.recvmsg(limit, _CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds = array.array("i")
            fds.frombytes(content[: len(content) - len(content) % _FD_BYTES])
            if fds:
                return message, fds[0]
    return message, -1
