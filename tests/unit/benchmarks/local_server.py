"""A server of a few lines: each connection gets a thread that does what the test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[socket.socket], None]

PATIENCE_S = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def served(handler: Handler) -> Iterator[tuple[str, int]]:
    """Serve on a free port inside the block; give the address."""
    threads: list[threading.Thread] = []

    def one(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(PATIENCE_S)
            handler(sock)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener is shut down at the end
            while True:
                sock, _ = listener.accept()
                threads.append(threading.Thread(target=one, args=(sock,), daemon=True))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, args=(listener,), daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(PATIENCE_S)
            for thread in threads:
                thread.join(PATIENCE_S)
            assert not any(thread.is_alive() for thread in [accepting, *threads])


def read_head(sock: socket.socket) -> bytes:
    """Read one request without a body; empty at end-of-file."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        if not data:
            return b""
        head += data
    return head


def answering(answer: bytes) -> Handler:
    """Return the handler that gives this answer to every request."""

    def handler(sock: socket.socket) -> None:
        while read_head(sock):
            sock.sendall(answer)

    return handler


def read_all(sock: socket.socket) -> bytes:
    """Read to the end of the file."""
    found = b""
    while data := sock.recv(65536):
        found += data
    return found
