"""LiveBody: `wsgi.input` of a request whose body is still coming.

A body above the buffer is not waited for: the application is called when the buffer is
full, and reads the rest out of the socket itself. It costs one copy less than a temporary
file costs several, and what is never read is never received.

    received before ---> LiveBody (raw) ---> io.BufferedReader ---> application
    socket, DONTWAIT --->    |
                             '-- nothing has come: the thread goes aside, and waits

No busy thread waits for a client here either: the request was only begun with a place
aside kept for its thread (`Dispatcher.run_live`).
"""

from __future__ import annotations

import io
import logging
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final, Protocol

from httpcore_srv.connection import close_body
from httpcore_srv.errors import BodyLost
from httpcore_srv.pace import due_ns
from httpcore_srv.ports import Incident

log = logging.getLogger("smart_http.worker")

# What the buffered reader asks for at once; larger reads of the application go past its
# buffer. A larger one makes nothing quicker: what is copied twice should not leave the cache.
BUFFER_BYTES: Final = 1 << 16
PIECE_BYTES: Final = 1 << 18  # of a body that is read to its end with one read()
# A thread that has to wait is woken when so much has come, or after so long when anything
# has. 100 MB over loopback: 8 ms of processor time instead of 12, a tenth of the wake-ups.
GATHER_BYTES: Final = 1 << 20
GATHER_MS: Final = 5
DONTWAIT: Final = socket.MSG_DONTWAIT


@dataclass(frozen=True, slots=True)
class BodyTerms:
    """What is the same for all live bodies of a worker.

    patience_ns: how long a client may send nothing. min_rate: what it must send on the
    average after that, bytes per second. count: called for what the readout is to show.
    """

    patience_ns: int
    min_rate: int
    clock_ns: Callable[[], int]
    count: Callable[[Incident], None]


class Waiting(Protocol):
    """The running thread, as far as it may wait for its client."""

    def wait_began(self) -> None:
        """The thread is about to wait; it is aside from here on."""

    def wait_ended(self, waited_ns: int) -> None:
        """The client has sent something, or will not. The time was not the application's."""

    def body_came(self) -> None:
        """There is nothing left to wait for."""


class LiveBody(io.RawIOBase):
    """The body of one request: what has come of it, and then its socket, to its last byte.

    sock: never read beyond this body: what follows is the connection's next request.
    received: what has come; closed as soon as it has been read.
    left: how much is still to come, above 0.
    spent_ns: how much of its time the client has used for `received`.
    on_whole: called when the last byte has come.

    Read by the thread that runs the request, or by others of the application's. When the
    request is over, or its thread was written off, it is closed: ValueError from then on.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: IO[bytes],
        left: int,
        terms: BodyTerms,
        waiting: Waiting,
        on_whole: Callable[[], None],
        spent_ns: int = 0,
    ) -> None:
        self._sock = sock
        self._receive_into = sock.recv_into
        self._received: IO[bytes] | None = received
        self._left = left
        self._come = received.seek(0, io.SEEK_END)  # bytes
        received.seek(0)
        self._terms = terms
        self._waiting = waiting
        self._on_whole = on_whole
        self._waited_ns = spent_ns
        self._lost: BodyLost | None = None
        # Held while bytes are taken out of the socket, never during a wait: once `close` has
        # returned, nothing is read any more, for by then the descriptor's number, or the
        # socket's next bytes, may be another request's.
        self._lock = threading.Lock()

    def open(self) -> io.BufferedReader:
        """Return it as the application is to have it. Once: no reference to it is kept."""
        return io.BufferedReader(self, BUFFER_BYTES)

    def readable(self) -> bool:
        """Return True (io.IOBase)."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with what is there, at least a byte; 0 at the end of the body.

        Waits for a slow client. Raises: BodyLost; ValueError after the request's end.
        """
        received = self._received
        if received is not None:
            count: int = received.readinto(buffer)  # type: ignore[attr-defined]
            if count:
                return count
            self._received = None
            close_body(received)
        left = self._left
        if not left:
            return 0
        size = min(len(buffer), left)
        if not size:
            return 0
        while True:
            if self._lost is not None:
                raise self._lost.again()
            with self._lock:
                if self.closed:
                    raise ValueError("the request is over, and so is its body")
                try:
                    count = self._receive_into(buffer, size, DONTWAIT)
                except BlockingIOError:
                    count = -1
                except OSError as error:
                    raise self._lose(f"the client is gone: {error.strerror}") from None
            if count > 0:
                break
            if not count:
                raise self._lose("the client has closed before its request's body was whole")
            self._wait()
        self._come += count
        self._left = left = left - count
        if not left:
            self._waiting.body_came()
            self._on_whole()
        return count

    def readall(self) -> bytes:
        """Return all that is still to be read."""
        # Not the length that was promised at once: memory is for what has come.
        whole = io.BytesIO()
        piece = memoryview(bytearray(PIECE_BYTES))
        while count := self.readinto(piece):
            whole.write(piece[:count])
        return whole.getvalue()

    def close(self) -> None:
        """Read nothing any more. The running thread at its end; the leader, who writes it off."""
        with self._lock:
            super().close()
        received, self._received = self._received, None
        if received is not None:
            close_body(received)

    def _wait(self) -> None:
        """Wait until something has come. Raises: BodyLost if it does not come in time."""
        terms = self._terms
        began_ns = terms.clock_ns()
        # The client's time only: while the application computes, nobody asks for more.
        due = due_ns(
            began_ns - self._waited_ns, began_ns, self._come, terms.patience_ns, terms.min_rate
        )
        self._waiting.wait_began()
        try:
            # Past at once: a byte for every wait is not enough.
            if began_ns >= due or not self._poll(due):
                terms.count(Incident.TOO_LATE)
                raise self._lose("the client sends its request's body too slowly", late=True)
        except ValueError:
            # The leader has closed the socket, after this thread was written off.
            raise self._lose("the connection is closed") from None
        finally:
            waited_ns = terms.clock_ns() - began_ns
            self._waited_ns += waited_ns
            self._waiting.wait_ended(waited_ns)

    def _poll(self, due: int) -> bool:
        """Wait until something has come, or the client is gone; False when `due` has passed."""
        sock, clock_ns = self._sock, self._terms.clock_ns
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        try:
            # A quick client is not to wake us for every packet: that costs it, too.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(GATHER_BYTES, self._left))
            try:
                if poller.poll(GATHER_MS):
                    return True
            finally:
                # The leader's epoll knows nothing of it.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except OSError as error:
            raise self._lose(f"the client is gone: {error.strerror}") from None
        while not poller.poll(max(0.0, (due - clock_ns()) / 1e6) + 1):
            if clock_ns() >= due:
                return False
        return True

    def _lose(self, why: str, *, late: bool = False) -> BodyLost:
        """Note that no more will come; return the error that says so."""
        self._lost = BodyLost(why, late=late)
        return self._lost
