"""The memory ledger of one device: what training keeps, by class.

    peak = parameters + gradients + optimizer + activations + buffers

Model states after ZeRO (Rajbhandari 2020); activations from the tensors that autograd really saves (ir/facts.py), times
the micro-batches in flight; buffers are what comes and goes: gathered blocks, the loss' chunk of logits, the two largest
tensors that the backward pass works on, and what the runtime itself holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..ir.facts import Saved, saved_by_op, saved_tensors
from ..ir.graph import Graph
from ..ir.ops import Op
from ..ir.types import DType
from .backward import Setting, Working, working_of
from .products import second_products
from .sharding import TENSOR_DIMS, Degrees, shard
from .stored import WIDE

RUNTIME_BYTES = {"gpu": 0.9e9, "npu": 0.9e9, "tpu": 0.5e9, "cpu": 0.35e9}
"""What the context of a device, or the interpreter and its libraries, hold (assumed; a CPU process measured 0.3-0.4)."""
LOSS_CHUNK_BYTES = 1 << 26
"""Most that a chunk of logits takes in the fused loss (compiler/kernels/linear_cross_entropy.py)."""
LOSS_PIECE_BYTES = 1 << 28
MOST_LOSS_PIECES = 16
"""The same for TPUs, and how many there are at most."""

Program = Literal["halves", "autocast", "mixed", "sharded", "fsdp"]
"""How a program holds weights and their optimizer state, see `state_bytes`."""


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
    host: float = 0.0
    """Bytes in the memory of the host, no part of the peak."""

    @property
    def buffers(self) -> float:
        """What comes and goes, in the plan's five classes."""
        return self.logits + self.gathered + self.working + self.runtime

    @property
    def allocated(self) -> float:
        """What the framework's allocator hands out: all but what the runtime holds."""
        return self.peak - self.runtime

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


def state_bytes(*, program: Program, precision: str, moments: float, accumulates: bool = True) -> StateBytes:
    """Weights, gradients, optimizer state in bytes a parameter, of which the optimizer itself keeps `moments` (moments.py).

    halves    one CPU: bf16 weights beside the other half of their fp32 master; gradients in bf16, with fp32 sums where
              micro-batches accumulate (compiler/kernels/adamw.py): 14, or 18, with AdamW
    autocast  one device: fp32 weights, their bf16 casts, fp32 gradients: 18
    mixed     several: 2-byte weights, fp32 gradients and master (Megatron): 18
    sharded   ZeRO-3, FSDP2: the fp32 master *is* the parameter; 2-byte weights exist only as gathered: 16

    Megatron's fp16 keeps 2-byte gradients; fp32 has no second copy.
    """
    if precision == "fp32":
        return StateBytes(weights=4.0, gradients=4.0, optimizer=moments)
    if program == "halves":
        return StateBytes(weights=2.0, gradients=6.0 if accumulates else 2.0, optimizer=2.0 + moments)
    if program == "autocast":
        return StateBytes(weights=6.0, gradients=4.0, optimizer=moments)
    gradients = 2.0 if precision == "fp16" else 4.0
    if program == "sharded":
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


def largest_parameter(ops: Iterable[Op], degrees: Degrees) -> int:
    """Numbers in the largest matrix, or stack of experts' matrices, that one device has before ZeRO."""
    local = (shard(op, degrees) for op in ops)
    return max((term.size(op.sizes) for op in local for param, term in op.param_terms if param.is_trained), default=0)


@dataclass(frozen=True)
class KeptBytes:
    """Activations that one layer keeps for one sequence, by what is computed again in the backward pass."""

    none: float
    selective: float
    full: float
    two_largest: float
    of_parts: Mapping[str, float]
    """What need not be kept if a part is computed again (software.py)."""
    working: Mapping[tuple[str, bool], Working] | None = None
    """Of our programs, what the layer needs while it runs backward, by recompute and whether a micro-batch has several sequences."""

    def of(self, recompute: str, parts: Sequence[str] = ("attention",)) -> float:
        """With `selective` recompute of these parts."""
        if recompute != "selective" or tuple(parts) == ("attention",):
            return getattr(self, recompute)
        return max(self.full, self.none - sum(self.of_parts.get(part, 0.0) for part in parts))

    def backward(self, recompute: str, parts: Sequence[str] = ("attention",), *, is_batched: bool) -> Working:
        """What the layer needs beyond what it keeps, at the moment of its backward pass that needs most."""
        stays = self.of(recompute, parts)
        if self.working is None:
            return Working(self.none - stays, 0.0)
        working = self.working[recompute, is_batched]
        return Working(working.activations - stays, working.weights, working.middle - stays)


