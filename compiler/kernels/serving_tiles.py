"""Sizes of what the Triton kernels of servers work on at a time, by rules that compilers' reports confirmed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tiles import power_of_two

if TYPE_CHECKING:
    from .chips import Chip


@dataclass(frozen=True)
class ProductTile:
    """Rows of inputs by columns of outputs, and words of a weight's row at a time."""

    name: str
    rows: int
    columns: int
    words: int
    num_warps: int
    num_stages: int
    comment: tuple[str, ...]


@dataclass(frozen=True)
class ProductTiles:
    few: ProductTile
    many: ProductTile


def product_tiles(*, bits: int, number_bytes: int, chip: Chip) -> ProductTiles:
    """`few` rows are bound by the weight's bytes, so many programs read it at once; of `many` rows each code is decoded once for a block."""
    is_wide, words = number_bytes == 4, 16 if bits == 4 else 32
    stages = 1 if chip.is_amd else 3
    few = ProductTile(
        name="FEW",
        rows=16,
        columns=32,
        words=words,
        num_warps=128 // chip.warp,
        num_stages=stages,
        comment=(
            "Up to 16 rows, the fewest that matrix units take: narrow blocks, so that all processors read the weight.",
        ),
    )
    rows, columns = (32, 64) if is_wide else (64, 64)
    many = ProductTile(
        name="MANY",
        rows=rows,
        columns=columns,
        words=16,
        num_warps=256 // chip.warp,
        num_stages=1 if chip.is_amd else 2,
        comment=(f"More rows: {rows} by {columns} are {rows * columns // 256} sums for each of 256 threads.",),
    )
    return ProductTiles(few, many)


@dataclass(frozen=True)
class SplitTile:
    """Of attention of one token a sequence: programs that share its keys, query heads of a key head, keys at a time."""

    splits: int
    queries: int
    keys: int
    num_warps: int
    num_stages: int
    enter_warps: int
    combine_warps: int
    comment: tuple[str, ...]


_MOST_SPLITS = 32
_KEYS = 64


def split_tile(*, kv_heads: int, group: int, head_dim: int, number_bytes: int, chip: Chip) -> SplitTile:
    """As many splits as a single sequence needs to have two programs for each processor."""
    splits = min(_MOST_SPLITS, power_of_two(max(1, 2 * chip.units // kv_heads)))
    width = power_of_two(max(head_dim, 16))
    keys = _KEYS if width * number_bytes <= 512 else _KEYS // 2
    return SplitTile(
        splits=splits,
        queries=power_of_two(max(16, group)),
        keys=keys,
        num_warps=128 // chip.warp,
        num_stages=1 if chip.is_amd else 2,
        enter_warps=1,
        combine_warps=max(1, min(4, splits * width // (32 * chip.warp))),
        comment=(
            f"{splits} splits by {kv_heads} key heads keep the {chip.units} processors busy with one sequence alone; query heads are filled",
            f"up to the {power_of_two(max(16, group))} rows that matrix units take.",
        ),
    )


@dataclass(frozen=True)
class ExpertTile:
    """Rows of one expert by columns of its output, and inputs at a time."""

    name: str
    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int
    comment: str


@dataclass(frozen=True)
class ExpertTiles:
    few: ExpertTile
    many: ExpertTile


def expert_tiles(*, number_bytes: int, chip: Chip) -> ExpertTiles:
    """`few` rows an expert, as running answers have; `many` of prompts."""
    is_wide = number_bytes == 4
    few = ExpertTile("FEW", 16, 64, 64, 128 // chip.warp, 2, "Few rows an expert: the fewest that matrix units take.")
    rows, columns, depth = (32, 64, 32) if is_wide else (64, 128, 32)
    comment = f"More: {rows} by {columns} are {rows * columns // 256} sums for each of 256 threads."
    return ExpertTiles(few, ExpertTile("MANY", rows, columns, depth, 256 // chip.warp, 2, comment))
