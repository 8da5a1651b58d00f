"""Serving: bytes of a replica, and the time of one of its steps.

    step = Σ layers (products + attention + activations + 2 all-reduces + floor [+ experts]) + head + overhead

What a replica does under a load is load.py; constants and their origin: serving_constants.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from ..ir.facts import bytes_moved, flops, touched_experts
from ..ir.graph import Graph
from ..ir.ops import Op
from ..ir.types import DType
from .collectives import all_reduce_s, all_to_all_s
from .communication import num_reductions
from .serving_constants import ProductLaw, serve_constants_of
from .sharding import Degrees, shard

if TYPE_CHECKING:
    from ..topology.machine import Machine

AttentionTime = Callable[[Op, Mapping[str, float]], float]


@dataclass(frozen=True)
class EngineShape:
    """How one replica is laid out and what formats it keeps."""

    tp: int
    pp: int
    ep: int
    weights: str
    kv_dtype: str

    @property
    def devices(self) -> int:
        return self.tp * self.pp


class Engine:
    """One replica: bytes and seconds."""

    def __init__(self, graph: Graph, machine: Machine, shape: EngineShape) -> None:
        self.graph, self.machine, self.shape = graph, machine, shape
        self.constants = serve_constants_of(machine.constants.architecture)
        self.weights = DType.named(shape.weights)
        self.kv = DType.named(shape.kv_dtype)
        self.degrees = Degrees(tp=shape.tp, ep=shape.ep)
        self.bandwidth = machine.memory_bytes_per_s
        self._decode = lru_cache(maxsize=4096)(self._decode_step_s)

    # Memory.

    @cached_property
    def weights_bytes(self) -> float:
        """Of a device: products in the format of the weights, embedding, head and norms in two bytes."""
        total = 0.0
        for op in self.graph.all_ops:
            size = 2.0 if op.block is None or op.group != "matmul" else self.weights.size_bytes
            if self.weights is DType.FP32:
                size = 4.0
            local = shard(op, self.degrees)
            split = self.shape.tp if op.kind == "embedding" else 1
            count = sum(term.size(local.sizes) for param, term in local.param_terms if param.tied_to is None)
            layers = math.ceil(self.graph.count(op.block) / self.shape.pp) if op.block else 1
            total += layers * count * size / split
        return total

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Of a device, a token that all layers keep (layers with a window keep fewer: `cached_bytes`)."""
        return sum(self._kv_width(op) * self._layers(op) for op in self._attention) * self.kv.size_bytes

    def cached_bytes(self, tokens: float) -> float:
        """Keys and values of one sequence on a device."""
        return (
            sum(
                self._kv_width(op) * self._layers(op) * min(tokens, op.attrs.get("window") or tokens)
                for op in self._attention
            )
            * self.kv.size_bytes
        )

    def buffers_bytes(self, *, chunk: int, batch: int) -> float:
        """Activations of one step, logits of its requests, the runtime."""
        sizes, tp = self.graph.sizes, self.shape.tp
        width = 4 * sizes["D"] + 3 * sizes["F"] / tp
        logits = batch * sizes["V"] / tp * 4.0
        runtime = 0.3e9 if self.machine.kind == "cpu" else 1.5e9
        return (chunk + batch) * width * 2.0 + logits + runtime

    @cached_property
    def _attention(self) -> tuple[Op, ...]:
        return tuple(op for op in self.graph.all_ops if op.group == "attention")

    def _layers(self, op: Op) -> int:
        return math.ceil(self.graph.count(op.block) / self.shape.pp)

    def _kv_width(self, op: Op) -> int:
        """Elements a token and layer on a device; what has key/value heads is split over tp, a latent is not."""
        total = 0
        for term in op.attrs["cached"].split(","):
            sizes = [self.graph.sizes[dim] for dim in term.split()]
            if "K" in term:
                sizes[term.split().index("K")] = max(1, math.ceil(self.graph.sizes["K"] / self.shape.tp))
            total += math.prod(sizes)
        return total

    # Time.

    def decode_step_s(self, batch: float, *, context: float) -> float:
        """One token for each of `batch` requests that hold `context` tokens on average."""
        return self._decode(max(1, round(batch)), round(context))

    def _decode_step_s(self, batch: int, context: int) -> float:
        free = {"B": batch, "T": 1, "S": context}
        return self._forward_s(free, attention=self._decode_attention_s, head_rows=batch)

    def prefill_s(self, tokens: int) -> float:
        """One whole prompt, alone."""
        free = {"B": 1, "T": tokens, "S": tokens}
        return self._forward_s(free, attention=self._prefill_attention_s, head_rows=1)

    def _forward_s(self, free: Mapping[str, float], *, attention: AttentionTime, head_rows: int) -> float:
        constants = self.constants
        rows = free["B"] * free["T"]
        total = constants.step_s
        for block, ops in self._blocks.items():
            layer = sum(self._product_s(op, free) for op in ops if op.group == "matmul")
            layer += sum(attention(op, free) for op in ops if op.group == "attention")
            layer += self._activations_s(ops, rows) + constants.layer_floor_s + self._reductions_s(ops, rows)
            if any(op.kind == "route" for op in ops):
                layer += constants.moe_layer_s + self._exchange_s(rows)
            total += layer * self.graph.count(block)
        total += self._product_s(self.graph["head"], {"B": head_rows, "T": 1, "S": 1})
        return total + (self.shape.pp - 1) * 20e-6

    @cached_property
    def _blocks(self) -> dict[str, tuple[Op, ...]]:
        return {
            block.name: tuple(shard(op, self.degrees) for op in self.graph.block_ops(block.name))
            for block in self.graph.blocks
        }

    def _product_s(self, op: Op, free: Mapping[str, float]) -> float:
        law, rate = self._law(op)
        local = op if op.block else shard(op, self.degrees)
        weights = self.weights if op.block or self.weights is DType.FP32 else DType.BF16
        work = flops(local, free)
        moved = bytes_moved(local, free, values=DType.BF16, weights=weights)
        compute = work / (rate * law.compute_share)
        memory = moved / (self.bandwidth * law.memory_share)
        return law.launch_s + (compute**3 + memory**3) ** (1 / 3)

    def _law(self, op: Op) -> tuple[ProductLaw, float]:
        """Formats without matrix units of their own (int8, int4 weights) are widened on the way: bf16 rates."""
        label = self.shape.weights if op.block else "bf16"
        narrow = {"fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp4"}.get(label)
        products = self.constants.products
        law = products.get(label, products["bf16"])
        share = 0.45 if op.kind.startswith("expert") else 1.0  # grouped products: 0.40-0.49 of dense ones (`serving`)
        scaled = ProductLaw(law.launch_s, law.compute_share * share, law.memory_share)
        if narrow is not None and narrow in self.machine.peak_flops_per_s and label in products:
            return scaled, self.machine.peak_flops_per_s[narrow]
        return scaled, self.machine.peak("fp32" if label == "fp32" else "bf16")

    def _decode_attention_s(self, op: Op, free: Mapping[str, float]) -> float:
        tokens = min(free["S"], op.attrs.get("window") or free["S"])
        moved = free["B"] * tokens * self._kv_width(op) * self.kv.size_bytes
        return self.constants.products["bf16"].launch_s + moved / (self.bandwidth * self.constants.cache_share)

    def _prefill_attention_s(self, op: Op, free: Mapping[str, float]) -> float:
        tokens = min(free["S"], op.attrs.get("window") or free["S"])
        share = self.constants.prefill_attention_share * tokens / (tokens + self.constants.prefill_half_tokens)
        return self.constants.products["bf16"].launch_s + flops(op, free) / (self.machine.peak("bf16") * share)

    def _activations_s(self, ops: tuple[Op, ...], rows: float) -> float:
        """2 bytes · rows · (12 h + 2 (q + 2 kv)/t + 3 f/t): the 12 h are not divided by tp (`serving`)."""
        sizes, tp = self.graph.sizes, self.shape.tp
        heads = sizes["H"] * sizes["C"] + 2 * sizes.get("K", sizes["H"]) * sizes["C"]
        width = max((op.sizes.get("F", 0) * op.sizes.get("X", 1) for op in ops if op.group == "pointwise"), default=0)
        elements = 12 * sizes["D"] + 2 * heads / tp + 3 * width
        return 2.0 * rows * elements / self.bandwidth * self.constants.activation_factor

    def _reductions_s(self, ops: tuple[Op, ...], rows: float) -> float:
        if self.shape.tp == 1:
            return 0.0
        group = self.machine.group(self.shape.tp)
        size = rows * self.graph.sizes["D"] * 2.0
        return num_reductions(ops) * (0.9 * all_reduce_s(size, group) + self.constants.all_reduce_extra_s)

    def _exchange_s(self, rows: float) -> float:
        if self.shape.ep == 1:
            return 0.0
        size = rows * self.graph.sizes["X"] * self.graph.sizes["D"] * 2.0 / self.shape.tp
        return 2 * all_to_all_s(size, self.machine.group(self.shape.ep))

    def least_step_s(self) -> float:
        """What no software can beat: reading the weights that one token needs, once, at the full bandwidth."""
        total = 0.0
        for op in self.graph.all_ops:
            if op.kind == "embedding":
                continue
            local = shard(op, self.degrees)
            size = self.weights.size_bytes if op.group == "matmul" and op.block else 2.0
            for param, term in local.param_terms:
                count = term.size(local.sizes)
                if "E" in term.dims and "X" in local.sizes:
                    used = touched_experts(num_experts=op.sizes["E"], experts_per_token=op.sizes["X"], tokens=1)
                    count = count * used / op.sizes["E"]
                total += count * size * self.graph.count(op.block) * (1 if param.is_trained else 0)
        return total / self.bandwidth
