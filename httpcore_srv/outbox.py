"""Outbox: what a socket has not taken yet of a response that is complete otherwise."""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Final

SENDFILE_BYTES: Final = 1 << 20  # one sendfile(2), so that a fast client cannot hold the loop
DONTWAIT: Final = socket.MSG_DONTWAIT


class FileRange:
    """A part of a file that is still to be sent. Owns its descriptor."""

    __slots__ = ("count", "fd", "offset")

    def __init__(self, fd: int, offset: int, count: int) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count


class Outbox:
    """Bytes and parts of files, in order. Belongs to whoever owns its stream."""

    __slots__ = ("cut_short", "items")

    def __init__(self) -> None:
        self.items: deque[memoryview | FileRange] = deque()
        self.cut_short = False  # a file turned out shorter than was promised

    def add(self, data: memoryview) -> None:
        """Append bytes."""
        self.items.append(data)

    def add_file(self, fd: int, offset: int, count: int) -> None:
        """Append `count` bytes of the file `fd`, whose descriptor is ours from now on."""
        self.items.append(FileRange(fd, offset, count))

    def send(self, sock: socket.socket) -> bool:
        """Send what the socket takes. True: nothing is left; False: it takes no more now.

        Raises: OSError if the client is gone.
        """
        items = self.items
        while items:
            item = items[0]
            try:
                if isinstance(item, FileRange):
                    if not self._send_file(sock, item):
                        return False
                elif not self._send_bytes(sock, item):
                    return False
            except BlockingIOError:
                return False
        return True

    def clear(self) -> None:
        """Drop everything."""
        for item in self.items:
            if isinstance(item, FileRange):
                os.close(item.fd)
        self.items.clear()

    def _send_bytes(self, sock: socket.socket, data: memoryview) -> bool:
        # MSG_MORE: a head waits a moment for the file behind it, to share its packet.
        more = socket.MSG_MORE if len(self.items) > 1 else 0
        sent = sock.send(data, DONTWAIT | more)
        if sent < len(data):
            self.items[0] = data[sent:]
            return False
        self.items.popleft()
        return True

    def _send_file(self, sock: socket.socket, part: FileRange) -> bool:
        sent = os.sendfile(sock.fileno(), part.fd, part.offset, min(part.count, SENDFILE_BYTES))
        part.offset += sent
        part.count -= sent
        if part.count and sent:
            return False  # the others have their turn; epoll calls again at once
        self.items.popleft()
        os.close(part.fd)
        self.cut_short = self.cut_short or part.count > 0
        return True