def kept_bytes(
    ops: Iterable[Op],
    degrees: Degrees,
    *,
    tokens: int,
    values: DType,
    is_ours: bool = False,
    fuses_sums: bool = False,
    has_gate_kernel: bool = True,
    is_spmd: bool = False,
    copies_heads: bool = False,
    multiplies_in_fp8: bool = False,
    has_wide_stream: bool = False,
) -> KeptBytes:
    """What a block keeps for one sequence of `tokens` on one device.

    `selective` computes attention again from its normed input; `full` the whole layer from its input. `is_ours`: as our programs for
    several devices do, values are copied out of a fused projection, and with sequence parallelism a rank of tp has all tokens from
    the router to the sum of what experts gave. `fuses_sums`: a layer takes the residual stream and what is yet to be added to it.
    `is_spmd`: as our programs for TPUs do, values are copied too, and the compiler makes gated activations a part of the products
    that read them, in the backward pass again. `copies_heads`: as torch-npu's attention makes it (ir/facts.py). `multiplies_in_fp8`: what is kept stays as it is, copies are
    made for each product (backward.py). `has_wide_stream`: the residual stream is fp32, as autocast has it.
    """
    local = [shard(op, degrees) for op in ops]
    has_experts = any(op.kind == "dispatch" for op in local)
    whole = {each.key for each in saved_tensors(filter(_serves_experts, local))} if is_ours and has_experts else set()
    plain = degrees._replace(sequence_parallel=False)

    stream = {op.id for op in local if has_wide_stream and op.kind in _STREAM}

    def size_of(saved: Saved) -> float:
        saved = replace(saved, dtype=DType.FP32) if saved.key in stream else saved
        return _saved_bytes(saved, plain if saved.key in whole else degrees, tokens=tokens, values=values)

    again_in_products = {op.id for op in local if is_spmd and op.kind == "fused_gated_activation"}
    kept = saved_tensors(local, copies_values=is_ours or is_spmd, copies_heads=copies_heads)
    sizes = {each.key: size_of(each) for each in kept if each.key not in again_in_products}
    everything = sum(sizes.values())
    of_attention = {op.id for op in local if op.name == "attn" or op.name.startswith("attn.")}
    attention = sum(size for key, size in sizes.items() if key.partition("#")[0] in of_attention)
    largest = sorted(sizes.values(), reverse=True)[:2]
    full = _input_bytes(local, degrees, tokens=tokens, values=DType.FP32 if has_wide_stream else values)
    full *= 2 if fuses_sums else 1
    of_parts = {"attention": attention, "half_of_layers": (everything - full) / 2, "nothing": 0.0}
    by_id, second = {op.id: op for op in local}, second_products(local)
    for key, size in sizes.items():
        op = by_id.get(key.partition("#")[0])
        if op is None:
            continue
        for part in _parts_that_write(op, is_own="#" in key):
            share = second.get(op.id, 0.0) if part == "half_of_products" else 1.0
            of_parts[part] = of_parts.get(part, 0.0) + size * share
    start = next((op.id for op in local if op.kind == "block_input"), None)
    again = {
        "none": (),
        "selective": [key for key in sizes if key.partition("#")[0] in of_attention],
        "full": [key for key in sizes if key != start],
    }
    working = {
        (how, is_batched): working_of(
            local,
            saved_by_op(local, copies_values=True, copies_heads=copies_heads),
            size_of=size_of,
            again=keys,
            setting=Setting(
                degrees,
                is_batched=is_batched,
                has_gate_kernel=has_gate_kernel,
                multiplies_in_fp8=multiplies_in_fp8,
                ring=WIDE / values.size_bytes if degrees.ring else 0.0,
                beside=full / 2 if how == "full" and fuses_sums else 0.0,
            ),
        )
        for how, keys in (again.items() if is_ours and start is not None else ())
        for is_batched in (False, True)
    }
    return KeptBytes(
        none=everything,
        selective=everything - attention,
        full=full,
        two_largest=0.0 if working else sum(largest),
        of_parts=of_parts,
        working=working or None,
    )


_STREAM = ("block_input", "add")
"""Ops that give the residual stream."""


def _serves_experts(op: Op) -> bool:
    return op.group == "routing" or op.kind.startswith("expert") or op.name.startswith(("mlp.router", "mlp.shared"))


def _parts_that_write(op: Op, *, is_own: bool) -> Sequence[str]:
    """The part that makes a tensor again when it is computed again; `is_own`: one that only the op itself reads."""
    if op.group == "norm":
        return ("norms",)
    if op.group == "attention":
        return ("core_attention",) if is_own else ()
    if op.group == "pointwise":
        return ("activations", "mlp") if op.name.startswith("mlp") else ("norms",)
    if op.group == "matmul":
        return (
            ("half_of_products", "mlp")
            if op.name.startswith("mlp") and "down" not in op.name
            else ("half_of_products",)
        )
    return ()


