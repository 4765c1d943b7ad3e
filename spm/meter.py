"""Meter: rates and service times of the last seconds, from snapshots of the totals."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .histogram import quantile_ns, subtract

_NS: Final = 1_000_000_000
_SNAPSHOT_EVERY_NS: Final = _NS
_RATE_WINDOW_NS: Final = 5 * _NS
_SERVICE_WINDOW_NS: Final = 60 * _NS
# One a second for the longest window, and one to measure from.
_SNAPSHOTS: Final = _SERVICE_WINDOW_NS // _SNAPSHOT_EVERY_NS + 1


class Snapshot(NamedTuple):
    """The totals at one moment: of the living and the dead together."""

    at_ns: int
    ended: int
    service_ns: int
    histogram: Sequence[int]


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """How long requests took, in milliseconds; of `count` of them."""

    count: int
    mean_ms: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def between(cls, earlier: Snapshot | None, later: Snapshot) -> ServiceTimes:
        """Return the service times of the requests that ended between two snapshots."""
        counts = list(later.histogram)
        ended, service_ns = later.ended, later.service_ns
        if earlier is not None:
            counts = subtract(counts, earlier.histogram)
            ended = max(0, ended - earlier.ended)
            service_ns = max(0, service_ns - earlier.service_ns)
        return cls(
            count=ended,
            mean_ms=service_ns / ended / 1e6 if ended else 0.0,
            p50_ms=quantile_ns(counts, 0.5) / 1e6,
            p99_ms=quantile_ns(counts, 0.99) / 1e6,
        )


class Meter:
    """The snapshots of the last minute."""

    def __init__(self) -> None:
        self._snapshots: deque[Snapshot] = deque(maxlen=_SNAPSHOTS)

    def is_due(self, now_ns: int) -> bool:
        """Whether it is time for the next snapshot."""
        return not self._snapshots or now_ns - self._snapshots[-1].at_ns >= _SNAPSHOT_EVERY_NS

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot."""
        self._snapshots.append(snapshot)

    def requests_per_s(self, now: Snapshot) -> float:
        """Return the rate at which requests ended in the last few seconds."""
        then = self._before(now.at_ns - _RATE_WINDOW_NS)
        if then is None or now.at_ns <= then.at_ns:
            return 0.0
        return max(0, now.ended - then.ended) * _NS / (now.at_ns - then.at_ns)

    def last_minute(self, now: Snapshot) -> ServiceTimes:
        """Return the service times of the last 60 s."""
        return ServiceTimes.between(self._before(now.at_ns - _SERVICE_WINDOW_NS), now)

    def _before(self, at_ns: int) -> Snapshot | None:
        """Return the last snapshot at or before a time; else the first there is."""
        found = self._snapshots[0] if self._snapshots else None
        for snapshot in self._snapshots:
            if snapshot.at_ns > at_ns:
                break
            found = snapshot
        return found
