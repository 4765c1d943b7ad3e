"""Profile: how many requests a second come, over time; straight lines between points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

Point = tuple[float, float]  # seconds, requests per second


@dataclass(frozen=True)
class Profile:
    """A rate over time. Two points at one time are a jump; the first is at 0."""

    points: tuple[Point, ...]

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.points[-1][0]

    @property
    def peak(self) -> float:
        """The highest rate."""
        return max(rate for _, rate in self.points)

    def at(self, time_s: float) -> float:
        """Return the rate at a time; at a jump, the one after it."""
        index = bisect_right(self.points, time_s, key=lambda point: point[0])
        if index >= len(self.points):
            return self.points[-1][1]
        (start_s, before), (end_s, after) = self.points[index - 1], self.points[index]
        return before + (after - before) * (time_s - start_s) / (end_s - start_s)

    def scaled(self, rates: float = 1.0, times: float = 1.0) -> Profile:
        """Return the same shape with other rates, or faster or slower."""
        return Profile(tuple((time_s * times, rate * rates) for time_s, rate in self.points))

    def arrivals(self, random: Random) -> Iterator[float]:
        """Yield the times of Poisson arrivals, by thinning within each straight line."""
        for (start_s, before), (end_s, after) in pairwise(self.points):
            highest = max(before, after)
            if end_s <= start_s or highest <= 0:
                continue
            slope = (after - before) / (end_s - start_s)
            time_s = start_s
            while (time_s := time_s + random.expovariate(highest)) < end_s:
                rate = before + slope * (time_s - start_s)
                if rate >= highest or random.random() * highest < rate:
                    yield time_s
