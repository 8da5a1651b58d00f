"""Seconds that an op takes on one device: `t0 + max(flops / (e_c · peak), bytes / (e_m · bandwidth))`.

A plain roofline is 39 % off (median of 35,000 public H100 GEMMs), this law 8 %. Constants and their origin: constants.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.facts import bytes_moved, flops, head_dims
from ..ir.ops import Op
from ..ir.types import DType
from .constants import EXPERT_SHARE, DeviceConstants
from .sharding import Degrees, local_extent, shard

if TYPE_CHECKING:
    from ..topology.machine import Machine
    from .memory import StateBytes

TimeClass = str
"""matmul, attention, norms and activations, experts' routing, embedding, loss: the rows of a report."""

CLASS_OF_GROUP: dict[str, TimeClass] = {
    "matmul": "matmul",
    "attention": "attention",
    "norm": "norms, pointwise",
    "pointwise": "norms, pointwise",
    "routing": "routing",
    "embedding": "embedding",
    "loss": "head and loss",
}


@dataclass(frozen=True)
class OpTime:
    """Seconds of one execution, forward and backward."""

    forward_s: float
    backward_s: float


@dataclass(frozen=True)
class Formats:
    """Number formats of a program: what values travel in, what products are computed in."""

    values: DType
    weights: DType
    products: str

    @classmethod
    def of(cls, precision: str) -> Formats:
        """fp8 and fp4 recipes keep activations in bf16 between products."""
        narrow = precision in ("fp8", "mxfp8", "nvfp4")
        values = DType.FP32 if precision == "fp32" else DType.FP16 if precision == "fp16" else DType.BF16
        return cls(values=values, weights=DType.named(precision) if narrow else values, products=precision)


def law_s(*, launch_s: float, flops: float, flops_per_s: float, moved_bytes: float, bytes_per_s: float) -> float:
    """t0 + max(flops/rate, bytes/bandwidth)."""
    return launch_s + max(flops / flops_per_s, moved_bytes / bytes_per_s)


def attention_share(constants: DeviceConstants, *, tokens: float, head_size: int) -> float:
    """Share of the bf16 peak that flash attention reaches: e · s/(s + s½) · d/(d + d½)."""
    by_length = tokens / (tokens + constants.attention_half_tokens)
    return constants.attention_share * by_length * head_size / (head_size + constants.attention_half_head)


def op_time(op: Op, free: Mapping[str, float], *, machine: Machine, formats: Formats) -> OpTime:
    """Seconds of a local op (sizes already those of one device)."""
    constants = machine.constants
    if op.group in ("input", "view"):
        return OpTime(0.0, 0.0)
    work = flops(op, free)
    moved = bytes_moved(op, free, values=formats.values, weights=formats.weights)
    if op.group == "attention":
        share = attention_share(
            constants, tokens=min(free["S"], op.attrs.get("window") or free["S"]), head_size=_head_size(op)
        )
        rate = machine.peak("bf16") * share
        bandwidth = machine.memory_bytes_per_s * constants.memory_share
        launch = constants.matmul.launch_s
        if op.kind == "eager_attention":
            moved += 6.0 * free["B"] * op.sizes["H"] * free["T"] * free["S"]  # unfused softmax: 6 bytes a score
        forward = law_s(launch_s=launch, flops=work, flops_per_s=rate, moved_bytes=moved, bytes_per_s=bandwidth)
        return OpTime(forward, launch + (forward - launch) * constants.attention_backward)
    if op.group == "matmul" or op.kind == "linear_cross_entropy":
        return _matmul_time(op, free, work=work, moved=moved, machine=machine, formats=formats)
    bandwidth = machine.memory_bytes_per_s * constants.memory_share
    forward = constants.matmul.launch_s + moved / bandwidth
    return OpTime(forward, 2 * forward)


def _matmul_time(
    op: Op, free: Mapping[str, float], *, work: float, moved: float, machine: Machine, formats: Formats
) -> OpTime:
    """Backward is two products of the forward's size: one for values, one for weights."""
    constants = machine.constants
    is_narrow = formats.products in ("fp8", "mxfp8", "nvfp4") and op.group == "matmul"
    law = constants.matmul_fp8 if is_narrow else constants.matmul
    precision = formats.products if is_narrow or formats.products == "fp32" else "bf16"
    share = law.compute_share * (EXPERT_SHARE if op.kind.startswith("expert") else 1.0)
    forward = law_s(
        launch_s=law.launch_s,
        flops=work,
        flops_per_s=machine.peak(precision) * share,
        moved_bytes=moved,
        bytes_per_s=machine.memory_bytes_per_s * law.memory_share,
    )
    if (
        op.kind == "linear_cross_entropy"
    ):  # a third of the 14 bytes a logit that forward and backward touch (`training`)
        scores = free["B"] * free["T"] * op.sizes["V"]
        forward += 14 / 3 * scores / (machine.memory_bytes_per_s * constants.memory_share)
    return OpTime(forward, 2 * forward)


def _head_size(op: Op) -> int:
    return op.sizes[head_dims(op)[0]]


@dataclass(frozen=True)
class BlockTime:
    """Seconds of one layer and one micro-batch on one device."""

    forward_s: float
    backward_s: float
    attention_forward_s: float
    """Forward of attention with its input projections: what selective recompute runs again."""
    by_class: Mapping[TimeClass, float]
    """Forward and backward together, by row of the report."""


def block_time(
    ops: Iterable[Op], degrees: Degrees, *, batch: int, tokens: int, machine: Machine, formats: Formats
) -> BlockTime:
    """Sum over the ops of a block, or of the trunk."""
    forward = backward = again = 0.0
    by_class: dict[TimeClass, float] = {}
    for op in ops:
        free = local_extent(op, degrees, batch=batch, tokens=tokens)
        time = op_time(shard(op, degrees), free, machine=machine, formats=formats)
        forward += time.forward_s
        backward += time.backward_s
        if (op.name.startswith("attn.") and op.name != "attn.out") or op.name == "attn":
            again += time.forward_s
        if op.group in CLASS_OF_GROUP:
            row = "head and loss" if op.name == "head" else CLASS_OF_GROUP[op.group]
            by_class[row] = by_class.get(row, 0.0) + time.forward_s + time.backward_s
    return BlockTime(forward_s=forward, backward_s=backward, attention_forward_s=again, by_class=by_class)


def optimizer_s(parameters: float, *, states: StateBytes, machine: Machine) -> float:
    """Read and write weights and optimizer state, read the gradient: bound by memory."""
    moved = parameters * (2 * (states.weights + states.optimizer) + states.gradients)
    return moved / (machine.memory_bytes_per_s * machine.constants.memory_share)
