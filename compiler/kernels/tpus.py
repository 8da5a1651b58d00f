"""TPUs that Pallas kernels are compiled for: what one kernel may use of each, and sizes of blocks that fit.

A kernel's blocks, what it keeps between them and what its registers do not hold are in VMEM, the memory beside the compute units. The
compiler gives a kernel a share of it unless told otherwise, and refuses what takes more; the shares are those that libtpu names when it
refuses. `llmc verify --kernels` holds each choice to what the compiler reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..topology.slices import generation_of

if TYPE_CHECKING:
    from ...spec.hardware import Accelerator

_MIB = 1 << 20
LANES = 128
"""Numbers of a vector register's row: blocks of columns are multiples of it, or whole rows."""
_SUBLANES = 8
"""Rows of a vector register."""
_SHARE = 0.8
"""Of a kernel's VMEM, what blocks are chosen to fill: the rest is the compiler's own."""
_FP32 = 4


@dataclass(frozen=True)
class Tpu:
    target: str
    """As the compiler calls the chip: `v5p`."""
    topology: str
    """The smallest slice of it, for which kernels are compiled."""
    vmem_bytes: int
    """Of a kernel."""
    cores: int = 1
    """That divide the first dim of a kernel's grid among them, where its steps are independent."""


TPUS = {
    "v4": Tpu("v4", "v4:2x2x1", 16 * _MIB, cores=2),
    "v5e": Tpu("v5e", "v5e:2x2", 16 * _MIB),
    "v5p": Tpu("v5p", "v5p:2x2x1", 16 * _MIB, cores=2),
    "v6e": Tpu("v6e", "v6e:2x2", 32 * _MIB),
}


def tpu_name(accelerator: Accelerator) -> str:
    """The chip as generated files name it."""
    tpu = tpu_of(accelerator)
    return "" if tpu is None else f"{accelerator.name or accelerator.like or 'TPUs'} ({tpu.target})"


def tpu_of(accelerator: Accelerator) -> Tpu | None:
    """For TPUs that nothing is known of, blocks that fit into every one above; None for other devices."""
    if accelerator.kind != "tpu":
        return None
    generation = generation_of(accelerator)
    return TPUS.get(generation.compiler if generation is not None else "", TPUS["v5e"])


@dataclass(frozen=True)
class TokenBlock:
    """Tokens that a kernel works on at a time."""

    tokens: int
    comment: tuple[str, ...]


def token_block(width: int, *, blocks: int, wide: int, number_bytes: int, tpu: Tpu) -> TokenBlock:
    """Of `width` numbers a token: `blocks` of them come and go, `wide` are worked on in fp32."""
    tokens = 512
    while tokens > 16 and _vmem(tokens * width, blocks, wide, number_bytes) > _SHARE * tpu.vmem_bytes:
        tokens //= 2
    taken = _vmem(tokens * width, blocks, wide, number_bytes) / _MIB
    return TokenBlock(
        tokens=tokens,
        comment=(
            f"{blocks} blocks of so many tokens come and go, each twice so that one travels while the other is worked on; with what is fp32",
            f"within the kernel they are about {taken:.1f} of the {tpu.vmem_bytes // _MIB} MiB of VMEM that a kernel has.",
        ),
    )


def _vmem(numbers: int, blocks: int, wide: int, number_bytes: int) -> float:
    return numbers * (2 * blocks * number_bytes + wide * _FP32)


@dataclass(frozen=True)
class TpuAttentionTile:
    """Queries by keys whose scores exist at a time."""

    name: str
    queries: int
    keys: int
    comment: tuple[str, ...]


@dataclass(frozen=True)
class TpuAttentionTiles:
    forward: TpuAttentionTile
    keys: TpuAttentionTile
    queries: TpuAttentionTile


