"""What this room needs from outside, said as shapes.

The process manager's objects fit these by structure; mypy checks the fit in
`main.py`. Nothing here knows that there are processes: a test runs a whole
HTTPServer on the fakes in `tests/fakes/`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol


class Order(enum.IntEnum):
    """What the manager has told this worker to do (a word that it alone writes)."""

    RUN = 0
    DRAIN = 1  # KillPending: hand connections to siblings, finish, leave
    STOP = 2  # the whole server stops: finish, close politely, leave
    NOW = 3  # leave at once; what is unfinished is lost


class Incident(enum.IntEnum):
    """What the readout counts besides requests; the values are places in the slot."""

    BAD_REQUEST = 0  # 400, 417, 501, 505: not a request that we could serve
    HEAD_TOO_LARGE = 1  # 414, 431
    BODY_TOO_LARGE = 2  # 413
    TOO_LATE = 3  # 408: head or body did not come in time
    STALLED = 4  # the response was not taken in time, and cut
    QUEUE_TIMEOUT = 5  # 503: no thread was free in time
    REQUEST_TIMEOUT = 6  # 504: the application did not respond in time
    TURNED_AWAY = 7  # 503: too many connections from one address
    NO_ROOM = 8  # 503, 507: neither memory nor disk for a request
    IDLE_CLOSED = 9  # an idle connection that made room for a new one
    ACCEPT_PAUSED = 10  # no connection could be accepted for lack of descriptors or room
    SPOOLED = 11  # a temporary file was made for a body or a response

    @staticmethod
    def of_status(status: int) -> Incident | None:
        """Return what a refusal with this status is; None where its cause is counted."""
        return _OF_STATUS.get(status)


_OF_STATUS = {
    400: Incident.BAD_REQUEST,
    408: Incident.TOO_LATE,
    413: Incident.BODY_TOO_LARGE,
    414: Incident.HEAD_TOO_LARGE,
    417: Incident.BAD_REQUEST,
    431: Incident.HEAD_TOO_LARGE,
    501: Incident.BAD_REQUEST,
    505: Incident.BAD_REQUEST,
}


class Slot(Protocol):
    """This worker's row of the scoreboard. Only this process writes it.

    Every number is absolute, never an increment, so that a row is right
    whatever instruction its worker dies at. Each method has one writing thread
    at a time: *baton* below means the holder of the loop's baton, *tally* means
    whoever holds the tally's lock.
    """

    def order(self) -> int:
        """Return what the manager wants of this worker now: a value of `Order`."""

    def shift(self) -> tuple[int, float] | None:
        """Return the sibling's slot and the share of the active connections it is to get.

        None: there is no new order of that kind.
        """

    def linger_s(self) -> float:
        """Return how long idle connections are kept for a last request at STOP, seconds."""

    def ready(self) -> None:
        """Say that this worker serves (again, if it was draining). Baton."""

    def draining(self) -> None:
        """Say that this worker accepts nothing more and finishes what it has. Baton."""

    def exiting(self) -> None:
        """Say that nothing is left here and the process is about to end. Baton."""

    def begun(self, count: int) -> None:
        """Store how many requests were given to the application. Baton."""

    def ended_inline(self, count: int) -> None:
        """Store how many of them ended on the baton holder's own thread. Baton."""

    def ended_pooled(self, count: int) -> None:
        """Store how many of them ended on pool threads. Tally."""

    def busy(self, count: int) -> None:
        """Store how many threads are in the application. Tally, or baton before a wait."""

    def aside(self, count: int) -> None:
        """Store how many threads wait for the readers of streams. Tally."""

    def publish(
        self,
        beat_ns: int,
        busy: int,
        waiting: int,
        connections: int,
        threads: int,
        streams: int,
        written_off: int,
    ) -> None:
        """Store the gauges and the heartbeat (CLOCK_MONOTONIC, nanoseconds). Tally."""

    def incident(self, incident: int, count: int) -> None:
        """Store how often an `Incident` has happened. Tally."""

    def timed(self, durations_ns: Sequence[int]) -> None:
        """Add the service times of requests that ended to sum and histogram. Tally."""

    def moved(self, accepted: int, handed_out: int, handed_in: int) -> None:
        """Store how many connections were accepted, given to and got from siblings. Baton."""

    def failed(self, errors: int) -> None:
        """Store how many requests the application failed (answered 500 or cut). Tally."""


class Lifeline(Protocol):
    """The pair of sockets by which manager and worker know of each other."""

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""

    def read(self) -> bool:
        """Swallow what has come; False at end-of-file: the manager is gone."""

    def poke(self) -> None:
        """Wake the manager: this worker has become full. Never blocks."""


class Siblings(Protocol):
    """The other workers, as far as a connection can be handed to one of them."""

    def fileno(self) -> int:
        """Return the descriptor of this worker's own inbox, to watch for reading."""

    def receive(self) -> tuple[bytes, int] | None:
        """Take one parcel out of the inbox: its message and the descriptor.

        None when the inbox is empty. A message without a descriptor (the
        manager's nudge to look at the listener) comes with descriptor -1.
        """

    def send(self, message: bytes, fd: int, *, only_free: bool, target: int = -1) -> bool:
        """Hand `fd` to the sibling that suits best, or to none but that in slot `target`.

        only_free: only to one that has a thread free this moment; otherwise
        (draining) to any ready one. False: nobody could take it, and the
        descriptor is still the caller's. True: the caller closes its copy.
        """
