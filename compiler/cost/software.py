"""How a program goes about its work: ours, or another one that a spec describes under `assume`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.assume import Assume


@dataclass(frozen=True)
class Software:
    """Facts about a program that its layout does not tell. Defaults: the programs that llmc writes."""

    kind: str = "fsdp"
    """Class: eager, fsdp, tuned, xla (constants.toml, `software`)."""
    attention: str | None = None
    """unfused, flash2 or flash3; None: what the graph says, with the best kernels of the device."""
    overlaps: bool = True
    """Whether tensor parallelism and gradients travel beside compute."""
    selective: tuple[str, ...] = ("attention",)
    """What `recompute: selective` computes again."""
    fused_loss: bool = True
    offload: float = 0.0
    """Share of activations kept in host memory."""
    expert_load: float = 1.0
    """Tokens of the busiest expert over the even share."""
    efficiency: float = 1.0
    reduces_halves: bool = False
    """Whether gradients travel in 2 bytes though they are kept in 4."""
    gathers_bytes: bool = False
    """Whether sharded weights are cast to one byte before they are gathered (float8 all-gather)."""
    cast_bytes: float = 0.0
    """Through memory, each time that a number becomes one in fp8 for a product; 0: where that costs nothing beside the product."""
    captured: bool = False
    """Whether a step is captured as a graph, so that the host is never waited for."""

    @property
    def updates_in_turn(self) -> bool:
        """Whether ranks broadcast the weights that they have updated one after the other, and all wait for that, under ZeRO-1 and 2.

        So PyTorch's ZeroRedundancyOptimizer and InternEvo; others gather them beside the next forward pass.
        """
        return self.kind == "eager"

    def recomputed(self, recompute: str) -> tuple[str, ...]:
        """What is computed again in the backward pass, by name (compute.py).

        Of a whole layer, PyTorch stops once it has all tensors that backward reads, and XLA drops what nobody reads; Megatron's
        own checkpoint runs the layer to its end.
        """
        whole = "everything" if self.kind == "tuned" else "to_last_product"
        return {"none": (), "full": (whole,)}.get(recompute, self.selective)


OURS = Software()
CAST_BYTES = 9.0
"""runtimes/pytorch/fp8.py, from bf16: a read for the largest number of its row, a read and a write of the scaled copy, a read and a
byte written."""


def software_of(assume: Assume | None, *, precision: str = "") -> Software:
    """Ours, which trains in that format, or with what a spec assumes in its place."""
    if assume is None:
        return replace(OURS, cast_bytes=CAST_BYTES) if precision == "fp8" else OURS
    said = {
        "kind": assume.software,
        "attention": assume.attention,
        "overlaps": assume.overlap,
        "selective": assume.recompute,
        "fused_loss": assume.fused_loss,
        "offload": assume.offload,
        "expert_load": assume.expert_load,
        "efficiency": assume.efficiency,
        "reduces_halves": None if assume.reduce is None else assume.reduce == "bf16",
        "gathers_bytes": None if assume.gather is None else assume.gather == "fp8",
        "captured": assume.captured,
    }
    return Software(**{name: value for name, value in said.items() if value is not None})
