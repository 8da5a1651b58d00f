"""Seconds that an op takes on one device: `t0 + max(flops / (e_c · peak), bytes / (e_m · bandwidth))`.

A plain roofline is 39 % off (median of 35,000 public H100 GEMMs), this law 8 %. An op's work (FLOPs, bytes) follows from its
line and its sizes on one device; what a device makes of it from constants.toml.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..ir.facts import bytes_moved, flops, head_dims, summed_dims
from ..ir.ops import Op
from ..ir.types import DType
from .constants import DeviceConstants
from .products import second_products
from .sharding import Degrees, local_extent, shard
from .software import OURS, Software

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

NARROW = ("fp8", "mxfp8", "nvfp4")


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
        narrow = precision in NARROW
        values = DType.FP32 if precision == "fp32" else DType.FP16 if precision == "fp16" else DType.BF16
        return cls(values=values, weights=DType.named(precision) if narrow else values, products=precision)


class OpWork(NamedTuple):
    """What one device has to do for an op, whatever the device is."""

    row: TimeClass
    kind: str
    name: str
    group: str
    flops: float
    moved_bytes: float
    scores: float
    """Scores that unfused attention keeps, or logits that the loss reads."""
    tokens: float
    """Keys that a query of attention sees at most."""
    head_size: int
    thinness: float
    """1/M + 1/N + 1/K of a product [M, K] x [K, N]; 0 for other ops."""
    factors: float = 0.0
    """Numbers that the three products of a matmul, forward and backward, read: each twice."""
    second: float = 0.0
    """Share of a product that is computed again where every second one of a layer is."""


def law_s(*, launch_s: float, flops: float, flops_per_s: float, moved_bytes: float, bytes_per_s: float) -> float:
    """t0 + max(flops/rate, bytes/bandwidth)."""
    return launch_s + max(flops / flops_per_s, moved_bytes / bytes_per_s)


def work_of(op: Op, free: Mapping[str, float], formats: Formats) -> OpWork:
    """The work of a local op (sizes already those of one device)."""
    scores, tokens, head_size = 0.0, 0.0, 0
    if op.group == "attention":
        tokens, head_size = min(free["S"], op.attrs.get("window") or free["S"]), op.sizes[head_dims(op)[0]]
        scores = free["B"] * op.sizes["H"] * free["T"] * free["S"]
    elif op.group == "loss":
        scores = free["B"] * free["T"] * op.sizes["V"]
    row = "head and loss" if op.name == "head" else CLASS_OF_GROUP.get(op.group, "")
    moved = bytes_moved(op, free, values=formats.values, weights=formats.weights)
    factors = _factors(op, free) if op.group == "matmul" else 0.0
    return OpWork(
        row, op.kind, op.name, op.group, flops(op, free), moved, scores, tokens, head_size, _thinness(op, free), factors
    )


def _factors(op: Op, free: Mapping[str, float]) -> float:
    """Input, weight, and the gradient of the output."""
    sizes = {**op.sizes, **free}
    return float(sum(term.size(sizes) for term in (*op.line.inputs, op.line.output)))


def _thinness(op: Op, free: Mapping[str, float]) -> float:
    """Short sides of a product: tiles and waves that are not full. Experts each have their share of the tokens."""
    if op.group != "matmul" and op.kind != "linear_cross_entropy":
        return 0.0
    sizes = {**op.sizes, **free}
    weight = op.line.inputs[len(op.inputs)]
    summed = math.prod(sizes[dim] for dim in summed_dims(op)) if op.group == "matmul" else sizes["D"]
    whole = weight.size(sizes)
    experts = sizes["E"] if op.kind.startswith("expert") else 1  # a router's outputs are experts too
    width = whole / experts / summed
    rows = sizes["B"] * sizes["T"] * (sizes.get("X", 1) if experts > 1 else 1) / experts
    return 1 / max(rows, 1.0) + 1 / max(width, 1.0) + 1 / summed


def attention_share(constants: DeviceConstants, *, tokens: float, head_size: int, kernel: str | None = None) -> float:
    """Share of the bf16 peak that flash attention reaches: e · s/(s + s½) · d/(d + d½)."""
    by_length = tokens / (tokens + constants.attention_half_tokens)
    tends_to = constants.flash2 if kernel == "flash2" else constants.flash
    return tends_to * by_length * head_size / (head_size + constants.attention_half_head)


def time_of(work: OpWork, *, machine: Machine, formats: Formats, software: Software = OURS) -> OpTime:
    """Seconds of an op's work."""
    constants, group = machine.constants, work.group
    if group in ("input", "view"):
        return OpTime(0.0, 0.0)
    if group == "attention":
        if work.kind == "eager_attention":
            return _unfused_attention(work, machine=machine, formats=formats)
        share = attention_share(constants, tokens=work.tokens, head_size=work.head_size, kernel=software.attention)
        rate = machine.peak("bf16") * share * machine.power_factor
        bandwidth = machine.memory_bytes_per_s * constants.memory
        forward = max(work.flops / rate, work.moved_bytes / bandwidth)
        launch = constants.launch_s
        return OpTime(launch + forward, launch + forward * constants.attention_backward)
    if group == "matmul" or work.kind == "linear_cross_entropy":
        return _matmul(work, machine=machine, formats=formats, software=software)
    bandwidth = machine.memory_bytes_per_s * constants.memory
    if group == "loss":
        forward = constants.logit_bytes / 3 * work.scores / bandwidth
    else:
        more = constants.software[software.kind].pointwise if group in ("norm", "pointwise") else 1.0
        forward = constants.launch_s + more * work.moved_bytes / bandwidth
    return OpTime(forward, 2 * forward)


