"""What part of the whole model's parameters a rank holds: cut by tensor parallelism first, then by ZeRO along rows.

A program states the first as a table, parameter -> cut. From it and from FSDP's placement follows, for every local
tensor, which boxes of which whole tensors it consists of: its *pieces*. Initial weights, checkpoints, the sum of gradients
over copies and the norm of the gradient all go by pieces, so none of them knows a strategy.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from ..weights import named_tensors
from .mesh import Axis


@dataclass(frozen=True)
class Section:
    """One of several tensors that lie one below the other, such as the keys of qkv: its number, and where its rows begin.

    In a stack of matrices, one an expert, rows are those of each matrix.
    """

    number: int
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class Part:
    """Rows [start, stop) of a parameter before ZeRO, and the box of the whole tensor that they are. Rows are along `dim`."""

    start: int
    stop: int
    whole: tuple[int, ...]
    """Shape of the whole tensor."""
    offset: tuple[int, ...]
    """Where the box begins in the whole tensor."""
    section: Section | None = None
    """Of which of several tensors that are stored as one; None: there is one."""
    copies: int = 1
    """Neighbouring ranks of tp that hold the same box."""
    is_shared: bool = False
    """Whether each copy's gradient is a part of the box', to be summed."""
    dim: int = 0


@dataclass(frozen=True)
class Whole:
    """Every rank of tp holds all of it. `is_shared`: each sees its own tokens or heads, so gradients are to be summed."""

    is_shared: bool = False

    def parts(self, shape: tuple[int, ...], tp: Axis) -> Iterator[Part]:
        yield Part(0, shape[0], shape, (0,) * len(shape), copies=tp.size, is_shared=self.is_shared)


@dataclass(frozen=True)
class Rows:
    """Equal runs of rows. `size` is the number of rows of the whole tensor; what a rank has beyond it is padding."""

    size: int

    def parts(self, shape: tuple[int, ...], tp: Axis) -> Iterator[Part]:
        start = tp.rank * shape[0]
        held = max(0, min(shape[0], self.size - start))
        yield Part(0, held, (self.size, *shape[1:]), (start, *(0,) * (len(shape) - 1)))


@dataclass(frozen=True)
class Columns:
    """Equal runs of columns of a matrix."""

    def parts(self, shape: tuple[int, ...], tp: Axis) -> Iterator[Part]:
        rows, columns = shape
        yield Part(0, rows, (rows, columns * tp.size), (0, tp.rank * columns))


@dataclass(frozen=True)
class Sections:
    """Several tensors one below the other, each cut into equal runs of rows: queries, keys and values; gate and up.

    `sizes` are their rows in the whole tensor, `copies` how many neighbouring ranks hold the same run, where a tensor has
    fewer heads than there are ranks.
    """

    sizes: tuple[int, ...]
    copies: tuple[int, ...]

    def parts(self, shape: tuple[int, ...], tp: Axis) -> Iterator[Part]:
        row, first = 0, 0
        for number, (size, copies) in enumerate(zip(self.sizes, self.copies, strict=True)):
            held = size * copies // tp.size
            offset = (first + tp.rank // copies * held, *(0,) * (len(shape) - 1))
            whole = (sum(self.sizes), *shape[1:])
            section = Section(number, first_row=first, num_rows=size)
            yield Part(row, row + held, whole, offset, section, copies, is_shared=copies > 1)
            row, first = row + held, first + size


@dataclass(frozen=True)
class EachExpert:
    """A stack of matrices or vectors, one an expert: ep takes equal runs of them, tp cuts each like `each`.

    Where ep is no axis of its own, as in servers, the ranks of tp are `groups` of neighbours: each group has a run of the
    experts, and cuts each of these among its ranks.
    """

    each: Whole | Rows | Columns | Sections
    groups: int = 1

    def parts(self, shape: tuple[int, ...], tp: Axis, ep: Axis) -> Iterator[Part]:
        if self.groups > 1:
            group, rank = divmod(tp.rank, tp.size // self.groups)
            tp, ep = replace(tp, rank=rank, size=tp.size // self.groups), replace(ep, rank=group, size=self.groups)
        for part in self.each.parts(shape[1:], tp):
            whole, offset = (shape[0] * ep.size, *part.whole), (ep.rank * shape[0], *part.offset)
            yield replace(part, whole=whole, offset=offset, dim=1)


Cut = Whole | Rows | Columns | Sections | EachExpert
ALONE = Axis(group=None, rank=0, size=1)  # type: ignore[arg-type]
"""In place of tp where there is none."""


@dataclass(frozen=True)
class Piece:
    """A box of a whole tensor that this rank holds."""

    name: str
    """Of the parameter, the same in every layout."""
    part: Part
    offset: tuple[int, ...]
    """Where the piece begins in the whole tensor."""
    tensor: Tensor
    """A view of the local tensor."""
    copies: int
    """Ranks that hold the same piece, along all axes."""


class Cuts:
    """The table of a program: the end of a parameter's name -> its cut; parameters without an entry are `rest`.

    Those of the names `twice` are in two stages of a pipeline.
    """

    def __init__(
        self,
        table: Mapping[str, Cut],
        *,
        rest: Cut,
        tp: Axis = ALONE,
        ep: Axis = ALONE,
        twice: Collection[str] = (),
    ) -> None:
        self.table, self.rest, self.tp, self.ep, self.twice = table, rest, tp, ep, twice

    def of(self, name: str) -> Cut:
        for ending, cut in self.table.items():
            if name == ending or name.endswith(f".{ending}"):
                return cut
        return self.rest

    def pieces(self, name: str, tensor: Tensor, *, of: Tensor | None = None) -> Iterator[Piece]:
        """The pieces of a parameter, or of a gradient or a moment of its shape; or of means over rows or columns of `of`."""
        local, firsts, replicas = local_part(tensor)
        replicas *= 2 if name in self.twice else 1
        for part in self._parts(name, tuple(tensor.shape), of=tuple((tensor if of is None else of).shape)):
            first, dim = firsts[part.dim], part.dim
            start, stop = max(part.start, first), min(part.stop, first + local.shape[dim])
            if start < stop and local.numel():
                offset = [begin + own for begin, own in zip(part.offset, firsts, strict=True)]
                offset[dim] = part.offset[dim] + start - part.start
                rows = local.narrow(dim, start - first, stop - start)
                yield Piece(name, part, tuple(offset), rows, part.copies * replicas)

    def parts_of_matrix(self, name: str, shape: Sequence[int], *, rank: int) -> list[Part]:
        """What a rank of tp has, of `shape`, of a whole matrix, or of each matrix in a stack."""
        cut = self.of(name)
        each = cut.each if isinstance(cut, EachExpert) else cut
        return list(each.parts(tuple(shape[-2:]), replace(self.tp, rank=rank)))

    def _parts(self, name: str, shape: tuple[int, ...], *, of: tuple[int, ...]) -> Iterator[Part]:
        cut = self.of(name)
        if shape != of and shape[1 if isinstance(cut, Columns) else 0] == 1:
            cut = Whole()
        return cut.parts(shape, self.tp, self.ep) if isinstance(cut, EachExpert) else cut.parts(shape, self.tp)

    def gradients(self, model: nn.Module) -> Iterator[Piece]:
        """The pieces of all gradients."""
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                yield from self.pieces(name, parameter.grad)


def local_part(tensor: Tensor) -> tuple[Tensor, tuple[int, ...], int]:
    """What ZeRO leaves this rank of a tensor: its rows, where they begin, and how many data-parallel ranks hold the same."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor, (0,) * max(1, tensor.dim()), 1
    mesh, placements = tensor.device_mesh, tensor.placements
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    replicas = math.prod(mesh.size(dim) for dim, each in enumerate(placements) if isinstance(each, Replicate))
    return tensor.to_local(), tuple(offset), replicas


def clear_padding(model: nn.Module, cuts: Cuts) -> None:
    """Set to zero what a rank's parameters have beyond the whole ones; no gradient and no decay moves it from there."""
    for name, parameter in model.named_parameters():
        cut = cuts.of(name)
        if isinstance(cut, Rows):
            local, (first, *_), _ = local_part(parameter)
            held = next((part.stop for part in cut.parts(tuple(parameter.shape), cuts.tp)), 0)
            local[max(0, held - first) :] = 0.0


def load_whole(model: nn.Module, cuts: Cuts, tensors: Mapping[str, Tensor]) -> None:
    """Fill a rank's parameters from whole tensors by name."""
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            for piece in cuts.pieces(name, tensor):
                piece.tensor.copy_(box(tensors[name], piece))


def box(whole: Tensor, piece: Piece) -> Tensor:
    """The part of a whole tensor that a piece is."""
    slices = (slice(start, start + size) for start, size in zip(piece.offset, piece.tensor.shape, strict=True))
    return whole[tuple(slices)]
