"""Recorded loads: a file of lines `seconds since the start,seconds of service`.

A line that begins with # is a comment. Times must not fall. The file is read as it is
used, so its length does not matter. From nginx with `log_format timing '$msec,$request_time'`,
which notes when requests ended:

    awk -F, '{printf "%.3f,%s\\n", $1 - $2, $2}' timing.log | sort -n |
    awk -F, 'NR == 1 {t = $1} {printf "%.3f,%s\\n", $1 - t, $2}' > recorded.csv
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Final

from benchmarks.simulation.loads import Load, Request
from benchmarks.simulation.profile import Profile

_BINS: Final = 120  # as finely as a picture shows the rate


class TraceError(ValueError):
    """The file cannot be read as a recorded load: the user's to mend."""


def read(path: Path) -> Iterator[Request]:
    """Yield (seconds, service seconds). Raises: TraceError, naming the line."""
    last_s = 0.0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip() or line.startswith("#"):
                    continue
                try:
                    time_s, service_s = map(float, line.split(","))
                except ValueError:
                    raise TraceError(
                        f"{path}, line {number}: expected `seconds,service seconds`, "
                        f"found {line.strip()!r}"
                    ) from None
                if not (isfinite(time_s) and isfinite(service_s)) or service_s < 0:
                    raise TraceError(f"{path}, line {number}: a time that is none")
                if time_s < last_s:
                    raise TraceError(f"{path}, line {number}: earlier than the line before")
                last_s = time_s
                yield time_s, service_s
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: {error}") from error


def load_of(path: Path) -> Load:
    """Return the recorded load. It is as high as it was: it does not grow with the workers.

    Raises: TraceError.
    """
    count, length_s, service_s = 0, 0.0, 0.0
    for time_s, took_s in read(path):
        count, length_s, service_s = count + 1, time_s, service_s + took_s
    if not count or length_s <= 0:
        raise TraceError(f"{path}: no two requests at different times in it")
    return Load(
        name=path.stem,
        title=f"recorded in {path.name}, {count} requests",
        profile=_profile(path, length_s),
        service=lambda random: 0.0,
        mean_service_s=service_s / count,
        length_s=length_s,
        measured=(0.0, length_s + 1.0),
        settled_s=length_s / 8,
        recorded=lambda: read(path),
    )


def _profile(path: Path, length_s: float) -> Profile:
    """Return the mean rates of equal pieces of the time, as stairs."""
    width_s = length_s / _BINS
    counts = [0] * _BINS
    for time_s, _ in read(path):
        counts[min(_BINS - 1, int(time_s / width_s))] += 1
    rates = [number / width_s for number in counts]
    stairs = ((edge * width_s, rate) for n, rate in enumerate(rates) for edge in (n, n + 1))
    return Profile(tuple(stairs))
