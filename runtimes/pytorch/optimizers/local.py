"""A rank's part of sharded tensors, and the ranks that have the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard


@dataclass(frozen=True)
class Shards:
    """How a parameter is cut by ZeRO: `dim` into equal runs, the last ones shorter, over the ranks of a group."""

    group: dist.ProcessGroup
    rank: int
    size: int
    dim: int

    def run(self, length: int, rank: int) -> int:
        """What a rank has of a dim of `length`."""
        most = -(-length // self.size)
        return max(0, min(length, (rank + 1) * most) - rank * most)


def local(tensor: Tensor) -> Tensor:
    """What this rank has; writing to it writes to the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shards_of(tensor: Tensor) -> Shards | None:
    """None: this rank has all of it, as far as ZeRO goes."""
    if not isinstance(tensor, DTensor):
        return None
    mesh = tensor.device_mesh
    for index, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard) and mesh.size(index) > 1:
            return Shards(mesh.get_group(index), mesh.get_local_rank(index), mesh.size(index), placement.dim)
    return None


def trained(group: dict[str, Any]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a group that have a gradient, with their names where the group was given any."""
    names = group.get("param_names") or [""] * len(group["params"])
    for name, parameter in zip(names, group["params"], strict=True):
        if parameter.grad is not None:
            yield name, parameter
