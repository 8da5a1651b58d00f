"""The parallel layout. `auto` leaves everything to the planner; what is given is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .base import Node
from .units import Count, Flag, NotAFlag, Sequences


class Parallel(Node):
    """Degrees of parallelism. A field that is null is open: the planner fills it with `rest: auto`, else it is 1 or none."""

    rest: Literal["auto"] | None = Field(default=None, description="auto: the planner fills what is not given here.")
    dp_replicate: Count | None = Field(default=None, description="Replicas that hold the same shards.")
    dp_shard: Count | None = Field(default=None, description="Ranks that model states are sharded over.")
    zero: Annotated[Literal[0, 1, 2, 3], NotAFlag] | None = Field(
        default=None, description="What dp_shard shards: 0 nothing, 1 optimizer state, 2 + gradients, 3 + parameters."
    )
    tp: Count | None = Field(default=None, description="Tensor-parallel ranks.")
    sequence_parallel: Flag | None = Field(
        default=None, description="Shard norms and residuals over tp along the sequence."
    )
    cp: Count | None = Field(default=None, description="Context-parallel ranks: each holds a part of every sequence.")
    cp_kind: Literal["ring", "ulysses"] | None = Field(
        default=None, description="How context-parallel ranks exchange keys and values."
    )
    pp: Count | None = Field(default=None, description="Pipeline stages.")
    ep: Count | None = Field(default=None, description="Expert-parallel ranks.")
    schedule: Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe"] | None = Field(
        default=None, description="Pipeline schedule."
    )
    virtual_stages: Count | None = Field(default=None, description="Stages a pipeline rank holds.")
    stages: Annotated[list[Count], Field(min_length=1)] | None = Field(
        default=None, description="Layers of each pipeline stage, from the first to the last; null: the planner's."
    )
    order: list[Literal["tp", "cp", "dp_shard", "dp_replicate", "pp"]] | None = Field(
        default=None,
        description="Mesh axes from the innermost (neighbouring devices) to the outermost; null: the planner's.",
    )
    micro_batch: Sequences | None = Field(default=None, description="Sequences a forward pass of one rank.")
    grad_accumulation: Count | None = Field(default=None, description="Forward passes an optimizer step.")
    recompute: Literal["none", "selective", "full"] | None = Field(
        default=None,
        description="Activations computed again in the backward pass: none, those of attention, or all of a layer.",
    )
    offload: Literal["none", "optimizer", "auto"] | None = Field(
        default=None,
        description="optimizer: its states are kept in the memory of the host, which computes the update; auto: only where nothing else fits; null: none.",
    )

    @property
    def is_auto(self) -> bool:
        """Whether open fields are the planner's."""
        return self.rest == "auto"


def _from_auto(value: Any) -> Any:
    """`auto` is short for `{rest: auto}`."""
    return {"rest": "auto"} if value == "auto" else value


ParallelOrAuto = Annotated[Parallel, BeforeValidator(_from_auto, json_schema_input_type=Literal["auto"] | Parallel)]
