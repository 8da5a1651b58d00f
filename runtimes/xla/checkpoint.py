"""Checkpoints of programs for TPUs: the files of PyTorch's programs for several devices, so a run may move between them.

Each host writes the boxes that its devices hold, under the names and in the shapes that every layout has
(runtimes/pytorch/parallel/checkpoint.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..pytorch.checkpoint import Saved
from ..pytorch.parallel.checkpoint import MODEL, OPTIMIZER, SharedCheckpoints
from ..pytorch.parallel.cuts import Piece
from ..pytorch.parallel.storage import load_pieces, stored_as
from . import device
from .spreads import Spreads

MOMENTS = ("exp_avg", "exp_avg_sq")


class SpreadCheckpoints(SharedCheckpoints):
    """The checkpoints of one run, of which the latest `keep` stay on disk. Every host calls every method."""

    def __init__(self, folder: Path, spreads: Spreads, *, keep: int) -> None:
        super().__init__(folder, spreads, keep=keep)  # type: ignore[arg-type]  # what it asks of cuts, spreads have
        self.spreads = spreads

    def save_part(self, pieces: Sequence[Piece], folder: Path) -> None:
        """A file has a name once, and a host has several boxes of a tensor: it writes as many files as it has boxes of one."""
        files: list[dict[str, tuple[tuple[int, ...], Tensor]]] = []
        for piece in pieces:
            name, offset, _ = stored_as(piece)
            file = next((each for each in files if name not in each), None)
            if file is None:
                file = {}
                files.append(file)
            file[name] = (offset, piece.tensor.contiguous())
        for number, file in enumerate(files):
            offsets = {name: {"saved_offsets": list(offset)} for name, (offset, _) in file.items()}
            metadata = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
            path = folder / f"shard-{device.host_number():05d}-{number:05d}.safetensors"
            save_file({name: tensor for name, (_, tensor) in file.items()}, path, metadata=metadata)

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
            for shard in _different(held):
                wanted += self._stored(stored, name, shard, tensor)
        load_pieces(wanted, folder, group=self.group)
        for (_, _, tensor), held in zip(tensors, shards, strict=True):
            filled = {str(shard.indices): shard for shard in _different(held)}
            for shard in held:
                shard.unpadded_data.copy_(filled[str(shard.indices)].unpadded_data)
            device.load_local_shards(tensor, held)

    def _stored(self, stored: str, name: str, shard: Any, tensor: Tensor) -> Iterator[Piece]:
        for piece in self.spreads.pieces_of(name, shard.unpadded_data, shard.indices, tuple(tensor.shape)):
            yield Piece(stored, piece.part, piece.offset, piece.tensor, piece.copies)


def _different(shards: list[Any]) -> list[Any]:
    """Of devices that hold the same box, the first."""
    return list({str(shard.indices): shard for shard in reversed(shards)}.values())


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in model.named_parameters():
        for kind in MOMENTS:
            yield f"{kind}.{name}", name, optimizer.state[parameter][kind]
