"""Seconds of one device's ops in a serving step.

    product    (law · measured ratio) − what a captured graph does not pay
    experts    law over the experts that are touched and their half-empty tiles, of the busiest ranks with ep
    attention  decode: bytes of keys and values; prefill: FLOPs; both times the measured ratio

Laws and ratios: serving_constants.toml and op_tables.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from ..ir.facts import flops, head_dims, summed_dims, touched_experts, visible_pairs
from ..ir.graph import Graph
from ..ir.ops import Op
from ..ir.types import DType
from .collectives import all_gather_s, all_reduce_s
from .communication import num_reductions
from .op_tables import OpTable, measured_all_reduce_s, op_table
from .serving_constants import OURS, OVERLAP, ExpertLaw, ProductLaw, ServeConstants, ServingSoftware
from .sharding import Degrees, shard

if TYPE_CHECKING:
    from ..topology.machine import Machine
    from .serving import EngineShape

CACHE_SCALE_BYTES = 2
"""bf16, of a head of a token whose keys or values are int8."""
INTEGERS = "integers"
"""Products whose activations are rounded to int8 too, among the laws by format."""
LEAST_SHARE = 0.2
"""Of a measured op: no less remains when what captured graphs save is taken off."""


@dataclass(frozen=True)
class BlockOps:
    """What one device computes in a layer."""

    name: str
    count: int
    products: tuple[Op, ...]
    experts: tuple[Op, ...]
    attention: tuple[Op, ...]
    width: int
    """Of the feed-forward's activations, a row."""
    num_reductions: int


class _Work(NamedTuple):
    """A product's work, whatever the constants are: `base` is the law that `ratio` is relative to, None without a table."""

    flops: float
    moved: float
    ratio: float
    base: tuple[float, ...] | None


