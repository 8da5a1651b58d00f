"""The memory ledger of our own programs on several devices: what FSDP holds at the moment that needs most.

Three kinds of moments can be the worst. *Loss*: all activations, the gathered embedding and head, and what the loss works with.
*Backward*: what layers before the one that runs keep, what this one rebuilds and works with (backward.py), its weights gathered
with those of the layer before it, and gradients on their way; so the order of layers matters where they recompute differently.
*Reduction*: the gradients of embedding and head, which travel last and together, once more in fp32.

FSDP keeps fp32 weights as shards and gathers casts of them; below ZeRO-3 the casts stay for a whole step, and ZeRO-1 sums up
whole gradients until its last micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .backward import Working
from .memory import RUNTIME_BYTES, Ledger

WIDE = 4.0


class Moment(NamedTuple):
    """While a layer runs backward."""

    beyond: float
    """Bytes more than all that is kept: what the layer rebuilds and works with, less what layers after it have let go of."""
    weights: float = 0.0
    """Parameters whose gradients are there."""
    travelling: float = 0.0
    """Parameters whose gradients are on their way."""
    gathered: float = 0.0
    """Parameters of layers that are there whole, under ZeRO-3."""


@dataclass(frozen=True)
class Held:
    """What one pipeline rank has before ZeRO, whatever is recomputed: parameters, and bytes of one micro-batch."""

    dense: int
    experts: int
    root: int
    """Of `dense`: embedding, last norm and head, which FSDP gathers together."""
    head: int
    """Of `root`: the head, whose gradient is there from the loss on; 0 without a head."""
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
    travels: bool
    """Whether gradients travel while as many activations are kept as ever: under ZeRO-1 they do so in the last micro-batch alone."""
    values: float
    """Bytes of a gathered weight and of a gradient on its way: 2, or 4 in fp32."""
    moments: float
    """Bytes of the optimizer's moments a parameter."""
    is_offloaded: bool = False
    """Whether these are in the memory of the host."""

    def spread(self, dense: float, experts: float) -> float:
        return dense / self.shards + experts / self.expert_shards


class Run(NamedTuple):
    """Equal layers that follow one another."""

    layers: int
    kept: float
    """By one of them."""
    input: float
    working: Working
    """Beyond what it keeps."""
    dense: int
    """Parameters that are gathered, and whose gradients travel, together."""
    experts: int
    """Those that do so by themselves."""

    def of_batch(self, micro_batch: int) -> Run:
        """The same for so many sequences."""
        activations, weights, middle = self.working
        working = Working(activations * micro_batch, weights, middle * micro_batch)
        return Run(self.layers, self.kept * micro_batch, self.input * micro_batch, working, self.dense, self.experts)


def moments_of(runs: Iterable[Run]) -> Iterator[Moment]:
    """The moments of the backward pass through these layers, the last run first, that can need most.

    Of each run the first layer, and the second: then gradients of one like it travel. In a layer: when its experts' weights
    have just come in, cut along their rows and then put together; when it works with most; when gradients of its experts set
    out; when those of all else do. While it runs, weights of the layer below come in.
    """
    freed, travelling = 0.0, 0
    for run in runs:
        for number in range(min(run.layers, 2)):
            gone = freed + number * run.kept
            below = run.dense
            if run.experts:
                yield Moment(-gone, 0.0, travelling, run.dense + 3 * run.experts)
            gathered = run.dense + run.experts + below
            yield Moment(run.working.activations - gone, run.working.weights, travelling, gathered)
            if run.experts:
                yield Moment(run.working.middle - gone, run.experts, run.experts, gathered)
            yield Moment(run.input - run.kept - gone, run.dense, run.dense, gathered - run.experts)
            travelling = run.dense
        freed += run.layers * run.kept


def ledger_of_program(held: Held, sharding: Sharding, *, kept: float, moments: Iterable[Moment], kind: str) -> Ledger:
    """The ledger at the worst of the three moments.

    `kept`: activations through all layers, times the micro-batches in flight. `moments`: of the backward pass of a micro-batch.
    """
    is_sharded = sharding.zero > 0 and sharding.shards > 1
    values, whole = sharding.values, held.dense + held.experts
    own = sharding.spread(held.dense, held.experts) if is_sharded else whole
    casts = values if is_sharded or values < WIDE else 0.0  # weights that are whole and in fp32 need no other copy
    summed = 0.0
    if sharding.accumulates:
        summed = WIDE * (whole if sharding.zero == 1 else own)
    stays = casts * (held.root if is_sharded and sharding.zero == 3 else whole)
    passing = casts if is_sharded and sharding.zero == 3 else 0.0
    fixed = {
        "parameters": WIDE * own,
        "optimizer": 0.0 if sharding.is_offloaded else sharding.moments * own,
        "host": sharding.moments * own if sharding.is_offloaded else 0.0,
        "runtime": RUNTIME_BYTES[kind],
    }
    travel = WIDE if is_sharded and sharding.travels else 0.0

    def gradients(moment: Moment) -> float:
        return summed + values * (held.head + moment.weights) + travel * moment.travelling

    worst = max(moments, key=lambda moment: gradients(moment) + moment.beyond + passing * moment.gathered)
    loss = Ledger(**fixed, gradients=summed, activations=kept, logits=held.loss, gathered=stays)
    backward = Ledger(
        **fixed,
        gradients=gradients(worst),
        activations=kept + worst.beyond,
        gathered=stays + passing * worst.gathered,
    )
    reduction = Ledger(
        **fixed,
        gradients=WIDE * own + (values + WIDE) * held.root,
        gathered=stays - casts * held.root,
    )
    return max(loss, backward, reduction, key=lambda ledger: ledger.peak)
