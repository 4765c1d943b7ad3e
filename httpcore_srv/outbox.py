"""Outbox: the way of response bytes into a socket, and what it has not taken yet."""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import Final

from httpcore_srv.errors import PeerGone

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
    """The way out of one socket: bytes and parts of files, in order. A `wsgi.Sink`.

    sock: in blocking mode or not; we never let it block.
    write_s: how long a client may take nothing, in seconds.
    Belongs to whoever owns its stream.
    """

    __slots__ = ("_send", "_sock", "_write_s", "cut_short", "items")

    def __init__(self, sock: socket.socket, write_s: float) -> None:
        self.items: deque[memoryview | FileRange] = deque()
        self.cut_short = False  # a file turned out shorter than was promised
        self._sock = sock
        self._send = sock.send
        self._write_s = write_s

    # -- the thread that runs a request ---------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send a piece that others will follow; wait for a slow client. Raises: PeerGone."""
        rest: bytes | memoryview = data
        while True:
            try:
                sent = self._send(rest, DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise PeerGone(str(error)) from None
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]
            self._wait_until_writable()

    def finish(self, data: bytes) -> None:
        """Send the last piece; leave to the leader what the socket does not take."""
        if not data:
            return
        try:
            sent = self._send(data, DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerGone(str(error)) from None
        if sent < len(data):
            self.items.append(memoryview(data)[sent:])

    def finish_file(self, data: bytes, fd: int, offset: int, count: int) -> None:
        """Send `data` and a part of a file, by sendfile(2) and from the leader's thread."""
        # sendfile(2) has no MSG_DONTWAIT; accepted sockets are in blocking mode otherwise.
        self._sock.setblocking(False)
        self.items.append(memoryview(data))
        if count:
            self.items.append(FileRange(fd, offset, count))
        else:
            os.close(fd)

    # -- the leader -----------------------------------------------------------------------

    def drain(self) -> bool:
        """Send what the socket takes. True: nothing is left; False: it takes no more now.

        Raises: OSError if the client is gone.
        """
        items = self.items
        while items:
            item = items[0]
            try:
                if isinstance(item, FileRange):
                    if not self._send_file(item):
                        return False
                elif not self._send_bytes(item):
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

    def _send_bytes(self, data: memoryview) -> bool:
        # MSG_MORE: a head waits a moment for the file behind it, to share its packet.
        more = socket.MSG_MORE if len(self.items) > 1 else 0
        sent = self._send(data, DONTWAIT | more)
        if sent < len(data):
            self.items[0] = data[sent:]
            return False
        self.items.popleft()
        return True

    def _send_file(self, part: FileRange) -> bool:
        sent = os.sendfile(
            self._sock.fileno(), part.fd, part.offset, min(part.count, SENDFILE_BYTES)
        )
        part.offset += sent
        part.count -= sent
        if part.count and sent:
            return False  # the others have their turn; epoll calls again at once
        self.items.popleft()
        os.close(part.fd)
        self.cut_short = self.cut_short or part.count > 0
        return True

    def _wait_until_writable(self) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLOUT)
        if not poller.poll(self._write_s * 1000):
            raise PeerGone("the client took nothing of the response for too long")
