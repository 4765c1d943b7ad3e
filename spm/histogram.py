"""A histogram of durations in few words: four buckets to an octave.

Log-linear, as in HdrHistogram: the three highest bits of the number choose the bucket,
so finding it is two shifts and no logarithm. A value is known to within a quarter of
its octave, an error of at most 12 % from the middle; interpolation makes it less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

FLOOR_BITS: Final = 14  # the first bucket ends at 2^14 ns = 16.4 us
FIRST_END_NS: Final = 1 << FLOOR_BITS
CEILING_BITS: Final = 40  # the last one begins at 2^40 ns = 1100 s
BUCKETS: Final = 4 * (CEILING_BITS - FLOOR_BITS) + 2


def bucket_of(duration_ns: int) -> int:
    """Return the index, 0 .. BUCKETS - 1, of the bucket that counts this duration."""
    bits = duration_ns.bit_length()
    if bits <= FLOOR_BITS or duration_ns < 0:
        return 0
    if bits > CEILING_BITS:
        return BUCKETS - 1
    return ((bits - FLOOR_BITS - 1) << 2) + ((duration_ns >> (bits - 3)) & 3) + 1


def lower_bound_ns(bucket: int) -> int:
    """Return the smallest duration that falls into the bucket."""
    if bucket == 0:
        return 0
    octave, quarter = divmod(bucket - 1, 4)
    return (4 + quarter) << (octave + FLOOR_BITS - 2)


def upper_bound_ns(bucket: int) -> int:
    """Return the smallest duration that is too long for the bucket.

    The last bucket has no end; its quantiles are told as twice its beginning.
    """
    if bucket == BUCKETS - 1:
        return 2 << CEILING_BITS
    return lower_bound_ns(bucket + 1)


def quantile_ns(counts: Sequence[int], fraction: float) -> int:
    """Return the duration that `fraction` (0 .. 1) of all counted ones do not exceed.

    Linear within the bucket; 0 if nothing was counted.
    """
    total = sum(counts)
    if total == 0:
        return 0
    rank = max(0.0, min(1.0, fraction)) * total
    below = 0
    last = 0
    for bucket, count in enumerate(counts):
        if count == 0:
            continue
        last = bucket
        if below + count >= rank:
            low, high = lower_bound_ns(bucket), upper_bound_ns(bucket)
            return low + int((high - low) * (rank - below) / count)
        below += count
    return upper_bound_ns(last)


def add(left: Iterable[int], right: Iterable[int]) -> list[int]:
    """Return the sum of two histograms."""
    return [a + b for a, b in zip(left, right, strict=True)]


def subtract(later: Iterable[int], earlier: Iterable[int]) -> list[int]:
    """Return what was counted between two looks; never less than nothing."""
    return [max(0, a - b) for a, b in zip(later, earlier, strict=True)]
