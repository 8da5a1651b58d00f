"""Linear layers that keep a bf16 weight in 12 bits a number and give every bit of it back.

The upper byte of a bf16 number is its sign and most of its exponent: of a trained weight's 256 possible ones fifteen are nearly all
that occur, and zero. Those have a code of four bits, which is their place in a table of the weight; the lower byte is kept as it is.
What has no code (one number in 5,000 where weights are normally distributed) is an escape: zero in its place, and beside the weight its
column, lane and bits. Only the exponent is compressed, as in DFloat11 (Zhang et al. 2025, arXiv:2504.11651), but in codes of one
length: reading such a weight takes a shuffle of bytes and no state.

Sixteen rows of a weight [N, K] are a panel, a lane each. Eight numbers of K are a unit of 192 bytes: lower bytes of the first four
numbers of all lanes, those of the last four, and their codes, of the first four in the lower halves of bytes. In both, bytes are
in the order of 4 quarters of the lanes, 2 pairs of numbers, 4 lanes, 2 numbers of a pair.

    units [N/16, K/8, 192]    table [16]    escapes [E, 2], of panel p from bounds[p] to bounds[p + 1]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .packed import LANES, ROWS_AT_A_TIME, PanelLinear, in_huge_pages

UNIT = 8
UNIT_BYTES = LANES * UNIT * 12 // 8
_SAMPLED = 1 << 20
"""Numbers, at least, by which the table of a weight is chosen."""
_NO_CODE = 16


class LosslessLinear(PanelLinear):
    """A layer with a weight in bf16, without its product, which the generated subclass has."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.units = in_huge_pages((self.num_panels, -(-in_features // UNIT), UNIT_BYTES), torch.uint8)
        self.table = torch.zeros(16, dtype=torch.uint8)
        self.bounds = torch.zeros(self.num_panels + 1, dtype=torch.int32)
        self.escapes = torch.empty(0, 2, dtype=torch.int32)

    @property
    def num_bytes(self) -> int:
        return sum(each.nbytes for each in (self.units, self.table, self.bounds, self.escapes))

    @torch.no_grad()
    def fill(self, weight: Tensor, *, inputs: Tensor | None = None, is_draft: bool = False) -> None:
        assert weight.shape == self.weight.shape
        self.table = _frequent(weight)
        code_of = torch.full((256,), _NO_CODE, dtype=torch.uint8)
        code_of[self.table.long().flip(0)] = torch.arange(16, dtype=torch.uint8).flip(0)  # 0 is its own, if there twice
        counts, escapes = [torch.zeros(1, dtype=torch.int64)], []
        for first in range(0, self.out_features, ROWS_AT_A_TIME):
            rows = weight[first : first + ROWS_AT_A_TIME].to(torch.bfloat16)
            bits = nn.functional.pad(rows, (0, -self.in_features % UNIT, 0, -len(rows) % LANES)).view(torch.int16)
            lower, upper = bits.to(torch.uint8), (bits >> 8).to(torch.uint8)
            codes = code_of.index_select(0, upper.flatten().int()).view_as(lower)
            row, column = (codes == _NO_CODE).nonzero(as_tuple=True)
            lower[row, column] = codes[row, column] = 0
            counts.append((row // LANES).bincount(minlength=len(bits) // LANES))
            escapes.append(torch.stack((column.int(), bits[row, column].int() << 16 | (row % LANES).int()), dim=1))
            units = self.units[first // LANES : (first + len(bits)) // LANES]
            units[:, :, :128] = _in_units(lower).flatten(2)
            first_half, second_half = _in_units(codes).unbind(2)
            torch.bitwise_or(first_half, second_half << 4, out=units[:, :, 128:])
        self.bounds, self.escapes = torch.cat(counts).cumsum(0).int(), torch.cat(escapes)

    @torch.no_grad()
    def fill_randomly(self, *, deviation: float) -> None:
        self.fill(deviation * torch.randn(self.out_features, self.in_features))

    def whole(self) -> Tensor:
        """The weight [N, K] that was kept."""
        return self.rows(torch.arange(self.out_features))

    def rows(self, tokens: Tensor) -> Tensor:
        row = tokens.flatten()
        panel, lane = row // LANES, row % LANES
        # [N/16, K/8, lower or codes, quarters, pairs, lanes, numbers] -> [rows, K/8, 2 or 1, pairs, numbers]
        found = self.units.unflatten(2, (3, 4, 2, 4, 2))[panel, :, :, lane // 4, :, lane % 4]
        lower, codes = found[:, :, :2], found[:, :, 2]
        upper = self.table[torch.stack((codes & 15, codes >> 4), dim=2).int()]
        numbers = torch.stack((lower, upper), dim=-1).flatten(1).view(torch.bfloat16)[:, : self.in_features]
        at, column, bits = self._escapes_of(panel, lane)
        numbers.view(torch.int16)[at, column] = bits
        return numbers.view(*tokens.shape, self.in_features)

    def _escapes_of(self, panel: Tensor, lane: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which of the rows, column and bits of each escape in rows of these panels and lanes."""
        begin, counts = self.bounds[panel], self.bounds[panel + 1] - self.bounds[panel]
        at = torch.arange(len(panel)).repeat_interleave(counts)
        within = torch.arange(len(at)) - (counts.cumsum(0) - counts)[at]
        column, rest = self.escapes[begin[at] + within].unbind(1)
        is_of_row = (rest & 0xFFFF) == lane[at]
        return at[is_of_row], column[is_of_row], (rest[is_of_row] >> 16).short()


def _frequent(weight: Tensor) -> Tensor:
    """Zero, and the fifteen other upper bytes that a sample of the rows has most."""
    step = max(1, weight.numel() // _SAMPLED)
    upper = weight[::step].to(torch.bfloat16).contiguous().view(torch.uint8)[..., 1::2]
    counts = upper.flatten().int().bincount(minlength=256)
    counts[0] = -1
    return torch.cat((torch.zeros(1, dtype=torch.uint8), counts.topk(15).indices.sort().values.to(torch.uint8)))


def _in_units(parts: Tensor) -> Tensor:
    """[N, K] -> [N/16, K/8, 2, 64]"""
    pairs = parts.view(torch.int16).unflatten(0, (-1, 4, 4)).unflatten(3, (-1, 2, 2))
    # [panels, quarters, lanes, units, halves, pairs] -> [panels, units, halves, quarters, pairs, lanes]
    return pairs.permute(0, 3, 4, 1, 5, 2).flatten(3).view(torch.uint8)
