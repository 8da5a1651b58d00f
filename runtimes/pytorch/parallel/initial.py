"""Initial weights that depend on the seed and on nothing of the layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from .cuts import Piece

_ROWS = 256
"""Rows that are drawn together: a rank draws those blocks of a matrix of which it holds something."""


def fill_normal(pieces: Iterable[Piece], *, std: float, seed: int) -> None:
    """Fill a matrix' pieces with its part of the whole matrix, drawn from a normal distribution."""
    for piece in flat(pieces):
        first, last = piece.offset[0], piece.offset[0] + piece.tensor.shape[0]
        others = tuple(
            slice(start, start + size) for start, size in zip(piece.offset[1:], piece.tensor.shape[1:], strict=True)
        )
        for block in range(first // _ROWS, -(-last // _ROWS)):
            rows = _block(piece, block, std=std, seed=seed)
            start, stop = max(first, block * _ROWS), min(last, (block + 1) * _ROWS)
            piece.tensor[start - first : stop - first] = rows[
                (slice(start - block * _ROWS, stop - block * _ROWS), *others)
            ]


def flat(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """A stack of matrices, one an expert, as one piece for each: `<name>.<expert>`."""
    for piece in pieces:
        if piece.tensor.dim() < 3:
            yield piece
            continue
        part = replace(piece.part, whole=piece.part.whole[1:])
        for number, matrix in enumerate(piece.tensor, start=piece.offset[0]):
            yield replace(piece, name=f"{piece.name}.{number}", part=part, offset=piece.offset[1:], tensor=matrix)


def _block(piece: Piece, block: int, *, std: float, seed: int) -> torch.Tensor:
    """A run of whole rows, from a generator that its name and number seed."""
    digest = hashlib.sha256(f"{seed}/{piece.name}/{block}".encode()).digest()
    device = piece.tensor.device
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    num_rows = min(_ROWS, piece.part.whole[0] - block * _ROWS)
    shape = (num_rows, *piece.part.whole[1:])
    return torch.randn(shape, generator=generator, device=device, dtype=piece.tensor.dtype).mul_(std)
