"""A training layout: how the work of one optimizer step is spread over devices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from ..cost.sharding import Degrees

Zero = Literal[0, 1, 2, 3]
Schedule = Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe"]
Recompute = Literal["none", "selective", "full", "mixed"]
LayerRecompute = Literal["none", "selective", "full"]
CpKind = Literal["ring", "ulysses"]
Offload = Literal["optimizer"]
Axis = Literal["tp", "cp", "dp_shard", "dp_replicate", "pp"]

ORDER: tuple[Axis, ...] = ("tp", "cp", "dp_shard", "dp_replicate", "pp")
"""The usual order of axes on the machine, neighbours first; ranks of ep are taken out of dp_shard × cp."""
OPTIONAL = ("cp_kind", "stages", "recompute_layers", "order", "offload")
"""Fields that a plan has only where they say something."""


@dataclass(frozen=True)
class Layout:
    """Every degree, none open."""

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
    stages: tuple[int, ...] | None = None
    """Layers of each stage, from the first to the last; stage s is on rank s mod pp, with dualpipe in a V. Only where pp > 1."""
    recompute_layers: tuple[tuple[LayerRecompute, int], ...] | None = None
    """Runs of layers from the first to the last, (recompute, how many); only with `recompute: mixed`."""
    order: tuple[Axis, ...] | None = None
    """Axes from the innermost to the outermost; only where it is not the usual order."""
    offload: Offload | None = None
    """What is kept in the memory of the host; only where something is."""

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
        is_ring = self.cp > 1 and self.cp_kind != "ulysses"
        return Degrees(tp=self.tp, sequence_parallel=self.sequence_parallel, cp=self.cp, ep=self.ep, ring=is_ring)

    def stride(self, axis: Axis) -> int:
        """Devices between neighbours of a group of an axis."""
        return self._strides[axis]

    @cached_property
    def _strides(self) -> dict[Axis, int]:
        strides, product = {}, 1
        for axis in self.order or ORDER:
            strides[axis] = product
            product *= getattr(self, axis)
        return strides

    def recompute_of_layers(self, num_layers: int) -> list[Recompute]:
        """What each layer computes again."""
        if self.recompute_layers is None:
            return [self.recompute] * num_layers
        return [how for how, count in self.recompute_layers for _ in range(count)]
