"""The memory ledger of one device: what training keeps, by class.

    peak = parameters + gradients + optimizer + activations + buffers

Model states after ZeRO (Rajbhandari 2020); activations from the tensors that autograd really saves (ir/facts.py), times
the micro-batches in flight; buffers are what comes and goes: gathered blocks, the loss' chunk of logits, the two largest
tensors that the backward pass works on, and what the runtime itself holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..ir.facts import Saved, saved_tensors
from ..ir.graph import Graph
from ..ir.ops import Op
from ..ir.types import DType
from .sharding import TENSOR_DIMS, Degrees, shard

RUNTIME_BYTES = {"gpu": 0.9e9, "npu": 0.9e9, "tpu": 0.5e9, "cpu": 0.35e9}
"""What the context of a device, or the interpreter and its libraries, hold (assumed; a CPU process measured 0.3-0.4)."""
LOSS_CHUNK_BYTES = 256 * 2**20
"""Most that a chunk of fp32 logits takes in the fused loss."""


@dataclass(frozen=True)
class Ledger:
    """Bytes a device, by class; `peak` is their sum."""

    parameters: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    gathered: float = 0.0
    working: float = 0.0
    runtime: float = 0.0

    @property
    def buffers(self) -> float:
        """What comes and goes, in the plan's five classes."""
        return self.logits + self.gathered + self.working + self.runtime

    @property
    def peak(self) -> float:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.buffers

    @property
    def binding(self) -> str:
        """The class that takes most."""
        classes = ("parameters", "gradients", "optimizer", "activations", "buffers")
        return max(classes, key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class StateBytes:
    """Bytes a parameter."""

    weights: float
    gradients: float
    optimizer: float
    """Master copy and moments."""


_MOMENTS = {"adamw": 8.0, "adafactor": 0.1, "lion": 4.0, "muon": 4.0, "sophia": 8.0}
"""fp32 moments a parameter; Adafactor keeps rows and columns only."""


def state_bytes(*, precision: str, optimizer: str, is_sharded: bool) -> StateBytes:
    """Weights, gradients, optimizer state in bytes a parameter.

    Mixed precision: 2-byte weights, fp32 gradients and master copy (Megatron: 18 in all with Adam). Where parameters
    themselves are sharded (ZeRO-3, FSDP2) the fp32 master *is* the parameter and 2-byte weights exist only as gathered.
    fp16 keeps 2-byte gradients.
    """
    moments = _MOMENTS[optimizer]
    gradients = 2.0 if precision == "fp16" else 4.0
    if precision == "fp32" or is_sharded:
        return StateBytes(weights=4.0, gradients=gradients, optimizer=moments)
    return StateBytes(weights=2.0, gradients=gradients, optimizer=4.0 + moments)


def local_parameters(ops: Iterable[Op], degrees: Degrees) -> tuple[int, int]:
    """Trained parameters of one device, (dense, of routed experts); a tied one belongs to the op it is tied to."""
    dense, experts = 0, 0
    for op in ops:
        local = shard(op, degrees)
        if op.kind == "embedding":
            local = replace(local, sizes={**local.sizes, "V": -(-local.sizes["V"] // degrees.tp)})
        for param, term in local.param_terms:
            if not param.is_trained or param.tied_to is not None:
                continue
            size = term.size(local.sizes)
            if "E" in term.dims and "X" in local.sizes and "E" not in local.line.output.dims:
                experts += size
            else:
                dense += size
    return dense, experts


@dataclass(frozen=True)
class KeptBytes:
    """Activations that one layer keeps for one sequence, by what is computed again in the backward pass."""

    none: float
    selective: float
    full: float
    two_largest: float

    def of(self, recompute: str) -> float:
        return getattr(self, recompute)


def kept_bytes(ops: Iterable[Op], degrees: Degrees, *, tokens: int, values: DType) -> KeptBytes:
    """What a block keeps for one sequence of `tokens` on one device.

    `selective` computes attention again from its normed input; `full` the whole layer from its input.
    """
    local = [shard(op, degrees) for op in ops]
    sizes = {each.key: _saved_bytes(each, degrees, tokens=tokens, values=values) for each in saved_tensors(local)}
    everything = sum(sizes.values())
    of_attention = {op.id for op in local if op.name == "attn" or op.name.startswith("attn.")}
    attention = sum(size for key, size in sizes.items() if key.partition("#")[0] in of_attention)
    block_input = sum(size for key, size in sizes.items() if key.endswith("/x"))
    largest = sorted(sizes.values(), reverse=True)[:2]
    return KeptBytes(none=everything, selective=everything - attention, full=block_input, two_largest=sum(largest))


def _saved_bytes(saved: Saved, degrees: Degrees, *, tokens: int, values: DType) -> float:
    is_split = any(dim in TENSOR_DIMS for dim in saved.term.dims)
    parts = degrees.cp * (degrees.tp if degrees.sequence_parallel and not is_split else 1)
    free = {"B": 1, "T": -(-tokens // parts), "S": tokens}
    return saved.size_bytes(free, values=values)


def loss_bytes(graph: Graph, degrees: Degrees, *, tokens: int, micro_batch: int) -> float:
    """What the loss holds at its peak.

    Fused: one chunk of fp32 logits and its gradient in the weights' format. Unfused: tokens · V/t · (2 + 4 + 4).
    """
    vocab = -(-graph.sizes["V"] // degrees.tp)
    rows = micro_batch * -(-tokens // degrees.cp)
    if any(True for _ in graph.ops("linear_cross_entropy")):
        return min(rows * vocab * 4.0, LOSS_CHUNK_BYTES) * 1.5
    return rows * vocab * 10.0


@dataclass(frozen=True)
class StageParts:
    """What one pipeline rank holds, before sharding over data-parallel ranks."""

    dense: int
    experts: int
    kept: float
    """Activations of one micro-batch through all of the rank's layers, bytes."""
    in_flight: float
    one_layer: float
    """What is rebuilt while one layer runs backward, bytes."""
    two_largest: float
    largest_block: int
    """Parameters of the largest block, which is gathered whole under ZeRO-3."""
    loss: float


def ledger_of_stage(
    stage: StageParts, *, states: StateBytes, zero: int, shards: int, expert_shards: int, num_ranks: int, kind: str
) -> Ledger:
    """The ledger of one pipeline rank.

    `shards` data-parallel ranks share dense parameters and `expert_shards` those of experts; `num_ranks` > 1 says that
    gradients travel.
    """

    def spread(size: float, level: int) -> float:
        dense, experts = stage.dense * size, stage.experts * size
        return dense / shards + experts / expert_shards if zero >= level else dense + experts

    gathered = 2 * stage.largest_block * 2.0 if zero == 3 and shards > 1 else 0.0
    bucket = min(stage.dense + stage.experts, 40_000_000) * 4.0 if num_ranks > 1 else 0.0
    return Ledger(
        parameters=spread(states.weights, 3),
        gradients=spread(states.gradients, 2),
        optimizer=spread(states.optimizer, 1),
        activations=stage.kept * stage.in_flight + stage.one_layer,
        logits=stage.loss,
        gathered=gathered + bucket,
        working=stage.two_largest,
        runtime=RUNTIME_BYTES[kind],
    )
