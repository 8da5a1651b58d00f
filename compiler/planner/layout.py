"""A training layout: how the work of one optimizer step is spread over devices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from ..cost.sharding import Degrees

Zero = Literal[0, 1, 2, 3]
Schedule = Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe"]
Recompute = Literal["none", "selective", "full"]
CpKind = Literal["ring", "ulysses"]


@dataclass(frozen=True)
class Layout:
    """Every degree, none open. Ranks are numbered with tp innermost, then cp, dp_shard, dp_replicate, pp."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    dp_replicate: int = 1
    dp_shard: int = 1
    zero: Zero = 0
    tp: int = 1
    sequence_parallel: bool = False
    cp: int = 1
    pp: int = 1
    ep: int = 1
    schedule: Schedule = "1f1b"
    virtual_stages: int = 1
    micro_batch: int = 1
    grad_accumulation: int = 1
    recompute: Recompute = "none"
    cp_kind: CpKind | None = None
    """Written only where cp > 1."""

    @cached_property
    def devices(self) -> int:
        return self.dp_replicate * self.dp_shard * self.tp * self.cp * self.pp

    @property
    def data_parallel(self) -> int:
        """Ranks that see different sequences."""
        return self.dp_replicate * self.dp_shard

    @property
    def shards(self) -> int:
        """Ranks that model states are sharded over: those of dp_shard and of cp."""
        return self.dp_shard * self.cp

    @cached_property
    def degrees(self) -> Degrees:
        return Degrees(tp=self.tp, sequence_parallel=self.sequence_parallel, cp=self.cp, ep=self.ep)
