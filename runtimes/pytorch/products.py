"""The three products of a linear layer, as functions: those of PyTorch, or of a layer that computes them in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Products(NamedTuple):
    """Of x [..., D], weight [F, D] and the gradient g [..., F] of the output."""

    output: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """x, weight, bias -> [..., F]"""
    to_input: Callable[[Tensor, Tensor], Tensor]
    """g, weight -> [..., D]"""
    to_weight: Callable[[Tensor, Tensor], Tensor]
    """g, x -> [F, D]"""


PLAIN = Products(
    output=F.linear,
    to_input=lambda g, weight: g @ weight,
    to_weight=lambda g, x: g.flatten(0, -2).T @ x.flatten(0, -2),
)


def products_of(layer: nn.Module) -> Products:
    return getattr(layer, "products", PLAIN)
