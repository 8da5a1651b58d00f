"""Shapes of a server whose every step has one of a few: the fewest padded tokens, as brute force finds them too."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from llmc.compiler.lower.buckets import MOST, buckets_of, last_pieces, padded_share, padding_of
from llmc.spec.serving import Workload


def padding(shares: list[float], buckets: tuple[int, ...]) -> float:
    return sum(padding_of(shares, start, end) for start, end in zip((0, *buckets), buckets, strict=False))


def brute_force(shares: list[float], *, block_tokens: int, most: int) -> float:
    smaller = range(block_tokens, len(shares), block_tokens)
    chosen = [(*each, len(shares)) for number in range(most) for each in combinations(smaller, number)]
    return min(padding(shares, each) for each in chosen)


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_pads_less(seed: int):
    rng = random.Random(seed)
    chunk, block, most = rng.choice([(32, 4, 3), (64, 8, 4), (48, 16, 2), (16, 16, 4)])
    weights = [rng.random() ** 4 for _ in range(chunk)]
    shares = [weight / sum(weights) for weight in weights]
    found = buckets_of(shares, block_tokens=block, most=most)
    assert found[-1] == chunk
    assert len(found) <= most
    assert all(each % block == 0 for each in found)
    assert padding(shares, found) == pytest.approx(brute_force(shares, block_tokens=block, most=most))


def test_buckets_follow_the_workload():
    short = last_pieces(Workload(input_tokens=40, output_tokens=8, requests_per_s=1.0), chunk=128, longest=512)
    assert sum(short) == pytest.approx(1)
    found = buckets_of(short, block_tokens=16)
    assert found[0] < 40 < found[1] < 80
    assert padded_share(short, found) < 0.5 * padded_share(short, (128,))
    unknown = last_pieces(None, chunk=128, longest=512)
    assert buckets_of(unknown, block_tokens=16) == (32, 64, 96, 128)
    assert len(found) <= MOST


def test_what_nobody_needs_is_no_shape():
    only = [0.0] * 63 + [1.0]
    assert buckets_of(only, block_tokens=16) == (64,)
