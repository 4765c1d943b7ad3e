"""Outbox: the way of response bytes into a socket, and what it has not taken yet."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from httpcore_srv.errors import PeerGone
from httpcore_srv.pace import due_ns
from httpcore_srv.ports import Incident
from httpcore_srv.store import Store
from httpcore_srv.wire import unread_by_peer

SENDFILE_BYTES: Final = 1 << 20  # one sendfile(2), so that a fast client cannot hold the loop
HELD_BYTES: Final = 1 << 14  # a larger piece is sent at once: it is no matter of one send(2)
DONTWAIT: Final = socket.MSG_DONTWAIT


class FileRange:
    """A part of a file that is still to be sent. Owns its descriptor."""

    __slots__ = ("count", "fd", "offset")

    def __init__(self, fd: int, offset: int, count: int) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for all outboxes of a worker.

    write_ns: how long a client may take nothing; crowded_ns: the same while its thread
    counts as busy because it cannot step aside. min_rate: what it must take on the
    average after that, bytes per second. count: called for what the readout is to show.
    lock: held by whoever sends what an outbox holds while another thread may add to it.
    """

    write_ns: int
    crowded_ns: int
    min_rate: int
    store: Store
    clock_ns: Callable[[], int]
    count: Callable[[Incident], None]
    lock: threading.Lock