def _unfused_attention(work: OpWork, *, machine: Machine, formats: Formats) -> OpTime:
    """Two batched products over all keys, masked ones too, and a softmax that reads and writes every score."""
    constants = machine.constants
    precision = "fp16" if formats.products == "fp16" else "bf16"
    rate = machine.peak(precision) * constants.product_share(precision) * constants.unfused_matmul_share
    whole = 4.0 * work.scores * work.head_size  # two products over all keys
    products = whole / rate * (constants.misaligned if work.head_size % 8 else 1.0)
    softmax = (work.moved_bytes + constants.unfused_score_bytes * work.scores) / (
        machine.memory_bytes_per_s * constants.memory
    )
    forward = 3 * constants.launch_s + products + softmax
    return OpTime(forward, 2 * forward)


def _matmul(work: OpWork, *, machine: Machine, formats: Formats, software: Software) -> OpTime:
    """Backward is two products of the forward's size: one for values, one for weights. The head stays in bf16."""
    constants = machine.constants
    is_head = work.row == "head and loss"
    precision = "bf16" if is_head and formats.products in NARROW else formats.products
    share = constants.product_share(precision) * software.efficiency * machine.power_factor
    amount = work.flops
    if work.kind.startswith("expert"):
        share *= constants.expert_share
        amount *= software.expert_load
    forward = law_s(
        launch_s=constants.launch_s,
        flops=amount,
        flops_per_s=machine.peak(precision) * share / (1 + constants.half_side * work.thinness),
        moved_bytes=work.moved_bytes,
        bytes_per_s=machine.memory_bytes_per_s * constants.matmul_memory,
    )
    if software.cast_bytes and not is_head:  # of each factor twice: a third of it forward
        casts = software.cast_bytes * 2 / 3 * work.factors
        forward += casts / (machine.memory_bytes_per_s * constants.memory)
    if work.kind == "linear_cross_entropy":  # a third of what forward and backward touch
        forward += constants.logit_bytes / 3 * work.scores / (machine.memory_bytes_per_s * constants.memory)
    return OpTime(forward, 2 * forward)


def op_time(
    op: Op, free: Mapping[str, float], *, machine: Machine, formats: Formats, software: Software = OURS
) -> OpTime:
    """Seconds of a local op (sizes already those of one device)."""
    return time_of(work_of(op, free, formats), machine=machine, formats=formats, software=software)


@dataclass(frozen=True)
class BlockTime:
    """Seconds of one layer and one micro-batch on one device."""

    forward_s: float
    backward_s: float
    again: Mapping[str, float]
    """Forward seconds of the parts that a program may compute again (software.py)."""
    by_class: Mapping[TimeClass, float]
    """Forward and backward together, by row of the report."""

    @property
    def attention_forward_s(self) -> float:
        """Forward of attention with its input projections."""
        return self.again["attention"]

    def again_s(self, parts: Iterable[str]) -> float:
        """Forward seconds of parts that are computed again; a part within another counts once."""
        parts = tuple(parts)
        if "everything" in parts:
            return self.forward_s
        inside = {"core_attention"} if "attention" in parts else set[str]()
        inside |= {"activations"} if "mlp" in parts else set[str]()
        return sum(self.again[part] for part in parts if part not in inside)


