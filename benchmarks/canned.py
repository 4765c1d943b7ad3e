"""The limit of the language: an epoll loop that answers without looking at the request.

    python -m benchmarks.canned PORT

No parsing, no environ, no application, no timeout: what a server written in Python reaches
if everything it is for costs nothing. It takes every event for one whole request, which
holds for the load generators here (a request fits one segment and none is pipelined), and
for nothing else.
"""

from __future__ import annotations

import select
import socket
import sys
from typing import Final, NoReturn

from benchmarks.apps import HELLO_BODY

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n"
KEPT: Final = _HEAD % (len(HELLO_BODY), b"") + HELLO_BODY
CLOSED: Final = _HEAD % (len(HELLO_BODY), b"Connection: close\r\n") + HELLO_BODY


def serve(listener: socket.socket) -> NoReturn:
    """Answer whatever arrives at `listener`, until the process is ended."""
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd != listener.fileno():
                _answer(connections, fd)
                continue
            connection, _ = listener.accept()
            # Without this the answer to the first request could wait for an acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[connection.fileno()] = connection
            epoll.register(connection.fileno(), select.EPOLLIN)


def _answer(connections: dict[int, socket.socket], fd: int) -> None:
    connection = connections[fd]
    try:
        request = connection.recv(65536)
        # The one look at the request: a client that asked for a close waits for one.
        keep = b"Connection: close" not in request
        if request:
            connection.send(KEPT if keep else CLOSED)
    except ConnectionError:  # the load generator leaves without good-bye when its time is up
        request, keep = b"", False
    if not (request and keep):
        del connections[fd]
        connection.close()  # closing the only descriptor takes it out of the epoll set


def main() -> NoReturn:
    """Serve on 127.0.0.1 at the port given as the only argument."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listener:
        serve(listener)


if __name__ == "__main__":
    main()