class Outbox:
    """The way out of one socket: bytes and parts of files, in order. A `wsgi.Sink`.

    sock: in blocking mode or not; we never let it block.
    step_aside: called by the running thread before it waits for the client; False if it
        must not wait for long.
    Belongs to whoever owns its stream; but what it holds of a request that is stuck, the
    leader may send (`send_held_of_stuck`).
    """

    __slots__ = (
        "_began_ns",
        "_given",
        "_held",
        "_moved_ns",
        "_send",
        "_sock",
        "_step_aside",
        "_taken",
        "_terms",
        "broken",
        "cut_short",
        "gathers",
        "held",
        "items",
    )

    def __init__(self, sock: socket.socket, terms: Terms, step_aside: Callable[[], bool]) -> None:
        self.items: list[memoryview | FileRange] = []  # hardly ever more than two
        self.gathers = False  # whole responses are held, for others that go out with them
        self.held: list[bytes] = []  # comes before whatever is sent
        self.cut_short = False  # a file turned out shorter than was promised
        # The client has not got all that was sent, and nothing may follow: an application
        # that goes on after an exception would have it taken for the rest.
        self.broken = False
        self._sock = sock
        self._send = sock.send
        self._terms = terms
        self._step_aside = step_aside
        self._held = 0  # bytes of memory reserved for `items`
        # Of the wait that is under way, or was last:
        self._began_ns = 0
        self._moved_ns = 0  # when the client last took something
        self._given = 0  # what the socket held when it began, and took since
        self._taken = 0  # what the client took of that

    # -- the thread that runs a request ---------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send a piece that others will follow; wait for a slow client. Raises: PeerGone."""
        rest = self._try(data)
        if rest:
            self._send_rest(rest)

    def abort(self) -> None:
        """Let the client find its connection reset (SO_LINGER, socket(7)) when it is closed."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.broken = True

    def finish(self, data: bytes, content: bytes = b"") -> None:
        """Send the last piece, and large content after it; never wait.

        Leaves to the leader what the socket does not take; all of it if this outbox
        gathers. Raises: PeerGone.
        """
        if self.gathers and len(data) <= HELD_BYTES and not content:
            if data:
                self.held.append(data)
            # A leader that takes this stream for stuck stops the gathering, and then sends
            # what is held; we hold, and then look. One of us sends it.
            if self.gathers:
                return
            data = b""  # type: ignore[unreachable]  # not for mypy: another thread writes it
        if self.held:
            data = self._take_back() + data
        try:
            if content:
                if self.broken:
                    raise PeerGone("nothing can follow what was lost")
                sent = self._sock.sendmsg((data, content), (), DONTWAIT)
            elif data:
                sent = self._send(data, DONTWAIT)
            else:
                return
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._break(str(error)) from None
        if sent < len(data):
            self._keep(memoryview(data)[sent:])
            sent = len(data)
        if sent < len(data) + len(content):
            self._keep(memoryview(content)[sent - len(data) :])

    def finish_file(self, data: bytes, fd: int, offset: int, count: int) -> None:
        """Send `data` and a part of a file, by sendfile(2) and from the leader's thread."""
        if self.broken:
            os.close(fd)
            raise PeerGone("nothing can follow what was lost")
        if self.held:
            data = self._take_back() + data
        self.items.append(memoryview(data))
        self._append_file(fd, offset, count)

    def hint(self, data: bytes) -> None:
        """Send an interim response, or drop it if the socket takes none of it now."""
        rest = self._try(data)
        if len(rest) < len(data):
            if rest:
                self._send_rest(rest)
        elif len(rest) > len(data):
            # Not even what was held before it went out: that stays.
            self.held.insert(0, bytes(rest[: len(rest) - len(data)]))

    def _take_back(self) -> bytes:
        """Return what was held: it goes out with what the running thread sends now."""
        with self._terms.lock:
            data = b"".join(self.held)
            self.held.clear()
        return data

    # -- the leader -----------------------------------------------------------------------

    def send_held(self) -> None:
        """Send what is held; keep what the socket does not take. Never raises."""
        held = self.held
        if not held:
            return
        data = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        try:
            sent = self._send(data, DONTWAIT)  # `_offer`, spelt out for the hot path
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._break(str(error))
            return
        if sent < len(data):
            with contextlib.suppress(PeerGone):  # `broken` says it
                self._keep(memoryview(data)[sent:])

    def send_held_of_stuck(self) -> bool:
        """The same while a thread runs a request of the stream, and is stuck in it.

        True: the socket does not take all of it now.

        That thread may be back at any moment. What it held until then is sent here; all that
        comes after it sends itself, and to take back a rest of this it needs the lock.
        """
        self.gathers = False
        with self._terms.lock:
            count = len(self.held)
            data = b"".join(self.held[:count])
            try:
                sent = self._offer(data)
            except PeerGone:
                sent = len(data)  # nobody will get the rest
            # One step under the GIL: the thread sees all of it held, or the rest, or none.
            self.held[:count] = [data[sent:]] if sent < len(data) else []
        return sent < len(data)

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
        self._release()
        return True

    def clear(self) -> None:
        """Drop everything."""
        for item in self.items:
            if isinstance(item, FileRange):
                os.close(item.fd)
        self.items.clear()
        self.held.clear()
        self._release()

    def close(self) -> None:
        """Drop everything; nothing will be sent any more."""
        self.clear()
        self._step_aside = _never  # or stream and outbox would keep each other alive

    def begin_wait(self) -> None:
        """The client is to take what the socket has not: time runs from now on."""
        self._began_ns = self._moved_ns = self._terms.clock_ns()
        self._given = unread_by_peer(self._sock)
        self._taken = 0

    def due_ns(self, patience_ns: int) -> int:
        """Return when the client will have been too slow, by what it has taken until now."""
        taken = self._given - unread_by_peer(self._sock)
        if taken > self._taken:
            self._taken = taken
            self._moved_ns = self._terms.clock_ns()
        min_rate = self._terms.min_rate
        return due_ns(self._began_ns, self._moved_ns, taken, patience_ns, min_rate)

    def _send_bytes(self, data: memoryview) -> bool:
        # MSG_MORE: a head waits a moment for the file behind it, to share its packet.
        more = socket.MSG_MORE if len(self.items) > 1 else 0
        sent = self._send(data, DONTWAIT | more)
        self._given += sent
        if sent < len(data):
            self.items[0] = data[sent:]
            return False
        del self.items[0]
        return True

    def _send_file(self, part: FileRange) -> bool:
        sent = os.sendfile(
            self._sock.fileno(), part.fd, part.offset, min(part.count, SENDFILE_BYTES)
        )
        self._given += sent
        part.offset += sent
        part.count -= sent
        if part.count and sent:
            return False  # the others have their turn; epoll calls again at once
        del self.items[0]
        os.close(part.fd)
        self.cut_short = self.cut_short or part.count > 0
        return True

    # -- both -------------------------------------------------------------------------------

    def _try(self, data: bytes | memoryview) -> memoryview | bytes:
        """Give the socket what it takes now, what is held first; return the rest.

        Raises: PeerGone.
        """
        if self.held:
            data = self._take_back() + data
        sent = self._offer(data)
        return memoryview(data)[sent:] if sent < len(data) else b""

    def _offer(self, data: bytes | memoryview) -> int:
        """Give the socket what it takes now; return how much that was. Raises: PeerGone."""
        try:
            return self._send(data, DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._break(str(error)) from None

    def _send_rest(self, rest: memoryview | bytes) -> None:
        """Wait for the client until it has taken the rest. Raises: PeerGone."""
        terms = self._terms
        patience_ns = terms.write_ns if self._step_aside() else terms.crowded_ns
        try:
            self.begin_wait()
            poller = select.poll()
            poller.register(self._sock, select.POLLOUT)
            while rest:
                late_ns = terms.clock_ns() - self.due_ns(patience_ns)
                if late_ns >= 0:
                    terms.count(Incident.STALLED)
                    raise self._break("the client takes the response too slowly")
                poller.poll(-late_ns / 1e6 + 1)
                before = len(rest)
                rest = self._try(rest)
                self._given += before - len(rest)
        except (OSError, ValueError) as error:
            # The leader has closed the socket, after this thread was written off.
            raise self._break(str(error)) from None

    def _break(self, why: str) -> PeerGone:
        """Send nothing any more; return the error that says why."""
        self.broken = True
        self._send = _send_nothing
        return PeerGone(why)

    def _keep(self, rest: memoryview) -> None:
        """Leave `rest` to the leader: in memory, or in a file if there is no room there."""
        store = self._terms.store
        if store.take(len(rest)):
            self._held += len(rest)
            self.items.append(rest)
            return
        self._step_aside()  # disks are slow, and this may be the thread that leads
        try:
            fd = store.spool(rest)
        except OSError as error:
            store.failed("a response", error)
            raise self._break("no room for the rest of the response") from None
        self._append_file(fd, 0, len(rest))

    def _append_file(self, fd: int, offset: int, count: int) -> None:
        if not count:
            os.close(fd)
            return
        # sendfile(2) has no MSG_DONTWAIT; accepted sockets are in blocking mode otherwise.
        self._sock.setblocking(False)
        self.items.append(FileRange(fd, offset, count))

    def _release(self) -> None:
        if self._held:
            self._terms.store.give(self._held)
            self._held = 0


class RevocableOutbox(Outbox):
    """An outbox that the leader may take from a running thread that has sent nothing yet.

    The lock is held while bytes go into the socket, never while the thread waits.
    """

    __slots__ = ("_begun", "_lock", "_revoked")

    def __init__(self, sock: socket.socket, terms: Terms, step_aside: Callable[[], bool]) -> None:
        super().__init__(sock, terms, step_aside)
        self._lock = threading.Lock()
        self._begun = False  # the response has begun
        self._revoked = False

    def renew(self) -> None:
        """Another request begins. Its thread."""
        self._begun = False

    def revoke(self) -> bool:
        """Take it from the running thread, whose every use fails from now on. The leader.

        False: the response has begun, and the thread keeps it.
        """
        if not self._lock.acquire(blocking=False):
            return False  # it sends this very moment
        try:
            self._revoked = not self._begun
            return self._revoked
        finally:
            self._lock.release()

    def finish(self, data: bytes, content: bytes = b"") -> None:
        """Send the last piece, as `Outbox.finish`. Raises: PeerGone once revoked."""
        with self._lock:
            self._enter()
            super().finish(data, content)

    def finish_file(self, data: bytes, fd: int, offset: int, count: int) -> None:
        """Send data and file, as `Outbox.finish_file`. Raises: PeerGone once revoked."""
        with self._lock:
            try:
                self._enter()
            except PeerGone:
                os.close(fd)
                raise
            super().finish_file(data, fd, offset, count)

    def hint(self, data: bytes) -> None:
        """Send an interim response, as `Outbox.hint`; the response has not begun by it."""
        begun = self._begun
        super().hint(data)
        self._begun = begun

    def _try(self, data: bytes | memoryview) -> memoryview | bytes:
        with self._lock:
            self._enter()
            return super()._try(data)

    def _enter(self) -> None:
        if self._revoked:
            raise PeerGone("the request took too long, its client has been answered")
        self._begun = True


def _send_nothing(data: object, flags: int = 0) -> int:
    raise BrokenPipeError(errno.EPIPE, "nothing can follow what was lost")


def _never() -> bool:
    return False