PARTS: tuple[str, ...] = (
    "attention",
    "core_attention",
    "mlp",
    "norms",
    "activations",
    "half_of_products",
    "half_of_layers",
    "nothing",
    "to_last_product",
)


def parts_of(work: OpWork) -> tuple[tuple[str, float], ...]:
    """The parts that computing an op again belongs to, each with the share of the op."""
    if not work.row:
        return ()
    parts: list[tuple[str, float]] = [("half_of_layers", 0.5)]
    is_attention = work.name == "attn" or (work.name.startswith("attn.") and work.name != "attn.out")
    if is_attention:
        parts.append(("attention", 1.0))
    if work.group == "attention":
        parts.append(("core_attention", 1.0))
    if work.name.startswith("mlp") and "down" not in work.name and work.group in ("matmul", "pointwise"):
        parts.append(("mlp", 1.0))
    is_activation = work.group == "pointwise" and work.name.startswith("mlp")
    if is_activation:
        parts.append(("activations", 1.0))
    elif work.group in ("norm", "pointwise"):  # with rotations and residual sums, as memory.py has it
        parts.append(("norms", 1.0))
    if work.second:
        parts.append(("half_of_products", work.second))
    return tuple(parts)


def block_works(
    ops: Iterable[Op], degrees: Degrees, *, batch: float, tokens: int, formats: Formats
) -> tuple[OpWork, ...]:
    """The work of one device in each op of a block, or of the trunk."""
    ops = tuple(ops)
    second = second_products(ops)
    works = (work_of(shard(op, degrees), local_extent(op, degrees, batch=batch, tokens=tokens), formats) for op in ops)
    return tuple(
        work._replace(second=second[op.id]) if op.id in second else work for op, work in zip(ops, works, strict=True)
    )


def _last_needed(works: tuple[OpWork, ...]) -> int:
    """The last product of a layer: its input is kept for the backward pass, its output is not (outputs of experts are)."""
    products = [index for index, work in enumerate(works) if work.group == "matmul"]
    has_experts = any(work.kind.startswith("expert") for work in works)
    return products[-1] if products and not has_experts else len(works)


def works_of_batch(one: tuple[OpWork, ...], two: tuple[OpWork, ...], *, batch: float) -> tuple[OpWork, ...]:
    """The works of a batch from those of one and of two sequences: all grows in proportion, but weights are read once.

    Rows of a product grow, too, so its thinness falls to that of its other sides.
    """
    more = batch - 1
    return tuple(
        first._replace(
            flops=first.flops + more * (second.flops - first.flops),
            moved_bytes=first.moved_bytes + more * (second.moved_bytes - first.moved_bytes),
            scores=first.scores + more * (second.scores - first.scores),
            factors=first.factors + more * (second.factors - first.factors),
            thinness=first.thinness - 2 * (first.thinness - second.thinness) * more / batch,
        )
        for first, second in zip(one, two, strict=True)
    )


def block_time_of(
    works: Iterable[OpWork], *, machine: Machine, formats: Formats, software: Software = OURS
) -> BlockTime:
    """Sum over the works of a block."""
    forward = backward = 0.0
    by_class: dict[TimeClass, float] = {}
    again: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    works = tuple(works)
    last = _last_needed(works)
    for index, work in enumerate(works):
        time = time_of(work, machine=machine, formats=formats, software=software)
        forward += time.forward_s
        backward += time.backward_s
        for part, share in parts_of(work):
            again[part] += share * time.forward_s
        if index < last:
            again["to_last_product"] += time.forward_s
        if work.row:
            by_class[work.row] = by_class.get(work.row, 0.0) + time.forward_s + time.backward_s
    return BlockTime(forward_s=forward, backward_s=backward, again=again, by_class=by_class)


def block_time(
    ops: Iterable[Op],
    degrees: Degrees,
    *,
    batch: float,
    tokens: int,
    machine: Machine,
    formats: Formats,
    software: Software = OURS,
) -> BlockTime:
    """Sum over the ops of a block, or of the trunk."""
    works = block_works(ops, degrees, batch=batch, tokens=tokens, formats=formats)
    return block_time_of(works, machine=machine, formats=formats, software=software)


def optimizer_s(parameters: float, *, states: StateBytes, machine: Machine) -> float:
    """Read and write weights and optimizer state, read the gradient: bound by memory."""
    moved = parameters * (2 * (states.weights + states.optimizer) + states.gradients)
    return moved / (machine.memory_bytes_per_s * machine.constants.memory)
