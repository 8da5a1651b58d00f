"""Serving: bytes of a replica, and the time of one of its steps.

    step = Σ layers (products + attention + activations + 2 all-reduces + floor [+ experts])
           + head [+ all-reduce of the embedding + all-gather of logits] + overhead

Times of ops: serving_ops.py. What a replica does under a load: load.py. Constants and their origin: serving_constants.toml.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from ..ir.facts import touched_experts
from ..ir.graph import Graph
from ..ir.ops import Op
from ..ir.types import DType
from .serving_constants import OURS, ServeConstants, ServingSoftware, serve_constants_of, serving_software
from .serving_ops import ServingOps
from .sharding import Degrees, shard

if TYPE_CHECKING:
    from ..topology.machine import Machine

SCORE_BYTES = 12.0
"""Of a pair of a query and a key, on TPUs: three numbers in fp32 at a time, by libtpu's programs for v5e; for v5p up to a third less."""
RUNTIME_BYTES = 1.5e9
"""Of a device: context, communication buffers, captured graphs. 0.3 GB on a CPU."""


@dataclass(frozen=True)
class KeptBits:
    """Bits of a weight with its share of what groups have."""

    layers: float
    head: float
    """Of the head, and of the table of embeddings where they are one."""


@dataclass(frozen=True)
class EngineShape:
    """How one replica is laid out and what formats it keeps."""

    tp: int
    pp: int
    ep: int
    """Of the tp ranks, groups that hold whole experts: ep ways by expert, tp/ep ways by width."""
    weights: str
    kv_dtype: str
    kept: KeptBits | None = None
    """None: those of the format, and a head of 16."""
    block_scales: bool = False
    """fp8 with a scale a block, as DeepSeek and MiniMax publish their weights."""
    reads_kv_per_query: bool = False
    """Decode attention reads keys and values once a query head (old engines)."""
    has_kernels: bool = False
    """Whether the server is ours and consists of our kernels."""
    rounds_activations: bool = False
    """Products in int8: weights of 8 or 4 bits times activations that are rounded as well."""

    @property
    def devices(self) -> int:
        return self.tp * self.pp


@dataclass(frozen=True)
class Prompt:
    """A part of a prompt in a step: its tokens, behind what the cache holds already."""

    tokens: int
    cached: int = 0


