"""What a plan claims of its training program, to the byte: `llmc verify` executes the program and holds it to this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..cost.inventory import Setting, Shipment, inventory, state_bytes_of
from ..cost.moments import Kept
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
    """Of one rank, in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
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
    figures: tuple[Figures, ...] = Field(
        description="Of rank 0 and, in a pipeline, of one with the last stage and one that needs most memory. Empty: the inventory does not know this layout's traffic to the byte yet."
    )

    def to_text(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def claims_of(spec: Spec, outcome: TrainOutcome, *, kernels: frozenset[str] = frozenset()) -> TrainClaims:
    """The claims for a program of several devices that has these kernels (compiler/kernels/).

    The plan counts separate ops on several devices, since kernels depend on the layout; the claim is for the program as it is.
    """
    work, layout = outcome.work, outcome.chosen.layout
    is_spmd = spec.hardware.accelerator.kind == "tpu"  # whose kernel takes queries and keys that are rotated
    graph = fuse_rope_attention(work.graph) if "causal_attention" in kernels and not is_spmd else work.graph
    priced = work.with_graph(graph, kernels=kernels)
    ledgers = dict(
        zip((rank.first for rank in priced.ranks(layout)), priced.ledgers(layout, in_order=True), strict=True)
    )
    worst = max(ledgers, key=lambda stage: ledgers[stage].peak)
    peaks = {stage: round(ledgers[stage].allocated) for stage in sorted({0, worst, layout.pp - 1})}
    return claims_of_layout(spec, work.graph, layout, peaks=peaks)


def claims_of_layout(spec: Spec, graph: Graph, layout: Layout, *, peaks: Mapping[int, int]) -> TrainClaims:
    """The claims for a layout of several devices; `peaks` are those of the ranks of the pipeline that are looked at."""
    # Where the backward pass is split, ZeRO-2 sends the head's gradient as often as it happens to be there.
    has_figures = not (layout.schedule in SPLITS_BACKWARD and layout.pp > 1 and layout.zero == 2)
    figures = [_figures(spec, graph, layout, stage_rank=stage, peak=peak) for stage, peak in peaks.items()]
    return TrainClaims(
        device=spec.hardware.accelerator.kind, layout=layout, figures=tuple(figures) if has_figures else ()
    )


def _figures(spec: Spec, graph: Graph, layout: Layout, *, stage_rank: int, peak: int) -> Figures:
    assert spec.train is not None
    train = spec.train[0]
    vocab = -(-spec.model.vocab_size // layout.tp)
    setting = Setting(
        seq_len=train.seq_len,
        values=4 if train.precision == "fp32" else 2,
        loss_chunk=chunk_of(vocab, precision=train.precision),
        stage_rank=stage_rank,
        kept=Kept(train.optimizer.name, has_average=train.ema_decay is not None),
    )
    parameters, optimizer = state_bytes_of(graph, layout, setting)
    return Figures(
        rank=stage_rank * layout.stride("pp"),
        traffic=inventory(graph, layout, setting),
        parameters=parameters,
        gradients=parameters,
        optimizer=optimizer,
        peak=peak,
        kv_copies=kv_copies(graph, layout),
    )