def _input_bytes(ops: Sequence[Op], degrees: Degrees, *, tokens: int, values: DType) -> float:
    """A layer's input; programs that fuse the residual sum hand on the fp32 stream and what is yet to be added."""
    start = next((op for op in ops if op.kind == "block_input"), None)
    if start is None:
        return 0.0
    dtype = DType.FP32 if any(op.kind == "add_rms_norm" for op in ops) else None
    stream = Saved(key=start.id, term=start.line.output, sizes=start.sizes, dtype=dtype)
    added = Saved(key=start.id, term=start.line.output, sizes=start.sizes, dtype=None) if dtype else None
    parts = [each for each in (stream, added) if each is not None]
    return sum(_saved_bytes(each, degrees, tokens=tokens, values=values) for each in parts)


def _saved_bytes(saved: Saved, degrees: Degrees, *, tokens: int, values: DType) -> float:
    is_split = any(dim in TENSOR_DIMS for dim in saved.term.dims)
    parts = degrees.cp * (degrees.tp if degrees.sequence_parallel and not is_split else 1)
    free = {"B": 1, "T": -(-tokens // parts), "S": tokens}
    return saved.size_bytes(free, values=values)


def loss_pieces(logits_bytes: float, *, run: int) -> int:
    """Into how many pieces programs for TPUs cut the loss: a power of two that divides the `run` of tokens on a device.

    They are written out one after the other, and each sums into the gradient of the head: so few and large ones.
    """
    pieces = 1
    while logits_bytes > pieces * LOSS_PIECE_BYTES and pieces < MOST_LOSS_PIECES and run % (2 * pieces) == 0:
        pieces *= 2
    return pieces


def loss_bytes(
    graph: Graph,
    degrees: Degrees,
    *,
    tokens: int,
    micro_batch: int,
    values: DType,
    is_fused: bool = True,
    in_pieces: bool = False,
) -> float:
    """What the loss holds at its peak. `in_pieces`: as programs for TPUs cut it.

    Fused: a chunk of logits, which become their gradient, and the gradient of the head, with an fp32 sum where there are
    several chunks. Unfused: tokens · V/t · (2 + 4 + 4).
    """
    vocab = -(-graph.sizes["V"] // degrees.tp)
    rows = micro_batch * -(-tokens // degrees.cp)
    if not is_fused or not any(True for _ in graph.ops("linear_cross_entropy")):
        return rows * vocab * 10.0
    logits = rows * vocab * values.size_bytes
    chunk = logits / loss_pieces(logits, run=tokens // degrees.cp) if in_pieces else min(logits, LOSS_CHUNK_BYTES)
    sums = 4.0 if logits > chunk else 0.0
    return chunk + vocab * graph.sizes["D"] * (values.size_bytes + sums)


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
    largest_gathered: int
    """Parameters that are gathered at a time under ZeRO-3, while the next come in: a layer's, or one matrix."""
    loss: float


def ledger_of_stage(
    stage: StageParts,
    *,
    states: StateBytes,
    zero: int,
    shards: int,
    expert_shards: int,
    num_ranks: int,
    kind: str,
    copies: int = 1,
    is_offloaded: bool = False,
) -> Ledger:
    """The ledger of one pipeline rank. `is_offloaded`: the optimizer's states are in the memory of the host.

    `copies` of the parameters and their gradients: two under DualPipe, where each rank is a stage of both directions; the copies
    share the optimizer's state.
    `shards` data-parallel ranks share dense parameters and `expert_shards` those of experts; `num_ranks` > 1 says that
    gradients travel.
    """

    def spread(size: float, level: int) -> float:
        dense, experts = stage.dense * size, stage.experts * size
        return dense / shards + experts / expert_shards if zero >= level else dense + experts

    gathered = 2 * stage.largest_gathered * 2.0 if zero == 3 and shards > 1 else 0.0
    bucket = min(stage.dense + stage.experts, 40_000_000) * 4.0 if num_ranks > 1 else 0.0
    return Ledger(
        parameters=copies * spread(states.weights, 3),
        gradients=copies * spread(states.gradients, 2),
        optimizer=0.0 if is_offloaded else spread(states.optimizer, 1),
        host=spread(states.optimizer, 1) if is_offloaded else 0.0,
        activations=stage.kept * stage.in_flight + stage.one_layer,
        logits=stage.loss,
        gathered=gathered + bucket,
        working=stage.two_largest,
        runtime=RUNTIME_BYTES[kind],
    )
