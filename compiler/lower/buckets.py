"""Lengths that pieces of prompts are padded to, where every step has the same shapes: those with the least expected padding.

    minimise    Σ P(last piece = l) · (bucket(l) − l)        over at most MOST lengths, multiples of a block, the chunk among them

A prompt's last piece alone is shorter than the chunk, and its length follows from the prompt: which bucket it goes to does not depend
on who else is there, so a request's numbers do not either.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.serving import Workload

MOST = 4
"""Shapes beside the one of single tokens; each is compiled and warmed for itself."""
DRAWN = 4000
LENGTH_SPREAD = 0.25
"""Standard deviation of the logarithm of lengths, as the planner plays them (assumed)."""


def last_pieces(workload: Workload | None, *, chunk: int, longest: int) -> list[float]:
    """The share of prompts whose last piece has so many tokens, by that number less one. Without a workload all are alike."""
    mean = workload.input_tokens if workload is not None else None
    if mean is None:
        return [1.0 / chunk] * chunk
    rng, found = random.Random(0), [0.0] * chunk
    for _ in range(DRAWN):
        drawn = rng.lognormvariate(math.log(mean) - LENGTH_SPREAD**2 / 2, LENGTH_SPREAD)
        length = min(longest, max(1, round(drawn)))
        found[(length - 1) % chunk] += 1 / DRAWN
    return found


def buckets_of(shares: list[float], *, block_tokens: int, most: int = MOST) -> tuple[int, ...]:
    """The lengths, by dynamic programming over the largest one. `shares` is by length less one and ends with the chunk's."""
    edges = [*range(block_tokens, len(shares), block_tokens), len(shares)]
    none = (0.0, 0, ())
    best: dict[int, tuple[float, int, tuple[int, ...]]] = {}  # largest bucket -> (padding, how many, buckets)
    for _ in range(most):
        before = {0: none, **best}
        for end in edges:
            tried = [
                (round(padding + padding_of(shares, start, end), 9), num + 1, (*chosen, end))
                for start, (padding, num, chosen) in before.items()
                if start < end
            ]
            best[end] = min(tried if end not in before else [before[end], *tried])
    return best[len(shares)][2]


def padding_of(shares: list[float], start: int, end: int) -> float:
    """Tokens that pieces longer than `start` waste in a bucket of `end`, expected."""
    return sum(shares[length - 1] * (end - length) for length in range(start + 1, end + 1))


def padded_share(shares: list[float], buckets: tuple[int, ...]) -> float:
    """Of what is computed of last pieces, the part that is padding."""
    starts = (0, *buckets[:-1])
    wasted = sum(padding_of(shares, start, end) for start, end in zip(starts, buckets, strict=True))
    wanted = sum(share * (at + 1) for at, share in enumerate(shares))
    return wasted / (wasted + wanted)