_SIZES = ((512, 1024), (512, 512), (256, 512), (256, 256), (128, 256), (128, 128))
"""(Rows whose sums stay, rows that stream by), the best first: the more rows at a time, the less often the others are read."""
_WIDE_SCORES = {"FORWARD": 3, "KEYS": 5, "QUERIES": 5}
"""Numbers in fp32 a score that exist at a time: scores, weights, their gradients, and what is made of them for products."""
_WHAT = {"FORWARD": "Forward", "KEYS": "Gradients of keys and values", "QUERIES": "Gradients of queries"}


def tpu_attention_tiles(head_dim: int, *, longest: int, number_bytes: int, tpu: Tpu) -> TpuAttentionTiles:
    width, most = -(-head_dim // LANES) * LANES, -(-longest // LANES) * LANES  # blocks are whole vectors
    forward, keys, queries = (_attention_tile(name, width, most, number_bytes, tpu) for name in _WHAT)
    return TpuAttentionTiles(forward=forward, keys=keys, queries=queries)


def _attention_tile(name: str, width: int, most: int, number_bytes: int, tpu: Tpu) -> TpuAttentionTile:
    for own, others in _SIZES:
        own, others = min(own, most), min(others, most)
        taken = _attention_vmem(name, own, others, width, number_bytes)
        if taken <= _SHARE * tpu.vmem_bytes:
            queries, keys = (others, own) if name == "KEYS" else (own, others)
            return TpuAttentionTile(
                name=name, queries=queries, keys=keys, comment=(_comment(name, queries, keys, taken, tpu),)
            )
    raise AssertionError(f"no tile for heads of {width} on {tpu.target}")


def _attention_vmem(name: str, own: int, others: int, width: int, number_bytes: int) -> int:
    """Blocks that come and go are there twice: two of others' rows, and two of own rows, three for gradients and four for two of them."""
    own_blocks, sums = {"FORWARD": (2, 1), "KEYS": (4, 2), "QUERIES": (3, 1)}[name]
    blocks = 2 * number_bytes * width * (own_blocks * own + 2 * others)
    return blocks + _FP32 * (sums * own * width + _WIDE_SCORES[name] * own * others)


def _comment(name: str, queries: int, keys: int, taken: int, tpu: Tpu) -> str:
    return (
        f"{_WHAT[name]}: scores of {queries} queries by {keys} keys, and their rows, are about {taken / _MIB:.1f} of the"
        f" {tpu.vmem_bytes // _MIB} MiB of VMEM that a kernel has."
    )


@dataclass(frozen=True)
class TpuPages:
    """Blocks of the KV cache that are fetched together, for all key/value heads of a device."""

    block_tokens: int
    pages: int
    cores: int
    comment: tuple[str, ...]


_MOST_KEYS = 512
"""More at a time spare little: what a fetch waits for is a small part of it by then."""


def tpu_pages(
    *, kv_heads: int, group: int, head_dim: int, block_tokens: int, longest: int, number_bytes: int, tpu: Tpu
) -> TpuPages:
    """The most that fit: keys and values of two fetches, of which one travels while the other is worked on, and scores in fp32."""
    width, rows = -(-head_dim // LANES) * LANES, -(-group // _SUBLANES) * _SUBLANES
    a_key = kv_heads * (4 * number_bytes * width + _WIDE_SCORES["FORWARD"] * _FP32 * rows)
    keys = min(_MOST_KEYS, longest)
    while keys > block_tokens and keys * a_key > _SHARE * tpu.vmem_bytes:
        keys //= 2
    pages = max(1, keys // block_tokens)
    taken = pages * block_tokens * a_key / _MIB
    return TpuPages(
        block_tokens=block_tokens,
        pages=pages,
        cores=tpu.cores,
        comment=(
            f"{pages * block_tokens} keys and values of {kv_heads} heads, twice so that one fetch travels while the other is worked on, and their",
            f"scores are about {taken:.1f} of the {tpu.vmem_bytes // _MIB} MiB of VMEM that a kernel has.",
        ),
    )
