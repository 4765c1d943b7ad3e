"""What must be true of any octets. A fuzzer calls these functions; so can anybody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

from httpcore_srv.connection import Connection, State
from httpcore_srv.errors import ProtocolError
from httpcore_srv.messages import RequestHead
from httpcore_srv.settings import HTTPLimits
from httpcore_srv.store import Store
from tests.corpus.reading import Seen, read, seen
from tests.corpus.reference import reference_read

DEFAULT: Final = HTTPLimits()
TIGHT: Final = HTTPLimits(
    max_request_line_bytes=40,
    max_header_bytes=80,
    max_headers=3,
    max_body_bytes=40,
    max_chunk_extension_bytes=8,
    max_chunk_overhead_bytes=25,
    max_trailer_bytes=20,
    refuse_underscores=True,
    pass_connect=True,
)
SPOOLING: Final = HTTPLimits(body_memory_bytes=8, pass_connect=True)
ROOM: Final = 1 << 20
NO_ROOM: Final = 64


def check_requests(data: bytes) -> None:
    """The parser says the same however the octets come, and what the slow reference says."""
    for limits in (DEFAULT, TIGHT):
        whole = read([data] if data else [], limits)
        expected = reference_read(data, limits)
        assert whole == expected, f"parser: {whole}\nreference: {expected}"
        for pieces in (own_pieces(data), [data[i : i + 1] for i in range(len(data))]):
            in_pieces = read(pieces, limits)
            assert in_pieces == whole, f"whole: {whole}\nin pieces {pieces}: {in_pieces}"


def check_connection(data: bytes) -> None:
    """A Connection hands out what the reference reads, and keeps nothing when it is over."""
    expected, status = answerable(data)
    for room in (ROOM, NO_ROOM):
        files: list[IO[bytes]] = []
        store = WatchedStore(room, files)
        owner = Owner(store, data)
        for piece in own_pieces(data):
            if not owner.receive(piece):
                break
        owner.leave()
        if room == NO_ROOM and owner.status == 503:
            expected_here = expected[: len(owner.handed_out)]
        else:
            expected_here = expected
            assert owner.status == status, f"{owner.status} instead of {status}"
        assert owner.handed_out == expected_here, f"{owner.handed_out}\nexpected: {expected_here}"
        assert store.used == 0, f"{store.used} bytes are held by nobody"
        assert all(file.closed for file in files), "a temporary file is open"


def answerable(data: bytes) -> tuple[list[Seen], int | None]:
    """Return the requests that a server runs, and the status with which it refuses the next."""
    transcript = reference_read(data, SPOOLING)
    requests = []
    for request in transcript.requests:
        if not request.whole:
            break
        requests.append(request)
        if not request.keep_alive:
            return requests, None
    return requests, transcript.status


def own_pieces(data: bytes) -> list[bytes]:
    """Cut octets at places that they choose themselves, so that a fuzzer can move them."""
    return list(_own_pieces(data))


def _own_pieces(data: bytes) -> Iterator[bytes]:
    begin = 0
    while begin < len(data):
        end = begin + 1 + data[begin] % 23
        yield data[begin:end]
        begin = end


class WatchedStore(Store):
    """A store that remembers its files."""

    def __init__(self, max_bytes: int, files: list[IO[bytes]]) -> None:
        super().__init__(max_bytes, None, lambda _: None)
        self._files = files

    def open_file(self) -> IO[bytes]:
        file = super().open_file()
        self._files.append(file)
        return file


class Owner:
    """Does with a Connection what a Stream does; now and then another one takes over."""

    def __init__(self, store: Store, choices: bytes) -> None:
        self.handed_out: list[Seen] = []
        self.status: int | None = None
        self._store = store
        self._choices = choices
        self._connection = Connection(SPOOLING, store)

    def receive(self, piece: bytes) -> bool:
        """Take in what has come, and run what is whole. False: nothing may follow."""
        try:
            request = self._connection.receive(piece)
            while request is not None:
                if not self._run(request):
                    return False
                if not self._connection.has_unread:
                    return True
                request = self._next(request)
        except ProtocolError as error:
            self.status = error.status
            if self._connection.state is not State.CLOSING:
                self._connection.fault()
            return False
        return True

    def leave(self) -> None:
        """The client has gone."""
        if self._connection.state is not State.CLOSING:
            self._connection.fault()

    def _run(self, request: RequestHead) -> bool:
        connection = self._connection
        assert connection.state is State.RESPONDING
        with connection.take_body() as body:
            content = body.read()
        assert len(content) == connection.body_length
        assert request.has_body or not content
        found = seen(request)
        found.body, found.whole = content, True
        self.handed_out.append(found)
        if not request.keep_alive:
            connection.done_and_closed()
            return False
        connection.done_and_kept()
        return True

    def _next(self, request: RequestHead) -> RequestHead | None:
        """Take up what is pipelined; another process does if the octets say so."""
        if self._choices[len(self.handed_out) % len(self._choices)] % 2:
            return self._connection.next_request()
        rest = self._connection.unparsed()
        assert rest, "has_unread, and nothing is"
        self._connection.fault()
        self._connection = Connection(SPOOLING, self._store)
        return self._connection.receive(rest)
