"""Where a figure comes from, and how far off it may be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Origin = Literal["measured", "fitted", "assumed"]
"""measured: on this kind of device; fitted: on published measurements of it; assumed: carried over from another."""


@dataclass(frozen=True)
class Spread:
    """How far off a figure may be: it lies within [value * low, value * high] about nine times in ten."""

    low: float
    high: float


EXACT = Spread(low=1.0, high=1.0)


def combine(terms: Iterable[tuple[float, Spread]], *, common: Spread = EXACT) -> tuple[float, float]:
    """Low and high end of a sum whose terms err independently, times an error that all of them share.

    sum ± sqrt(Σ (term · spread)²), then the common factor.
    """
    terms = list(terms)
    total = sum(value for value, _ in terms)
    below = math.sqrt(sum((value * (1 - spread.low)) ** 2 for value, spread in terms))
    above = math.sqrt(sum((value * (spread.high - 1)) ** 2 for value, spread in terms))
    return max(0.0, total - below) * common.low, (total + above) * common.high
