"""Checkpoints of programs for TPUs: the files of PyTorch's programs for several devices, so a run may move between them.

Each host writes the boxes that its devices hold, under the names and in the shapes that every layout has
(runtimes/pytorch/parallel/checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..pytorch.checkpoint import Saved
from ..pytorch.parallel.checkpoint import MODEL, OPTIMIZER, SharedCheckpoints
from ..pytorch.parallel.cuts import Piece
from ..pytorch.parallel.storage import load_pieces
from . import device
from .spreads import Spreads

MOMENTS = ("exp_avg", "exp_avg_sq")


class SpreadCheckpoints(SharedCheckpoints):
    """The checkpoints of one run, of which the latest `keep` stay on disk. Every host calls every method."""

    def __init__(self, folder: Path, spreads: Spreads, *, keep: int) -> None:
        super().__init__(folder, spreads, keep=keep)  # type: ignore[arg-type]  # what it asks of cuts, spreads have
        self.spreads = spreads

    def load(self, saved: Saved, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Fill the devices of this host from a verified checkpoint of any layout."""
        is_sharded = (saved.folder / MODEL).is_dir()
        folders = [saved.folder / part if is_sharded else saved.folder for part in (MODEL, OPTIMIZER)]
        self._fill([(name, name, weight) for name, weight in model.named_parameters()], folders[0])
        self._fill(list(_moments(model, optimizer)), folders[1])
        for parameter in model.parameters():
            optimizer.state[parameter]["step"] = torch.tensor(float(saved.step), device=device.device())

    def _fill(self, tensors: list[tuple[str, str, Tensor]], folder: Path) -> None:
        """(name in the checkpoint, name of the parameter, tensor on the devices)"""
        shards = [device.local_shards(tensor) for _, _, tensor in tensors]
        wanted: list[Piece] = []
        for (stored, name, tensor), held in zip(tensors, shards, strict=True):
            for shard in held:
                wanted += self._stored(stored, name, shard, tensor)
        load_pieces(wanted, folder, group=self.group)
        for (_, _, tensor), held in zip(tensors, shards, strict=True):
            device.load_local_shards(tensor, held)

    def _stored(self, stored: str, name: str, shard: Any, tensor: Tensor) -> Iterator[Piece]:
        for piece in self.spreads.pieces_of(name, shard.unpadded_data, shard.indices, tuple(tensor.shape)):
            yield Piece(stored, piece.part, piece.offset, piece.tensor, piece.copies)


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in model.named_parameters():
        for kind in MOMENTS:
            yield f"{kind}.{name}", name, optimizer.state[parameter][kind]
