"""Linear layers that keep their weight in the order in which kernels read it, and those of them in few bits.

Sixteen rows of a weight [N, K] are a panel, a lane each; in few bits a lane has 32-bit words of neighbouring codes along K:

    codes [N/16, K/WORD, 16], scales and offsets [N/16, groups, 16]        N and K filled up with zeros

Where scales are bytes, the units of their rows, in bf16, are the first two of a panel's groups.

Words have their codes in the order that kernels/int*_linear.cpp of a build names: even ones in the lower half. How
bf16 lies in panels is told in lossless.py.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..reference.weight_only import FOUR_BITS, Quantised, dequantise, quantise

LANES = 16
_UNITS = 2
"""Groups of bytes that the units of a panel's rows take."""
ROWS_AT_A_TIME = 256
"""Rows that are put in order at a time: what that takes beside the weight itself stays in the cache."""


class PanelLinear(nn.Module, ABC):
    """A layer whose weight lies in panels, in a subclass's format, without its product, which the generated subclass of that has."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.num_panels = -(-out_features // LANES)
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device="meta")
        )  # what a checkpoint has; no memory
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        """Without PyTorch's hooks: looking for them takes a tenth of a small product's time."""
        return self.forward(x)

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """What the weight takes."""

    @abstractmethod
    def fill(self, weight: Tensor, *, inputs: Tensor | None = None, is_draft: bool = False) -> None:
        """Keep a weight [N, K]. `inputs` are mean squares of what its columns are multiplied with [K], for formats that go by them. Of a
        draft they are to be measured: it is kept in the least time."""

    @abstractmethod
    def fill_randomly(self, *, deviation: float) -> None:
        """Numbers of about that standard deviation."""

    @abstractmethod
    def rows(self, tokens: Tensor) -> Tensor:
        """Rows [..., K] of the weight, where it is also a table of embeddings."""


class PackedLinear(PanelLinear):
    """The same in few bits."""

    bits: ClassVar[int]
    group: ClassVar[int]
    has_offset: ClassVar[bool]

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        words, groups = -(-in_features // (32 // self.bits)), -(-in_features // self.group)
        kept, kind = (_UNITS + groups, torch.int8) if self.has_units else (groups, torch.bfloat16)
        self.codes = in_huge_pages((self.num_panels, words, LANES), torch.int32)
        self.scales = in_huge_pages((self.num_panels, kept, LANES), kind)
        self.offsets = in_huge_pages((self.num_panels, groups, LANES), torch.bfloat16) if self.has_offset else None

    @property
    def num_bytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + (0 if self.offsets is None else self.offsets.nbytes)

    @property
    def has_units(self) -> bool:
        """Scales are bytes, in units of their row."""
        return not self.has_offset

    @property
    def goes_by_inputs(self) -> bool:
        """Scales are searched for, and the better if it is known what columns are multiplied with."""
        return self.bits == 4 and self.has_units

    @property
    def numbers(self) -> Tensor:
        """What the codes of four bits stand for."""
        return torch.tensor(range(-8, 8) if self.has_offset else FOUR_BITS, dtype=torch.int8)

    @torch.no_grad()
    def fill(self, weight: Tensor, *, inputs: Tensor | None = None, is_draft: bool = False) -> None:
        """Round a weight [N, K] and keep it."""
        assert weight.shape == self.weight.shape
        for first in range(0, self.out_features, ROWS_AT_A_TIME):
            rows = weight[first : first + ROWS_AT_A_TIME]
            found = quantise(
                rows,
                bits=self.bits,
                group=self.group,
                has_offset=self.has_offset,
                inputs=inputs,
                searches=not is_draft,
            )
            panels = slice(first // LANES, first // LANES + -(-len(rows) // LANES))
            codes = found.codes if self.bits == 8 else _places(found.codes, self.numbers)
            self.codes[panels] = _words(codes, bits=self.bits)
            if found.units is None:
                self.scales[panels] = _lanes(found.scales)
            else:
                self.scales[panels, :_UNITS] = _lanes(found.units[:, None]).view(torch.int8).view(-1, _UNITS, LANES)
                self.scales[panels, _UNITS:] = _lanes(found.scales)
            if self.offsets is not None and found.offsets is not None:
                self.offsets[panels] = _lanes(found.offsets)

    @torch.no_grad()
    def fill_randomly(self, *, deviation: float) -> None:
        """Codes at random, with scales that give weights of about that standard deviation."""
        self.codes.view(torch.uint8).random_(0, 256)
        levels = self.numbers.float() if self.bits == 4 else torch.arange(-128.0, 128.0)
        step = deviation / float(levels.std())
        if self.has_units:
            self.scales[:, :_UNITS].view(torch.bfloat16).fill_(step / 64)
            self.scales[:, _UNITS:] = 64
        else:
            self.scales.fill_(step)
        if self.offsets is not None:
            self.offsets.zero_()

    def whole(self) -> Tensor:
        return dequantise(self.unpacked(), group=self.group)

    def unpacked(self) -> Quantised:
        """Codes [N, K], scales and offsets [N, groups], units [N], as they were rounded."""
        panels, lanes = torch.meshgrid(torch.arange(len(self.codes)), torch.arange(LANES), indexing="ij")
        return self._found(panels.flatten()[: self.out_features], lanes.flatten()[: self.out_features])

    def rows(self, tokens: Tensor) -> Tensor:
        found = self._found(tokens.flatten() // LANES, tokens.flatten() % LANES)
        return dequantise(found, group=self.group).view(*tokens.shape, self.in_features)

    def _found(self, panel: Tensor, lane: Tensor) -> Quantised:
        """Rows that are these lanes of these panels."""
        codes = _codes(self.codes[panel, :, lane][:, :, None], bits=self.bits)[:, : self.in_features, 0]
        if self.bits == 4:
            codes = self.numbers.to(codes.device)[codes.int()]
        offsets = None if self.offsets is None else self.offsets[panel, :, lane]
        if not self.has_units:
            return Quantised(codes, self.scales[panel, :, lane], offsets, None)
        units = self.scales[:, :_UNITS].reshape(-1, _UNITS * LANES).view(torch.bfloat16)
        return Quantised(codes, self.scales[panel, _UNITS:, lane], offsets, units[panel, lane])


def packed_weights(model: nn.Module) -> dict[str, PanelLinear]:
    """Name of a weight in a checkpoint -> the layer that puts it in order, or rounds it."""
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, PanelLinear)}


def fill_randomly(model: nn.Module, *, deviation: float = 0.02) -> None:
    """Random weights for layers in panels, as other layers have when they are made."""
    for module in model.modules():
        if isinstance(module, PanelLinear):
            module.fill_randomly(deviation=deviation)


def in_huge_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros, in memory whose pages are 2 MiB where the system has such: weights are read from end to end at every token, and
    the processor looks up fewer addresses. Small tensors share a region. On other devices than CPUs just zeros."""
    if torch.get_default_device().type != "cpu":
        return torch.zeros(shape, dtype=dtype)
    size = -(-torch.Size(shape).numel() * dtype.itemsize // 64) * 64
    begin = _take(size)
    return begin[: torch.Size(shape).numel() * dtype.itemsize].view(dtype).view(shape)


_HUGE_PAGE = 2 << 20
_REGION_BYTES = 64 << 20
_free = torch.empty(0, dtype=torch.uint8)


def _take(size: int) -> Tensor:
    global _free
    if size > len(_free):
        whole = -(-max(size, _REGION_BYTES) // _HUGE_PAGE) * _HUGE_PAGE
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory gets small pages
        region = mmap.mmap(-1, whole + _HUGE_PAGE, flags=private)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            region.madvise(mmap.MADV_HUGEPAGE)
        taken = torch.frombuffer(region, dtype=torch.uint8)
        begin = -taken.data_ptr() % _HUGE_PAGE
        _free = taken[begin : begin + whole]
    taken, _free = _free[:size], _free[size:]
    return taken


def _lanes(rows: Tensor) -> Tensor:
    """[N, X] -> [N/16, X, 16]"""
    filled = nn.functional.pad(rows, (0, 0, 0, -len(rows) % LANES))
    return filled.unflatten(0, (-1, LANES)).transpose(1, 2)


def _words(codes: Tensor, *, bits: int) -> Tensor:
    """Codes [N, K] -> words [N/16, K/WORD, 16]: half h of a word has the codes h, h + 2, h + 4, … from its lowest bits on."""
    word = 32 // bits
    parts = nn.functional.pad(codes, (0, -codes.shape[1] % word)).view(torch.uint8)
    parts = parts.unflatten(1, (-1, word // 2, 2)).transpose(2, 3)  # [N, K/WORD, half, WORD/2]
    if bits == 4:
        parts = (parts[..., 0::2] & 15) | (parts[..., 1::2] << 4)
    return _lanes(parts.flatten(2).clone(memory_format=torch.contiguous_format).view(torch.int32).squeeze(-1))


def _places(codes: Tensor, numbers: Tensor) -> Tensor:
    """Where each of the codes is among the numbers."""
    table = torch.zeros(256, dtype=torch.int8)
    table[numbers.int() + 128] = torch.arange(16, dtype=torch.int8)
    return table.index_select(0, codes.flatten().int() + 128).view_as(codes)


def _codes(words: Tensor, *, bits: int) -> Tensor:
    """Words [P, X, 16] -> codes [P, X * WORD, 16], int8."""
    parts = words.transpose(1, 2).clone(memory_format=torch.contiguous_format).view(torch.uint8)  # [P, 16, 4X]
    if bits == 4:
        parts = torch.stack((parts & 15, parts >> 4), dim=-1).flatten(2)
    parts = parts.unflatten(2, (-1, 2, 16 // bits)).transpose(3, 4).flatten(2)
    return parts.view(torch.int8).transpose(1, 2)