class Engine:
    """One replica: bytes and seconds."""

    def __init__(
        self,
        graph: Graph,
        machine: Machine,
        shape: EngineShape,
        *,
        software: ServingSoftware | None = None,
        alike: Engine | None = None,
    ) -> None:
        """`alike` is a replica whose devices compute the same ops (other stages): what it has looked up is shared."""
        self.graph, self.machine, self.shape = graph, machine, shape
        architecture = machine.constants.architecture
        self.weights = DType.named(shape.weights)
        self.kv = DType.named(shape.kv_dtype)
        self.degrees = Degrees(tp=shape.tp)
        self.bandwidth = machine.memory_bytes_per_s
        self.ops = alike.ops if alike is not None else self._own_ops()
        constants = serve_constants_of(architecture, kind=machine.kind)
        server = machine.measured_server if shape.has_kernels else None
        if server is not None:
            constants = constants.of_server(server)
        else:
            constants = constants.of_machine(op_s=machine.op_s, products=machine.measured_products)
        if software is None:
            software = serving_software(architecture=architecture)
            if server is not None:
                software = replace(software, request_s=server.request_s, first_token_s=server.first_token_s)
        self.reprice(constants, software)

    def reprice(self, constants: ServeConstants, software: ServingSoftware) -> None:
        """Go by other constants (a fit does)."""
        self.constants, self.software = constants, software
        self.ops.reprice(constants, software)
        self._step = lru_cache(maxsize=4096)(self._step_once_s)

    def _own_ops(self) -> ServingOps:
        return ServingOps(self.graph, self.machine, self.shape, kv=self.kv)

    # Memory.

    @cached_property
    def weights_bytes(self) -> float:
        """Of a device: products in the format of the weights; embedding, head, router and norms in two bytes, where nothing
        else is `kept`."""
        total = 0.0
        for op in self.graph.all_ops:
            size = 4.0 if self.weights is DType.FP32 else self._kept_bytes(op)
            local = self._shard(op)
            split = self.shape.tp if op.kind == "embedding" else 1
            count = sum(term.size(local.sizes) for param, term in local.param_terms if param.tied_to is None)
            layers = math.ceil(self.graph.count(op.block) / self.shape.pp) if op.block else 1
            total += layers * count * size / split
        return total

    def _kept_bytes(self, op: Op) -> float:
        """Of a parameter of the op."""
        if self._is_quantised(op):
            return self.ops.size_bytes(self.shape.weights)
        is_table = op.kind == "embedding" and any(param.tied_to is not None for param in self.graph["head"].params)
        return self.ops.head_bytes if op.id == "head" or is_table else 2.0

    def _is_quantised(self, op: Op) -> bool:
        """Of a model with experts, mxfp4 is theirs alone (gpt-oss)."""
        if op.block is None or op.group != "matmul":
            return False
        return self.shape.weights != "mxfp4" or op.kind.startswith("expert") or not self.ops.has_experts

    def _shard(self, op: Op) -> Op:
        return self.ops.shard(op)

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Of a device, a token that all layers keep (layers with a window keep fewer: `cached_bytes`)."""
        return sum(self.ops.kv_token_bytes(op) * self._layers(op) for op in self._attention)

    def cached_bytes(self, tokens: float) -> float:
        """Keys and values of one sequence on a device."""
        return sum(
            self.ops.kv_token_bytes(op) * self._layers(op) * min(tokens, op.attrs.get("window") or tokens)
            for op in self._attention
        )

    def buffers_bytes(self, *, chunk: int, batch: int, keys: int = 0) -> float:
        """Activations of one step, logits of its requests, the runtime; of our programs what prompts' attention to `keys` makes."""
        sizes, tp = self.graph.sizes, self.shape.tp
        width = 4 * sizes["D"] + 3 * sizes["F"] / tp
        logits = batch * sizes["V"] / tp * 4.0
        runtime = 0.3e9 if self.machine.kind == "cpu" else RUNTIME_BYTES
        return (chunk + batch) * width * 2.0 + logits + runtime + self._prompt_bytes(chunk, keys)

    def _prompt_bytes(self, chunk: int, keys: int) -> float:
        """On TPUs a piece of a prompt attends to a whole sequence in plain PyTorch: all scores are made, of keys and values that
        are gathered out of the cache and masked. Elsewhere kernels do it piece by piece."""
        if self.machine.kind != "tpu":
            return 0.0
        return max(
            SCORE_BYTES * self._shard(op).sizes["H"] * chunk * keys + 2 * self.ops.kv_token_bytes(op) * keys
            for op in self._attention
        )

    @cached_property
    def _attention(self) -> tuple[Op, ...]:
        return tuple(op for op in self.graph.all_ops if op.group == "attention")

    def _layers(self, op: Op) -> int:
        return math.ceil(self.graph.count(op.block) / self.shape.pp)

    # Time.

    def decode_step_s(self, batch: float, *, context: float) -> float:
        """One token for each of `batch` requests that hold `context` tokens on average.

        With stages, 1/pp of the batch is in each: a token passes all of them.
        """
        decoding = max(1, round(batch / self.shape.pp))
        return self._step(decoding, round(context), ()) + self._requests_s(batch)

    def prefill_s(self, tokens: int, *, prompts: int = 1) -> float:
        """Whole prompts, alone."""
        return self._step(0, 0, (Prompt(tokens),) * prompts)

    def prompt_cost_s(self, tokens: int, *, batch: float) -> float:
        """What a prompt costs `batch` running requests: the longer steps that it is mixed into, or steps of its own."""
        if self.software.prefill_share is not None:
            return self.software.prefill_share * self.prefill_s(tokens) / self.shape.pp
        decoding = max(1, round(batch / self.shape.pp))
        mixed = self._step(decoding, 1, (Prompt(tokens),))
        return max(0.0, mixed - self._step(decoding, 1, ())) / self.shape.pp

    def mixed_step_s(self, decoding: int, *, context: float, prompts: Sequence[Prompt]) -> float:
        """One step as a scheduler plans it."""
        requests_s = self._requests_s(decoding + len(prompts))
        return self._step(decoding, round(context), tuple(prompts)) + requests_s

    def _requests_s(self, requests: float) -> float:
        """Of a step, on the host."""
        return self.software.request_s * self.constants.host_time * requests

    def _step_once_s(self, decoding: int, context: int, prompts: tuple[Prompt, ...]) -> float:
        constants, ops = self.constants, self.ops
        rows = decoding + sum(prompt.tokens for prompt in prompts)
        total = constants.step_s
        for block in ops.blocks:
            layer = ops.layer_s(block, rows)
            layer += sum(self._attention_s(op, decoding, context, prompts) for op in block.attention)
            total += max(layer, self.software.host_layer_s * constants.host_time) * block.count
        wanted = decoding + len(prompts)
        if self.shape.has_kernels:
            total -= ops.left_out_s(rows, wanted)
        total += ops.head_s(wanted)
        total += ops.ends_s(rows, wanted)
        return total + (self.shape.pp - 1) * self._hop_s(rows)

    def _hop_s(self, rows: int) -> float:
        """From a stage to the next, with the hidden states of `rows` tokens in bf16 where a program of ours sends them."""
        hop = self.constants.pipeline_hop_s
        if self.software.name != OURS:
            return hop
        is_near = self.shape.devices <= self.machine.domain
        link = self.machine.fast if is_near else self.machine.slow
        return hop + rows * self.graph.sizes["D"] * 2.0 / link.bytes_per_s

    def _attention_s(self, op: Op, decoding: int, context: int, prompts: tuple[Prompt, ...]) -> float:
        seconds = sum(self.ops.prefill_attention_s(op, prompt.tokens, prompt.cached) for prompt in prompts)
        return seconds + (self.ops.decode_attention_s(op, decoding, context) if decoding else 0.0)

    def least_step_s(self) -> float:
        """What no software can beat: reading the weights that one token needs, once, at the full bandwidth."""
        total = 0.0
        for op in self.graph.all_ops:
            if op.kind == "embedding":
                continue
            local = shard(op, self.degrees)
            size = self._kept_bytes(op)
            for param, term in local.param_terms:
                count = term.size(local.sizes)
                if "E" in term.dims and "X" in local.sizes:
                    used = touched_experts(num_experts=op.sizes["E"], experts_per_token=op.sizes["X"], tokens=1)
                    count = count * used / op.sizes["E"]
                total += count * size * self.graph.count(op.block) * (1 if param.is_trained else 0)
        return total / self.bandwidth

    def least_prefill_s(self, tokens: int) -> float:
        """What no software can beat: a prompt's products at the peak of the narrowest format. In the last layer only the last token
        needs those after attention."""
        rate = "int8" if self.shape.rounds_activations else _rate(self.shape.weights)
        return self.ops.product_flops(tokens) / max(self.machine.peak(rate), 1.0) / self.shape.pp


def _rate(weights: str) -> str:
    """The peak that a format's products could at best run at."""
    return {"fp8": "fp8", "nvfp4": "nvfp4", "mxfp4": "nvfp4"}.get(weights, "bf16")
