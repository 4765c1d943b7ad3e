"""Whether a curve is flat, linear, or worse: from its figures alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FLAT: Final = "flat"
LESS: Final = "less than linear"
LINEAR: Final = "linear"
WORSE: Final = "worse than linear"
TOO_SHORT: Final = "too few points"

FLAT_FACTOR: Final = 1.25
LINEAR_FACTOR: Final = 2.5  # a byte that is in no cache costs about twice what one in a cache does

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a curve looks like, and the two numbers that say so.

    spread: the highest cost divided by the lowest.
    unit_spread: over the upper half, the highest cost of one unit divided by the lowest; what
        the first point costs counts as fixed and is left out. 0.0: there is no such cost.
    """

    name: str
    spread: float
    unit_spread: float


def shape(
    curve: Curve, flat_factor: float = FLAT_FACTOR, linear_factor: float = LINEAR_FACTOR
) -> Shape:
    """Name the shape of (size, cost) points, ordered by size.

    Flat: no cost is `flat_factor` times another. Linear: over the upper half, what a unit
    costs beyond the fixed cost stays within `linear_factor`. Else it is worse than linear if
    a unit costs more at the end than it did, and less than linear if not.
    Raises: ValueError if a cost is not positive.
    """
    if any(cost <= 0 for _, cost in curve):
        raise ValueError(f"a cost that is not positive: {curve}")
    if len(curve) < 2:
        return Shape(TOO_SHORT, 1.0, 0.0)
    costs = [cost for _, cost in curve]
    spread = max(costs) / min(costs)
    units = unit_costs(curve)
    unit_spread = max(units) / min(units) if min(units) > 0 else 0.0
    if spread < flat_factor:
        name = FLAT
    elif len(units) < 2:
        name = TOO_SHORT
    elif unit_spread and unit_spread <= linear_factor:
        name = LINEAR
    else:
        name = WORSE if units[-1] > max(0.0, units[0]) else LESS
    return Shape(name, spread, unit_spread)


def unit_costs(curve: Curve) -> list[float]:
    """Return what a unit costs beyond the first point, at each point of the upper half."""
    (first_size, first_cost), *_ = curve
    upper = curve[max(1, len(curve) // 2) :]
    return [(cost - first_cost) / (size - first_size) for size, cost in upper]
