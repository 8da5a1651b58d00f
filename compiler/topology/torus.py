"""Groups of ranks on a torus: which part of each side a group takes, and what its links then give.

Devices are numbered along the first side, then the second, then the third, so a mesh axis of `size` ranks that lie `stride`
devices apart takes a box. Along a whole side that closes, the box is a ring, with both directions of a device's links; along a
part of one it is a line, whose end hears everything over one link. Groups that interleave along a side share its links.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..cost.collectives import Link

Factor = tuple[int, int]
"""(ranks, devices between neighbours)"""


@dataclass(frozen=True)
class Torus:
    """A torus, or a mesh where a side does not close."""

    sides: tuple[int, ...]
    closes: tuple[bool, ...]
    link: Link
    """One wire in one direction; a device has two a side."""

    def spans(self, factors: tuple[Factor, ...]) -> list[Span]:
        """The part of each side that a group takes; sides that it does not touch are left out."""
        found: list[Span] = []
        for side, (extent, closes) in enumerate(zip(self.sides, self.closes, strict=True)):
            below = math.prod(self.sides[:side])
            ranks, step = 1, extent
            for size, stride in factors:
                first, last = max(stride, below), min(stride * size, below * extent)
                if last > first:
                    ranks *= last // first
                    step = min(step, first // below)
            if ranks > 1:
                found.append(Span(ranks=ranks, shared=step, is_ring=closes and ranks * step == extent))
        return found

    def ring_link(self, factors: tuple[Factor, ...]) -> Link:
        """What all sides together give to a ring through the group: each carries its part of the data."""
        spans = self.spans(factors)
        size = math.prod(size for size, _ in factors)
        if not spans or size == 1:
            return self.link
        hops = sum(span.hops for span in spans)
        rate = sum(span.wires / span.shared for span in spans) * self.link.bytes_per_s
        return Link(self.link.latency_s * hops / (size - 1), rate)

    def exchange_share(self, factors: tuple[Factor, ...]) -> float:
        """Of the ring's rate, what an all-to-all gets: data for far ranks passes through those between.

        The wires across the middle of the longest side carry a quarter of all that its ranks hold, each way.
        """
        spans = self.spans(factors)
        rate = sum(span.wires / span.shared for span in spans)
        slowest = max((span.ranks / 4 * span.shared / span.wires for span in spans), default=0.0)
        return min(1.0, 1 / (rate * slowest)) if slowest else 1.0


@dataclass(frozen=True)
class Span:
    """A group along one side."""

    ranks: int
    shared: int
    """Groups that share the wires."""
    is_ring: bool

    @property
    def wires(self) -> int:
        """Into a device, that the last of the data comes over."""
        return 2 if self.is_ring else 1

    @property
    def hops(self) -> float:
        return self.ranks / 2 if self.is_ring else self.ranks - 1


def split(factors: tuple[Factor, ...], *, first: int) -> tuple[tuple[Factor, ...], tuple[Factor, ...]]:
    """The first so many ranks of a group, and the ranks that have the same place in groups of so many."""
    inner: list[Factor] = []
    outer: list[Factor] = []
    for size, stride in factors:
        here = math.gcd(size, first)
        first //= here
        inner += [(here, stride)] if here > 1 else []
        outer += [(size // here, stride * here)] if size > here else []
    return tuple(inner), tuple(outer)
