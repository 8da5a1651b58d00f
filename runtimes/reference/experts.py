"""Products with a matrix an expert, in plain PyTorch: the rows of an expert stand together, `counts` says how many each has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def grouped_linear(x: Tensor, weight: Tensor, counts: Sequence[int]) -> Tensor:
    """x [N, D] through weight [E, F, D]: the first counts[0] rows through the first expert, and so on -> [N, F]."""
    return torch.cat([rows @ matrix.mT for rows, matrix in zip(x.split(counts), weight, strict=True)])


def grouped_outer(y: Tensor, x: Tensor, counts: Sequence[int]) -> Tensor:
    """For each expert the sum of y x^T over its rows: y [N, F], x [N, D] -> [E, F, D]."""
    return torch.stack([a.mT @ b for a, b in zip(y.split(counts), x.split(counts), strict=True)])


def choose_experts(
    logits: Tensor, bias: Tensor | None, *, per_token: int, score: str, normalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The experts of each token and the weights of what they give, [N, X] x 2, from logits [N, E]. A bias [E] takes part in who is chosen."""
    scores = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
    experts = (scores if bias is None else scores + bias).topk(per_token).indices
    weights = scores.gather(-1, experts)
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + (0.0 if score == "softmax" else 1e-20))
    return experts, scale * weights
