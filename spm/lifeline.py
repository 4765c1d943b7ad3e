"""Lifeline: the pair of sockets by which manager and worker know of each other.

SOCK_SEQPACKET, so that what is sent arrives whole: one byte is a poke ("look at your
slot" / "I am full"), anything longer is a message of its own. End-of-file tells either
side that the other is gone, however it died; it works only because nobody else keeps a
copy of an end, which is why a new process first closes what it inherited.
"""

from __future__ import annotations

import socket
from typing import Final

_POKE: Final = b"!"
# What a worker may say at most (the message of a failed boot), and how many packets one
# look takes in; epoll is level-triggered, so the rest comes with the next look.
MESSAGE_LIMIT: Final = 65536
_PACKETS_PER_LOOK: Final = 64


class Lifeline:
    """One end. Never blocks.

    sock: a connected SOCK_SEQPACKET socket; owned from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    @classmethod
    def pair(cls) -> tuple[Lifeline, Lifeline]:
        """Return the manager's end and the worker's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self.sock.fileno()

    def poke(self) -> None:
        """Wake the other side. Never blocks, never fails."""
        self.tell(_POKE)

    def tell(self, message: bytes) -> bool:
        """Send one message; False if it could not go.

        A full socket means that enough pokes lie there unread, a broken one that the
        other side is gone, which end-of-file or its pidfd tells better than an error here.
        """
        try:
            self.sock.send(message[:MESSAGE_LIMIT])
        except OSError:
            return False
        return True

    def read(self) -> bool:
        """Swallow what has come; False at end-of-file: the other side is gone."""
        return self.messages()[1]

    def messages(self) -> tuple[list[bytes], bool]:
        """Return what has come, pokes left out, and whether the other side is still there."""
        received: list[bytes] = []
        for _ in range(_PACKETS_PER_LOOK):
            try:
                packet = self.sock.recv(MESSAGE_LIMIT)
            except BlockingIOError:
                return received, True
            except ConnectionResetError:
                # The other side died with pokes of ours unread (unix(7)). The error is
                # reported once, ahead of what it had sent; that, and then the
                # end-of-file, can still be read.
                continue
            if not packet:
                return received, False
            if packet != _POKE:
                received.append(packet)
        return received, True

    def hang_up(self) -> None:
        """Let the other side see end-of-file, yet go on hearing whether it is there."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # already gone: that is what we wanted to say

    def close(self) -> None:
        """Close this end."""
        self.sock.close()
