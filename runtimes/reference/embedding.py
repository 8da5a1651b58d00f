"""Rows of an embedding, in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def embed(tokens: Tensor, weight: Tensor) -> Tensor:
    """tokens [...] of a table [V, D] -> [..., D]."""
    return F.embedding(tokens, weight)
