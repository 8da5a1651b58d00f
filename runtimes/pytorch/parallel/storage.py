"""Pieces in and out of torch.distributed.checkpoint, whose files are safetensors (its Hugging Face storage).

A checkpoint holds whole tensors under names that no layout changes. Tensors that the model stores one below the other are
apart in it (`attn.q.weight`, not `attn.qkv.weight`), so that what a rank has of each is one box: a file holds a name once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ...common.errors import RunError
from .cuts import Part, Piece

SECTIONS = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""Module of the model -> what its rows are called in a checkpoint."""


def save_pieces(
    pieces: Sequence[Piece], folder: Path, *, group: dist.ProcessGroup | None, no_dist: bool = False
) -> None:
    """Write this rank's pieces; of what several ranks hold, one writes it. Every rank of `group` calls this."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save({}, storage_writer=writer, planner=_SavePlanner(pieces), process_group=group, no_dist=no_dist)


def load_pieces(
    pieces: Iterable[Piece], folder: Path, *, group: dist.ProcessGroup | None, no_dist: bool = False
) -> None:
    """Fill this rank's pieces from whatever files of `folder` have them. RunError names what none has."""
    planner = _LoadPlanner(list(pieces), folder)
    reader = HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as one device means to
        load({}, storage_reader=reader, planner=planner, process_group=group, no_dist=no_dist)


def names_in(folder: Path) -> set[str]:
    """The names of the tensors that a folder has."""
    return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


class _SavePlanner(DefaultSavePlanner):
    """DCP's planner, with pieces in place of a state dict."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__(flatten_state_dict=False)
        self.tensors: dict[str, Tensor] = {}
        self.items: list[WriteItem] = []
        for piece in pieces:
            name, offset, shape = stored_as(piece)
            self.tensors[name] = piece.tensor
            chunk = ChunkStorageMetadata(offsets=torch.Size(offset), sizes=piece.tensor.shape)
            properties = TensorProperties.create_from_tensor(piece.tensor)
            data = TensorWriteData(chunk=chunk, properties=properties, size=torch.Size(shape))
            self.items.append(WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data))

    def create_local_plan(self) -> SavePlan:
        return SavePlan(self.items)

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self.tensors[write_item.index.fqn].contiguous()


class _LoadPlanner(LoadPlanner):
    def __init__(self, pieces: Sequence[Piece], folder: Path) -> None:
        self.pieces, self.folder = pieces, folder
        self.targets: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        assert metadata is not None
        self.stored = metadata.state_dict_metadata

    def create_local_plan(self) -> LoadPlan:
        requests: list[ReadItem] = []
        for piece in self.pieces:
            for name, offset, tensor in _sources(piece, self.stored, folder=self.folder):
                stored = self.stored[name]
                assert isinstance(stored, TensorStorageMetadata)
                self.targets[name, offset] = tensor
                chunk = ChunkStorageMetadata(offsets=torch.Size(offset), sizes=tensor.shape)
                requests += create_read_items_for_chunk_list(name, stored, [chunk])
        return LoadPlan(requests)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise TypeError(f"{read_item.dest_index.fqn} is not a tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        target = self.targets[read_item.dest_index.fqn, tuple(read_item.dest_index.offset or ())]
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dim, start, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """The tensor is a view of its target."""


def stored_as(piece: Piece) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """What a piece is in a checkpoint: a name, where it begins in the tensor of that name, and that tensor's shape."""
    section = piece.part.section
    if section is None:
        return piece.name, piece.offset, piece.part.whole
    dim = piece.part.dim
    offset, shape = list(piece.offset), list(piece.part.whole)
    offset[dim], shape[dim] = offset[dim] - section.first_row, section.num_rows
    return section_names(piece.name)[section.number], tuple(offset), tuple(shape)


def section_names(name: str) -> list[str]:
    """`layers.0.attn.qkv.weight` -> the names of its sections; a name without any -> itself."""
    parts = name.split(".")
    for module, sections in SECTIONS.items():
        if module in parts:
            at = parts.index(module)
            return [".".join((*parts[:at], section, *parts[at + 1 :])) for section in sections]
    return [name]


def _sources(piece: Piece, stored: Mapping[str, Any], *, folder: Path) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    """The tensors of a checkpoint that a piece is in, where in each, and which part of the piece it fills."""
    names = [piece.name] if piece.name in stored else section_names(piece.name)
    missing = [name for name in names if name not in stored]
    if missing:
        raise RunError(f"{folder} has no {missing[0]}", help="resume with the spec that the run was started with")
    dim = piece.part.dim
    shape = list(stored[names[0]].size)
    shape[dim] = sum(stored[name].size[dim] for name in names)
    if tuple(shape) != piece.part.whole:
        raise RunError(
            f"{piece.name} has shape {shape} in {folder}, the model has {list(piece.part.whole)}",
            help="resume with the spec that the run was started with",
        )
    begin, end, first = piece.offset[dim], piece.offset[dim] + piece.tensor.shape[dim], 0
    for name in names:
        rows = stored[name].size[dim]
        start, stop = max(begin, first), min(end, first + rows)
        if start < stop:
            offset = (*piece.offset[:dim], start - first, *piece.offset[dim + 1 :])
            yield name, offset, piece.tensor.narrow(dim, start - begin, stop - start)
        first += rows


def detached(piece: Piece) -> Piece:
    """A piece with a copy of its tensor on the CPU, to be written while training goes on."""
    return replace(piece, tensor=piece.tensor.to("cpu", copy=True))


def whole_tensors(folder: Path, *, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a folder whose name begins with `prefix`, under the rest of its name, put together from all files."""
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    pieces = []
    for name, told in stored.items():
        if name.startswith(prefix):
            assert isinstance(told, TensorStorageMetadata)
            shape = tuple(told.size)
            part = Part(0, shape[0] if shape else 1, shape, (0,) * len(shape))
            pieces.append(Piece(name, part, part.offset, torch.empty(shape, dtype=told.properties.dtype), 1))
    load_pieces(pieces, folder, group=None, no_dist=True)
    return {piece.name.removeprefix(prefix): piece.tensor for piece in pieces}
