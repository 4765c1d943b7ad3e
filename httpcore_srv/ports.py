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


class Slot(Protocol):
    """This worker's row of the scoreboard. Only this process writes it.

    Every number is absolute, never an increment. The caller keeps to one
    writing thread per method: `publish` belongs to the baton's holder, `served`
    to whoever holds the tally's lock, the others to the baton's holder.
    """

    def order(self) -> int:
        """Return what the manager wants of this worker now: a value of `Order`."""

    def ready(self) -> None:
        """Say that this worker serves (again, if it was draining)."""

    def draining(self) -> None:
        """Say that this worker accepts nothing more and finishes what it has."""

    def exiting(self) -> None:
        """Say that nothing is left here and the process is about to end."""

    def publish(
        self,
        beat_ns: int,
        busy: int,
        waiting: int,
        connections: int,
        threads: int,
        begun: int,
        accepted: int,
    ) -> None:
        """Store the gauges and the two counters that the loop itself keeps."""

    def served(self, durations_ns: Sequence[int]) -> None:
        """Account for requests that ended, each with the nanoseconds it ran."""

    def moved(self, handed_out: int, handed_in: int) -> None:
        """Store how many connections went to siblings and came from them."""

    def failed(self, errors: int) -> None:
        """Store how many requests the application failed (answered 500 or cut)."""


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

    def send(self, message: bytes, fd: int, *, only_free: bool) -> bool:
        """Hand `fd` to the sibling that suits best.

        only_free: only to one that has a thread free this moment; otherwise
        (draining) to any ready one. False: nobody could take it, and the
        descriptor is still the caller's. True: the caller closes its copy.
        """
