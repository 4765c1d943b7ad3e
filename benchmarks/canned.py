"""The limit of the language: an epoll loop that answers without looking at the request.

    python -m benchmarks.canned PORT [--pipelined]

No parsing, no environ, no application, no timeout: what a server written in Python reaches
if everything it is for costs nothing. It takes every event for one whole request, which
holds for the load generators here (a request fits one segment and none is pipelined), and
for nothing else. With --pipelined it counts the ends of heads, and answers as many requests
with one send: right for requests without content, whose pieces it keeps until they are whole.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from benchmarks.apps import HELLO_BODY

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n"
KEPT: Final = _HEAD % (len(HELLO_BODY), b"") + HELLO_BODY
CLOSED: Final = _HEAD % (len(HELLO_BODY), b"Connection: close\r\n") + HELLO_BODY
_END: Final = b"\r\n\r\n"

Connections = dict[int, socket.socket]
Answerer = Callable[[Connections, int], None]  # all connections, the descriptor of the ready one


def serve(listener: socket.socket, answer: Answerer) -> NoReturn:
    """Answer whatever arrives at `listener`, until the process is ended."""
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    connections: Connections = {}
    while True:
        for fd, _ in epoll.poll():
            if fd != listener.fileno():
                answer(connections, fd)
                continue
            connection, _ = listener.accept()
            # Without this the answer to the first request could wait for an acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[connection.fileno()] = connection
            epoll.register(connection.fileno(), select.EPOLLIN)


def answer_one(connections: Connections, fd: int) -> None:
    """Answer one request."""
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


def answerer_of_all() -> Answerer:
    """Return what answers as many requests as have arrived as a whole."""
    rests: dict[int, bytes] = {}  # descriptor -> the beginning of a request

    def answer_all(connections: Connections, fd: int) -> None:
        connection = connections[fd]
        try:
            received = connection.recv(65536)
            data = rests.pop(fd, b"") + received
            connection.send(KEPT * data.count(_END))
        except ConnectionError:
            received = b""
        if not received:
            del connections[fd]
            connection.close()
        elif not data.endswith(_END):
            rests[fd] = data[data.rfind(_END) + len(_END) :] if _END in data else data

    return answer_all


def main() -> NoReturn:
    """Serve on 127.0.0.1 at the port given."""
    answer = answerer_of_all() if sys.argv[2:] == ["--pipelined"] else answer_one
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listener:
        serve(listener, answer)


if __name__ == "__main__":
    main()
