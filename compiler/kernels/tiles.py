"""Sizes of what a GPU program works on at a time: from a chip's table and the shape, by rules that compilers' reports confirmed.

`llmc verify --kernels` holds each choice to the compiler's report: nothing spills, and shared memory fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .chips import Chip


def power_of_two(size: int) -> int:
    """The smallest that is not below `size`."""
    return 1 << (size - 1).bit_length()


_NPU_BLOCK = 4096
_NPU_REASON = "numbers at a time: fp32 and both halves of what travels ahead fit into the unified buffer"

MAX_ROW = 8192
"""Numbers of a row that the registers of one block hold beside the other rows that a norm needs: 16,384 spilled on sm_90 and sm_100."""


@dataclass(frozen=True)
class RowTile:
    """A program works on rows, or on blocks of a row."""

    block: int
    num_warps: int | None
    """None on NPUs: a vector core is one thread, and triton-ascend warns of what it cannot tune."""
    block_reason: str
    warps_reason: str
    num_programs: int = 0
    programs_reason: str = ""

    def blocks_of(self, size: int) -> int:
        return -(-size // self.block)


def whole_row(size: int, chip: Chip) -> RowTile:
    """A row at once, so that it is read once: norms."""
    block = power_of_two(size)
    if chip.is_npu:
        return RowTile(
            block=block,
            num_warps=None,
            block_reason="a row at once, so that memory is read once",
            warps_reason="",
            num_programs=chip.units,
            programs_reason=f"one for each of the {chip.units} vector cores: what they add up is summed in the end",
        )
    warps = min(max(block // (16 * chip.warp), 1), 512 // chip.warp)  # more threads would have fewer registers each
    return RowTile(
        block=block,
        num_warps=warps,
        block_reason="a row at once, so that memory is read once",
        warps_reason=f"{max(1, block // (warps * chip.warp))} numbers of the row a thread",
        num_programs=2 * chip.units,
        programs_reason=f"two for each of the {chip.units} processors of the chip: what they add up is summed in the end",
    )


def stream(chip: Chip, *, block: int = 1024) -> RowTile:
    """Pointwise work: 16 bytes of bf16 a thread and load; on NPUs as much as is to be in flight."""
    if chip.is_npu:
        return RowTile(_NPU_BLOCK, None, _NPU_REASON, "")
    warps = max(1, block // (8 * chip.warp))
    return RowTile(
        block=block,
        num_warps=warps,
        block_reason="numbers of a program",
        warps_reason="8 numbers a thread, which a load of 16 bytes brings in bf16",
    )


def long_row(size: int, chip: Chip) -> RowTile:
    """A row in pieces, for rows that no register file holds: logits."""
    if chip.is_npu:
        return RowTile(min(power_of_two(size), _NPU_BLOCK), None, _NPU_REASON, "")
    block = min(power_of_two(size), 4096)
    warps = max(1, block // (16 * chip.warp))
    return RowTile(
        block=block,
        num_warps=warps,
        block_reason="of a row at a time; it is too long to be held at once",
        warps_reason=f"{max(1, block // (warps * chip.warp))} numbers a thread",
    )


@dataclass(frozen=True)
class AttentionTile:
    """Queries by keys whose scores exist at a time."""

    name: str
    queries: int
    keys: int
    num_warps: int
    num_stages: int
    comment: tuple[str, ...]


@dataclass(frozen=True)
class AttentionTiles:
    forward: AttentionTile
    keys: AttentionTile
    queries: AttentionTile
    rotate_heads: int
    rotate_blocks: int
    rotate_warps: int
    copy_block: int
    copy_blocks: int
    copy_warps: int
    dot_tokens: int
    dot_warps: int


def attention_tiles(
    *, heads: int, head_dim: int, pairs: int, copied: int, number_bytes: int, chip: Chip
) -> AttentionTiles:
    """`heads` that are rotated, `pairs` of each; `copied` numbers of a token that are not."""
    width = power_of_two(max(head_dim, 16))
    at_once = max(1, min(power_of_two(heads), 2048 // power_of_two(max(pairs, 1))))
    copy_block = min(1024, power_of_two(max(copied, 1)))
    dot_tokens = max(16, 8192 // width)
    return AttentionTiles(
        forward=_tile("FORWARD", width, number_bytes, chip),
        keys=_tile("KEYS", width, number_bytes, chip),
        queries=_tile("QUERIES", width, number_bytes, chip),
        rotate_heads=at_once,
        rotate_blocks=-(-heads // at_once),
        rotate_warps=max(1, min(4, at_once * pairs // (4 * chip.warp))),
        copy_block=copy_block,
        copy_blocks=-(-copied // copy_block),
        copy_warps=max(1, copy_block // (8 * chip.warp)),
        dot_tokens=dot_tokens,
        dot_warps=max(1, 128 // chip.warp),
    )


_SIZES = {
    "FORWARD": ((128, 64, 8), (64, 64, 8), (64, 32, 8), (32, 32, 4), (16, 16, 4)),
    "KEYS": ((64, 64, 8), (32, 64, 8), (32, 32, 8), (16, 32, 8), (16, 16, 4)),
    "QUERIES": ((128, 64, 8), (64, 64, 8), (64, 32, 8), (32, 32, 4), (16, 16, 4)),
}
"""Pass -> (queries, keys, warps of 32 threads), the best first: more rows at a time read the other side less often."""
_SIZES_AMD = {
    "FORWARD": ((64, 64, 8), (64, 32, 8), (32, 32, 8), (16, 16, 4)),
    "KEYS": ((32, 64, 8), (32, 32, 8), (16, 32, 8), (16, 16, 4)),
    "QUERIES": ((64, 64, 8), (64, 32, 8), (32, 32, 8), (16, 16, 4)),
}
_STAGES = {"FORWARD": 3, "KEYS": 2, "QUERIES": 2}
_STAGES_AMD = {"FORWARD": 2, "KEYS": 1, "QUERIES": 2}
"""Blocks in flight, at most: on AMD GPUs what is loaded ahead waits in registers."""
_MOST_SUMS = {"FORWARD": 100, "KEYS": 80, "QUERIES": 100}
"""Of a thread, in fp32, beyond which compilers spilled with a cap and a window: the rest is for operands and addresses."""
_WHAT = {
    "FORWARD": "Forward",
    "KEYS": "Gradients of keys and values",
    "QUERIES": "Gradients of queries",
}


def _tile(name: str, width: int, number_bytes: int, chip: Chip) -> AttentionTile:
    """The first that leaves each thread its registers and the block its shared memory, with as many loads ahead as fit."""
    for queries, keys, warps in (_SIZES_AMD if chip.is_amd else _SIZES)[name]:
        held, streamed = (keys, queries) if name == "KEYS" else (queries, keys)
        sums = _sums(name, queries, keys, width) / (warps * 32)
        if sums * number_bytes / 2 > _MOST_SUMS[name]:  # operands of fp32 take registers in place of matrix units'
            continue
        for stages in range((_STAGES_AMD if chip.is_amd else _STAGES)[name], 0, -1):
            shared = _shared(name, held, streamed, queries * keys, width, number_bytes, stages)
            if shared <= chip.shared_bytes:
                return AttentionTile(
                    name=name,
                    queries=queries,
                    keys=keys,
                    num_warps=warps * 32 // chip.warp,
                    num_stages=stages,
                    comment=_comment(name, queries, keys, sums, stages, shared, chip),
                )
    raise AssertionError(f"no tile for heads of {width} on {chip.target}")


def _sums(name: str, queries: int, keys: int, width: int) -> float:
    """fp32 numbers that a block holds all along: sums of products, and scores beside their gradients."""
    if name == "FORWARD":
        return queries * width + queries * keys
    sums = 2 * keys * width if name == "KEYS" else queries * width
    return sums + 2 * queries * keys


def _shared(name: str, held: int, streamed: int, scores: int, width: int, number_bytes: int, stages: int) -> int:
    """Bytes of what matrix units read: one or two blocks that stay, two that stream in ahead, and a block of scores."""
    stays = held * width * (1 if name == "FORWARD" else 2)
    return number_bytes * (stays + 2 * streamed * width * stages + scores)


def _comment(name: str, queries: int, keys: int, sums: float, stages: int, shared: int, chip: Chip) -> tuple[str, ...]:
    ahead = f"{stages - 1} block{'s' if stages > 2 else ''} loaded ahead" if stages > 1 else "nothing loaded ahead"
    return (
        f"{_WHAT[name]}: {queries} queries by {keys} keys are {sums:.0f} sums a thread in registers and, with {ahead}, about",
        f"{shared // 1024} of {chip.shared_bytes // 1024} KiB of shared memory.",
    )
