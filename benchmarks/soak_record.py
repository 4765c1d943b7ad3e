"""What a soak has seen of a server, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.crowd import Tally
from benchmarks.family import Holdings, of_family

_LOOK_S: Final = 0.5  # between two looks while it settles
_FEWEST_LOOKS: Final = 3  # of which a median says something
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Look:
    """The server at one moment: what its processes hold, and what it says of itself."""

    at_s: float
    held: Holdings
    workers: int
    connections: int
    requests: int  # ended
    running: int  # threads that run one
    streams: int
    errors: int
    restarts: int
    lost: int
    incidents: Mapping[str, int]

    @classmethod
    def at(cls, pid: int, status: Mapping[str, Any]) -> Look:
        """Look at the processes of a manager whose readout is `status`."""
        return cls(
            at_s=time.monotonic(),
            held=of_family(pid),
            workers=status["total"],
            connections=status["connections"],
            requests=status["requests"],
            running=status["busy_threads"],
            streams=status["streams"],
            errors=status["errors"],
            restarts=status["restarts"],
            lost=status["lost"],
            incidents=status["incidents"],
        )

    def __str__(self) -> str:
        held = self.held
        return (
            f"{self.workers} workers, {held.pss / _MB:.1f} MB, {held.threads} threads, "
            f"{held.descriptors} descriptors, {self.connections} connections, "
            f"{self.requests} requests, {self.streams} streams, {self.errors} errors"
        )


@dataclass
class Record:
    """One soak: the server before, during and after; the clients' own counts.

    spare_threads: how many more threads than before may be left afterwards.
    """

    before: Look
    spare_threads: int = 0
    looks: list[Look] = field(default_factory=list)
    after: Look | None = None
    settled_s: float = 0.0  # how long the server took to be as before
    good: dict[str, Tally] = field(default_factory=dict)
    bad: dict[str, Tally] = field(default_factory=dict)

    def settle(
        self,
        look: Callable[[], Look],
        within_s: float,
        report: Callable[[Look], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look until nothing is left of the clients, or the time is over."""
        began_s = time.monotonic()
        while True:
            self.after = look()
            self.settled_s = time.monotonic() - began_s
            if not list(left_behind(self)) or self.settled_s >= within_s:
                report(self.after)
                return
            pause(_LOOK_S)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much memory may grow between the second and the last quarter of a soak."""

    share: float = 0.10
    bytes: int = 4_000_000


def judge(record: Record, tolerance: Tolerance) -> Iterator[str]:
    """Yield a line for everything that is not as it should be."""
    yield from failures(record)
    yield from left_behind(record)
    yield from miscounts(record)
    yield from growth(record, tolerance)


def failures(record: Record) -> Iterator[str]:
    """Yield what good clients complain of, and the server's own failures."""
    for name, tally in record.good.items():
        if tally.failed:
            yield f"{tally.failed} failures of good clients ({name}): {'; '.join(tally.failures)}"
        if tally.answers < tally.requests and not tally.failed:
            yield f"{name}: {tally.requests} requests, only {tally.answers} answers"
        if not tally.answers:
            yield f"{name}: not a single answer"
    after = record.after
    if after is None:
        yield "the server was not looked at after the clients had gone"
        return
    for what in ("errors", "restarts", "lost"):
        count = getattr(after, what) - getattr(record.before, what)
        if count:
            yield f"the server counts {count} {what}"


def left_behind(record: Record) -> Iterator[str]:
    """Yield what is left of the clients after they have gone."""
    after, before = record.after, record.before
    if after is None:
        return
    pairs = {
        "descriptors": (before.held.descriptors, after.held.descriptors),
        "threads": (before.held.threads, after.held.threads - record.spare_threads),
        "processes": (before.held.processes, after.held.processes),
        "connections": (before.connections, after.connections),
        "streams": (before.streams, after.streams),
        "running requests": (before.running, after.running),
    }
    for what, (earlier, later) in pairs.items():
        if later > earlier:
            yield f"{what}: {earlier} before, {later} {record.settled_s:.0f} s after the clients"


def miscounts(record: Record) -> Iterator[str]:
    """Yield where the server's count of requests does not fit to what the clients know."""
    if record.after is None:
        return
    served = record.after.requests - record.before.requests
    least = sum(tally.answers for tally in record.good.values())
    most = sum(tally.requests for tally in [*record.good.values(), *record.bad.values()])
    if not least <= served <= most:
        yield f"the server counts {served} requests, which should be {least} to {most}"


def growth(record: Record, tolerance: Tolerance) -> Iterator[str]:
    """Yield by how much memory has grown, if it is more than tolerable.

    The number of workers follows the load, so only moments with equally many are compared.
    """
    looks = record.looks
    quarter = len(looks) // 4
    if not quarter:
        yield f"{len(looks)} looks are too few to say anything of memory"
        return
    second = _by_workers(looks[quarter : 2 * quarter])
    last = _by_workers(looks[-quarter:])
    for workers in sorted(second.keys() & last.keys()):
        if min(len(second[workers]), len(last[workers])) < _FEWEST_LOOKS:
            continue
        earlier, later = median(second[workers]), median(last[workers])
        if later > earlier * (1 + tolerance.share) + tolerance.bytes:
            yield (
                f"memory with {workers} worker(s) grew from {earlier / _MB:.1f} MB in the "
                f"second quarter to {later / _MB:.1f} MB in the last"
            )


def _by_workers(looks: Sequence[Look]) -> dict[int, list[int]]:
    """Return the memory of all looks with the same number of workers."""
    found: dict[int, list[int]] = {}
    for look in looks:
        found.setdefault(look.workers, []).append(look.held.pss)
    return found