class ServingOps:
    """The ops of one replica's device."""

    def __init__(self, graph: Graph, machine: Machine, shape: EngineShape, *, kv: DType) -> None:
        self.graph, self.machine, self.shape, self.kv = graph, machine, shape, kv
        self.bandwidth = machine.memory_bytes_per_s
        self.architecture = machine.constants.architecture
        self._dense = Degrees(tp=shape.tp)
        self._routed = Degrees(tp=max(1, shape.tp // shape.ep), ep=shape.ep)
        self._works: dict[tuple[str, int], _Work] = {}
        self._known_sides: dict[str, tuple[float, float]] = {}
        self._attention_works: dict[tuple[str, int, int], float] = {}
        self._priced_by: tuple[ServeConstants, ServingSoftware] | None = None

    def reprice(self, constants: ServeConstants, software: ServingSoftware) -> None:
        if self._priced_by == (constants, software):
            return
        self._priced_by = (constants, software)
        self.constants, self.software = constants, software
        self._layers: dict[tuple[str, int], float] = {}

    # What there is.

    @cached_property
    def has_experts(self) -> bool:
        return any(op.kind.startswith("expert") for op in self.graph.all_ops)

    def shard(self, op: Op) -> Op:
        """Experts are split ep ways by expert and tp/ep ways by width; all else tp ways."""
        return shard(op, self._routed if op.kind.startswith("expert") else self._dense)

    @cached_property
    def blocks(self) -> tuple[BlockOps, ...]:
        return tuple(self._block(block.name) for block in self.graph.blocks)

    def _block(self, name: str) -> BlockOps:
        ops = tuple(self.graph.block_ops(name))
        local = tuple(self.shard(op) for op in ops)
        products = tuple(op for op in local if op.group == "matmul")
        pointwise = (op for op in local if op.group == "pointwise")
        return BlockOps(
            name=name,
            count=self.graph.count(name),
            products=tuple(op for op in products if not op.kind.startswith("expert")),
            experts=tuple(op for op in products if op.kind.startswith("expert")),
            attention=tuple(op for op in ops if op.group == "attention"),
            width=max((op.sizes.get("F", 0) * op.sizes.get("X", 1) for op in pointwise), default=0),
            num_reductions=num_reductions(ops) if self.shape.tp > 1 else 0,
        )

    @cached_property
    def head(self) -> Op:
        return shard(self.graph["head"], self._dense)

    def size_bytes(self, label: str) -> float:
        """Of a weight in that format."""
        kept = self.shape.kept
        return kept.layers / 8 if kept is not None and label == self.shape.weights else DType.named(label).size_bytes

    @property
    def head_bytes(self) -> float:
        """Of a weight of the head."""
        return self.shape.kept.head / 8 if self.shape.kept is not None else 2.0

    def kv_width(self, op: Op) -> int:
        """Elements a token and layer on a device; what has key/value heads is split over tp, a latent is not."""
        return sum(math.prod(sizes) for sizes in self._cached(op))

    def kv_token_bytes(self, op: Op) -> float:
        """The same in bytes; int8 has a scale a head, in keys and in values."""
        scales = sum(math.prod(sizes[:-1]) for sizes in self._cached(op)) if self.kv is DType.INT8 else 0
        return self.kv_width(op) * self.kv.size_bytes + scales * CACHE_SCALE_BYTES

    def _cached(self, op: Op) -> list[list[int]]:
        """Sizes of what a token and layer keep on a device."""
        return [
            [self._local_heads("K") if dim == "K" else self.graph.sizes[dim] for dim in term.split()]
            for term in op.attrs["cached"].split(",")
        ]

    def _local_heads(self, dim: str) -> int:
        """Heads on a device: each of its cores has whole ones."""
        return math.ceil(self.graph.sizes[dim] / (self.shape.tp * self.machine.cores)) * self.machine.cores

    def product_flops(self, tokens: int) -> float:
        """Of a prompt on one device, all layers; in the last one nothing but the last token needs those after attention."""

        def summed(ops: Iterable[Op], tokens: int) -> float:
            return sum(flops(op, {"B": 1, "T": tokens, "S": tokens}) for op in ops)

        whole = sum(block.count * summed((*block.products, *block.experts), tokens) for block in self.blocks)
        last = self._after_attention
        return whole - summed(last, tokens) + summed(last, 1)

    @cached_property
    def _last_block(self) -> BlockOps:
        return next(block for block in self.blocks if block.name == self.graph.order[-1])

    @cached_property
    def _after_attention(self) -> tuple[Op, ...]:
        """Products of the last layer."""
        block, order = self._last_block, [op.id for op in self.graph.block_ops(self._last_block.name)]
        attended = max((order.index(op.id) for op in block.attention), default=len(order))
        return tuple(op for op in (*block.products, *block.experts) if order.index(op.id) > attended)

    # Time.

    def layer_s(self, block: BlockOps, rows: int) -> float:
        """A layer but for its attention, over `rows` tokens of a step."""
        found = self._layers.get((block.name, rows))
        if found is None:
            found = self._layers[block.name, rows] = self._layer_s(block, rows)
        return found

    def _layer_s(self, block: BlockOps, rows: int) -> float:
        constants = self.constants
        total = sum(self.product_s(op, rows) for op in block.products)
        if self.shape.block_scales:
            total += constants.block_scales_s * len(block.products)
        if block.experts:
            total += self._experts_s(block.experts, rows) + self.software.experts_layer_s
        total += self._activations_s(block, rows) + constants.layer_floor_s * self.software.floor_share
        return total + block.num_reductions * self._reduction_s(rows)

    def left_out_s(self, rows: int, wanted: int) -> float:
        """What a step saves whose last layer does the products after attention for `wanted` of its `rows` alone: those with logits."""
        experts = self._last_block.experts
        products = (op for op in self._after_attention if op not in experts)
        saved = sum(self.product_s(op, rows) - self.product_s(op, wanted) for op in products)
        return saved + (self._experts_s(experts, rows) - self._experts_s(experts, wanted) if experts else 0.0)

    def head_s(self, rows: int) -> float:
        return self.product_s(self.head, max(1, rows))

    def ends_s(self, rows: int, wanted: int) -> float:
        """What tp sends beside its layers: the sum of `rows` of the embedding, and the logits of `wanted` of them in bf16.

        Of our programs. For others it is within what was fitted to their published times.
        """
        if self.shape.tp == 1 or self.software.name != OURS:
            return 0.0
        logits_bytes = wanted * self.graph.sizes["V"] * 2.0
        return self._reduction_s(rows) + all_gather_s(logits_bytes, self.machine.group(self.shape.tp))

    def product_s(self, op: Op, rows: int) -> float:
        law, rate, work = *self._law(op), self._work(op, rows)
        if work.base is None:
            speeds = law.compute_share * rate, law.memory_share * self.bandwidth
            return _power_sum(work, law.launch_s, *speeds, overlap=law.overlap)
        launch, compute, memory = work.base
        measured = work.ratio * _power_sum(work, launch, compute * rate, memory * self.bandwidth)
        saved = law.saved_s + (self.software.fused_scales_s if law is not self.constants.products["bf16"] else 0.0)
        return max(measured - saved, LEAST_SHARE * measured)

    def _label(self, op: Op) -> str:
        """The format whose law holds."""
        label = self.shape.weights
        if op.block is None or op.name.endswith("router"):
            return "fp32" if label == "fp32" else "bf16"
        if label == "mxfp4" and self.has_experts and not op.kind.startswith("expert"):
            return "bf16"
        return label

    def _law(self, op: Op) -> tuple[ProductLaw, float]:
        """With its peak. Formats without matrix units of their own (int8, int4) are widened on the way."""
        label, products = self._label(op), self.constants.products
        if self.shape.rounds_activations and label == self.shape.weights and INTEGERS in products:
            read = products.get(label, products["bf16"])
            return replace(read, compute_share=products[INTEGERS].compute_share), self.machine.peak("int8")
        narrow = {"fp8": "fp8", "nvfp4": "fp4"}.get(label)
        if narrow in self.machine.peak_flops_per_s and label in products:
            return products[label], self.machine.peak_flops_per_s[narrow]
        wide = "fp32" if label == "fp32" else "bf16"
        found = label if label in ("int8", "int4") and label in products else wide
        return products.get(found, products["bf16"]), self.machine.peak(wide)

    def _work(self, op: Op, rows: int) -> _Work:
        key = (op.id, rows)
        found = self._works.get(key)
        if found is None:
            found = self._works[key] = self._work_of(op, rows)
        return found

    def _work_of(self, op: Op, rows: int) -> _Work:
        label = self._label(op)
        width, depth = self._sides(op)
        size = self.head_bytes if op.id == "head" and label != "fp32" else self.size_bytes(label)
        moved = width * depth * size + 2.0 * rows * (width + depth)
        has_law = label in self.constants.products and label != "bf16"
        table = self._table("products", label if has_law else "bf16")
        if table is None or label == "fp32":
            return _Work(2.0 * rows * width * depth, moved, 1.0, None)
        return _Work(2.0 * rows * width * depth, moved, table.grid.at(rows, width, depth).value, table.law)

    def _sides(self, op: Op) -> tuple[float, float]:
        """Columns and depth of a product; its rows are the tokens of the step."""
        found = self._known_sides.get(op.id)
        if found is None:
            depth = math.prod(op.sizes[dim] for dim in summed_dims(op))
            found = self._known_sides[op.id] = op.line.output.size({**op.sizes, "B": 1, "T": 1, "S": 1}), depth
        return found

    def _table(self, op: str, label: str = "bf16") -> OpTable | None:
        return op_table(op, device=self.machine.accelerator, architecture=self.architecture, label=label)

    def _expert_law(self) -> tuple[ExpertLaw, DType]:
        label, laws = self.shape.weights, self.constants.experts
        if label == "mxfp4" and self.software.name == "tensorrt_llm" and "mxfp4_fp8" in laws:
            return laws["mxfp4_fp8"], DType.MXFP4
        return laws.get(label, laws["bf16"]), DType.named(label)

    def _experts_s(self, experts: tuple[Op, ...], rows: int) -> float:
        """Grouped products together: touched experts are read, each wastes a part of a tile, rows are permuted and summed."""
        law, weights = self._expert_law()
        op = experts[0]
        num_experts, per_token, ep = self.graph.sizes["E"], op.sizes["X"], self.shape.ep
        touched = touched_experts(num_experts=num_experts, experts_per_token=per_token, tokens=rows * law.spread)
        touched = min(num_experts / ep, busiest(touched, groups=ep, drawn=touched, num_experts=num_experts))
        elements = sum(each.param_terms[0][1].size(each.sizes) for each in experts) / op.sizes["E"]  # of one expert
        visits = busiest(rows * per_token, groups=ep, drawn=per_token, num_experts=num_experts)
        row_bytes = sum(2.0 * each.line.inputs[0].size({**each.sizes, "B": 1, "T": 1, "X": 1}) for each in experts)
        row_bytes += sum(2.0 * each.line.output.size({**each.sizes, "B": 1, "T": 1, "X": 1}) for each in experts)
        work = _Work(
            flops=2.0 * elements * (visits + law.tile_rows * touched),
            moved=touched * elements * weights.size_bytes + law.row_passes * visits * row_bytes,
            ratio=1.0,
            base=None,
        )
        rate = law.compute_share * self.machine.peak({"fp4": "nvfp4"}.get(law.rate, law.rate))
        launch = law.launch_s
        if weights is DType.MXFP4 and self.architecture == "hopper":
            launch += self.software.mxfp4_extra_s
        return launch + law.factor * _power_sum(work, 0.0, rate, law.memory_share * self.bandwidth)

    def decode_attention_s(self, op: Op, batch: int, context: int) -> float:
        tokens = max(1, min(context, op.attrs.get("window") or context))
        width = self.kv_width(op)
        moved = batch * tokens * self.kv_token_bytes(op)
        queries = max(1.0, self.graph.sizes["H"] / self.graph.sizes.get("K", self.graph.sizes["H"]))
        if self.shape.reads_kv_per_query and "K" in self.graph.sizes:
            moved *= max(1.0, self.constants.kv_again * self._local_heads("H") / self._local_heads("K"))
        table = self._table("decode_attention")
        head = op.sizes[head_dims(op)[1]]
        heads = width / (2 * head)
        if table is None or heads < 1 or heads != int(heads) or self.shape.reads_kv_per_query:
            share = self.constants.cache_share if table is None else table.law[1]
            launch = self.constants.cache_launch_s if table is None else table.law[0] - self.constants.attention_saved_s
            return launch + moved * (1 + self.constants.cache_half_batch / batch) / (self.bandwidth * share)
        launch, share = table.law
        ratio = table.grid.at(tokens, batch * heads, queries, head).value
        measured = ratio * (launch + moved / (self.bandwidth * share))
        return max(measured - self.constants.attention_saved_s, LEAST_SHARE * measured)

    def prefill_attention_s(self, op: Op, tokens: int, cached: int = 0) -> float:
        key = (op.id, tokens, cached)
        table = self._table("prefill_attention")
        if table is None:
            constants = self.constants
            share = constants.flash * tokens / (tokens + constants.flash_half_tokens)
            return constants.cache_launch_s + self._attention_flops(op, tokens, cached) / (
                self.machine.peak("bf16") * share
            )
        found = self._attention_works.get(key)
        if found is None:
            found = self._attention_works[key] = self._measured_prefill_s(op, table, tokens, cached)
        return max(found - self.constants.attention_saved_s, LEAST_SHARE * found)

    def _measured_prefill_s(self, op: Op, table: OpTable, tokens: int, cached: int) -> float:
        launch, share, half = table.law
        seen = min(tokens + cached, op.attrs.get("window") or tokens + cached)
        rate = self.machine.peak("bf16") * share * seen / (seen + half)
        ratio = table.grid.at(
            max(1, tokens), self._local_heads("H"), sum(op.sizes[dim] for dim in head_dims(op)) / 2
        ).value
        return ratio * (launch + self._attention_flops(op, tokens, cached) / rate)

    def _attention_flops(self, op: Op, tokens: int, cached: int) -> float:
        window = op.attrs.get("window")
        pairs = visible_pairs(tokens=tokens, keys=tokens + cached, window=window)
        return 2.0 * self._local_heads("H") * pairs * sum(op.sizes[dim] for dim in head_dims(op))

    def _activations_s(self, block: BlockOps, rows: int) -> float:
        """2 bytes · rows · (12 h + 2 (q + 2 kv)/t + 3 f/t): the 12 h are not divided by tp."""
        sizes, tp = self.graph.sizes, self.shape.tp
        heads = sizes["H"] * sizes["C"] + 2 * sizes.get("K", sizes["H"]) * sizes["C"]
        elements = 12 * sizes["D"] + 2 * heads / tp + 3 * block.width
        return 2.0 * rows * elements / self.bandwidth * self.constants.activation_factor

    def _reduction_s(self, rows: int) -> float:
        group = self.machine.group(self.shape.tp)
        size = rows * self.graph.sizes["D"] * 2.0
        seconds = None
        if group.across == 1:
            seconds = measured_all_reduce_s(
                size, ranks=self.shape.tp, device=self.machine.accelerator, architecture=self.architecture
            )
        if seconds is None:
            seconds = all_reduce_s(size, group)
        return self.constants.all_reduce_share * seconds + self.constants.all_reduce_extra_s


def busiest(total: float, *, groups: int, drawn: float, num_experts: int) -> float:
    """Of `total` visits to experts, or experts that are visited, those of the group of ranks that has the most: all wait for it.

        total/g + c·√(total · 1/g · (1 − 1/g) · (E − d)/(E − 1))

    Which experts are visited is even luck here: d of E at a time, without putting back. c is the most of g standard normal
    numbers, Φ⁻¹((g − 3/8)/(g + 1/4)) (Blom 1958).
    """
    if groups == 1:
        return total
    most = NormalDist().inv_cdf((groups - 0.375) / (groups + 0.25))
    variance = total / groups * (1 - 1 / groups) * max(0.0, num_experts - drawn) / max(1, num_experts - 1)
    return min(total, total / groups + most * math.sqrt(variance))


def _power_sum(
    work: _Work, launch_s: float, flops_per_s: float, bytes_per_s: float, *, overlap: float = OVERLAP
) -> float:
    return launch_s + ((work.flops / flops_per_s) ** overlap + (work.moved / bytes_per_s) ** overlap) ** (1 / overlap)
