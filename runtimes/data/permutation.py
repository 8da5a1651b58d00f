"""A shuffle that needs no memory: position -> sample index by a keyed bijection.

A Feistel network permutes [0, 4**k) for the smallest 4**k >= size; an index that falls outside is sent through again
until it lands inside (cycle walking: still a bijection, fewer than four passes on average). Any position can be
computed alone, so every rank computes only its own, and resuming is free. Six rounds of a 64-bit mixer are far
more than an order of training samples needs; this is no cryptography.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

NUM_ROUNDS = 6


class Permutation:
    """A bijection of [0, size), decided by `seed` and `epoch`."""

    def __init__(self, size: int, *, seed: int, epoch: int) -> None:
        self.size = size
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        digest = blake2b(f"{seed}/{epoch}".encode(), digest_size=8 * NUM_ROUNDS).digest()
        self._keys = np.frombuffer(digest, "<u8").astype(np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """int64 positions, each in [0, size) -> int64 indices of the same shape."""
        indices = self._scramble(positions.astype(np.uint64))
        while (outside := indices >= self.size).any():
            indices[outside] = self._scramble(indices[outside])
        return indices.astype(np.int64)

    def _scramble(self, value: np.ndarray) -> np.ndarray:
        left, right = value >> self._half_bits, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mixed(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
