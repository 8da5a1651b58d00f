"""The memory ledger of our own programs on several devices: what FSDP holds at the moment that needs most.

Three moments can be the worst. *Loss*: all activations, the gathered embedding and head, and what the loss works with.
*Backward*: almost all activations, one layer rebuilt, its weights gathered with those of the layer before it, and gradients on
their way. *Reduction*: the gradients of embedding and head, which travel last and together, once more in fp32.

FSDP keeps fp32 weights as shards and gathers casts of them; below ZeRO-3 the casts stay for a whole step, and ZeRO-1 sums up
whole gradients until its last micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from .memory import RUNTIME_BYTES, Ledger

WIDE = 4.0


@dataclass(frozen=True)
class Held:
    """What one pipeline rank has, before ZeRO: parameters, and bytes of one micro-batch."""

    dense: int
    experts: int
    root: int
    """Of `dense`: embedding, last norm and head, which FSDP gathers together."""
    head: int
    """Of `root`: the head, whose gradient is there from the loss on; 0 without a head."""
    largest_block: int
    kept: float
    """Activations through all layers, times the micro-batches in flight."""
    kept_by_layer: float
    """Of one micro-batch and the layer that keeps most: what the backward pass frees layer by layer."""
    one_layer: float
    """What is rebuilt while one layer runs backward."""
    two_largest: float
    loss: float
    """What the loss works with at its peak."""


@dataclass(frozen=True)
class Sharding:
    """How model states are spread."""

    zero: int
    shards: int
    expert_shards: int
    accumulates: bool
    """Whether gradients of earlier micro-batches are there."""
    values: float
    """Bytes of a gathered weight and of a gradient on its way: 2, or 4 in fp32."""
    moments: float
    """Bytes of the optimizer's moments a parameter."""

    def spread(self, dense: float, experts: float) -> float:
        return dense / self.shards + experts / self.expert_shards


def ledger_of_program(held: Held, sharding: Sharding, *, kind: str) -> Ledger:
    """The ledger at the worst of the three moments."""
    is_sharded = sharding.zero > 0 and sharding.shards > 1
    values, whole = sharding.values, held.dense + held.experts
    own = sharding.spread(held.dense, held.experts) if is_sharded else whole
    casts = values if is_sharded or values < WIDE else 0.0  # weights that are whole and in fp32 need no other copy
    summed = 0.0
    if sharding.accumulates:
        summed = WIDE * (whole if sharding.zero == 1 else own)
    stays = casts * (held.root if is_sharded and sharding.zero == 3 else whole)
    passing = 2 * casts * held.largest_block if is_sharded and sharding.zero == 3 else 0.0
    fixed = {
        "parameters": WIDE * own,
        "optimizer": sharding.moments * own,
        "runtime": RUNTIME_BYTES[kind],
    }
    loss = Ledger(**fixed, gradients=summed, activations=held.kept, logits=held.loss, gathered=stays)
    # While a layer runs backward, the gradients of the one after it travel, whose activations are free.
    travelling = max(0.0, WIDE * held.largest_block - held.kept_by_layer) if is_sharded else 0.0
    backward = Ledger(
        **fixed,
        gradients=summed + values * held.head + travelling,
        activations=held.kept + held.one_layer,
        gathered=stays + passing,
        working=held.two_largest,
    )
    reduction = Ledger(
        **fixed,
        gradients=WIDE * own + (values + WIDE) * held.root,
        gathered=stays - casts * held.root,
    )
    return max(loss, backward, reduction, key=lambda ledger: ledger.peak)
