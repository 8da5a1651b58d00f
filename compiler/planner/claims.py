"""What a plan claims of its training program, to the byte: `llmc verify` executes the program and holds it to this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..cost.inventory import Setting, Shipment, inventory, state_bytes_of
from ..cost.stored import kv_copies
from ..kernels.linear_cross_entropy import chunk_of
from ..passes.fuse_rope_attention import fuse_rope_attention
from .enumerate import SPLITS_BACKWARD
from .layout import Layout

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..ir.graph import Graph
    from .train_plan import TrainOutcome


CLAIMS_FILE = "claims.json"


class Figures(BaseModel):
    """Of rank 0, in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    traffic: tuple[Shipment, ...] = Field(description="Everything that the rank sends in a step, by axis and kind.")
    parameters: int = Field(description="Bytes of the rank's shards of the weights.")
    gradients: int
    optimizer: int = Field(description="Bytes of the optimizer's moments.")
    peak: int = Field(description="Most bytes that tensors take at once, by the ledger.")
    kv_copies: int = Field(description="Ranks of tp that hold the same key/value head.")


class TrainClaims(BaseModel):
    """What a program is held to; `claims.json` of a build."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["gpu", "tpu", "npu", "cpu"] = Field(description="What kind of device the program is for.")
    layout: Layout
    figures: Figures | None = Field(
        description="null: the inventory does not know this layout's traffic to the byte yet."
    )

    def to_text(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def claims_of(spec: Spec, outcome: TrainOutcome, *, kernels: frozenset[str] = frozenset()) -> TrainClaims:
    """The claims for a program of several devices that has these kernels (compiler/kernels/).

    The plan counts separate ops on several devices, since kernels depend on the layout; the claim is for the program as it is.
    """
    chosen, work, ledger = outcome.chosen, outcome.work, outcome.chosen.ledger
    if "causal_attention" in kernels:
        ledger = work.with_graph(fuse_rope_attention(work.graph)).ledger(chosen.layout)
    return claims_of_layout(spec, work.graph, chosen.layout, peak=round(ledger.allocated))


def claims_of_layout(spec: Spec, graph: Graph, layout: Layout, *, peak: int) -> TrainClaims:
    """The claims for a layout of several devices."""
    # Where the backward pass is split, ZeRO-2 sends the head's gradient as often as it happens to be there.
    has_figures = not (layout.schedule in SPLITS_BACKWARD and layout.pp > 1 and layout.zero == 2)
    return TrainClaims(
        device=spec.hardware.accelerator.kind,
        layout=layout,
        figures=_figures(spec, graph, layout, peak=peak) if has_figures else None,
    )


def _figures(spec: Spec, graph: Graph, layout: Layout, *, peak: int) -> Figures:
    assert spec.train is not None
    train = spec.train[0]
    vocab = -(-spec.model.vocab_size // layout.tp)
    setting = Setting(
        seq_len=train.seq_len,
        values=2 if train.precision == "bf16" else 4,
        loss_chunk=chunk_of(vocab, precision=train.precision),
    )
    parameters, optimizer = state_bytes_of(graph, layout, setting, optimizer=train.optimizer.name)
    return Figures(
        traffic=inventory(graph, layout, setting),
        parameters=parameters,
        gradients=parameters,
        optimizer=optimizer,
        peak=peak,
        kv_copies=kv_copies(graph, layout),
    )
