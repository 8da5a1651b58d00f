"""Keys and values of a server, which are kept head by head."""

from __future__ import annotations

import torch
from torch import Tensor


def sequences(rows: Tensor, blocks: Tensor, lengths: Tensor, *, block_tokens: int) -> Tensor:
    """A layer's keys or values [K, rows, C] -> those of the sequences in `blocks` [B, N], [B, K, S, C]; zero behind their `lengths` [B].

    Gathered row by row the compiler would copy the whole layer first, to have the heads of a row beside one another. What is
    behind a sequence is somebody else's: a mask keeps scores from it, but NaN times zero would be NaN.
    """
    found = rows.unflatten(1, (-1, block_tokens))[:, blocks].flatten(2, 3).transpose(0, 1)
    is_behind = torch.arange(found.shape[2], device=rows.device) >= lengths[:, None]  # [B, S]
    return found.masked_fill(is_behind[:, None, :, None], 0.0)
