"""How large the numbers are that linear layers multiply their weights with: rounding to four bits goes by it.

When a server starts there is no text. Tokens at random do nearly as well (docs/kernels.md): which columns of its inputs a layer
finds large is less the text's than the model's, by the weights of its norms and a few columns of the residual stream that outdo the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .packed import PackedLinear, packed_weights

NUM_TOKENS = 256
LEAST = 0.1
"""Of the mean, which is added to all columns: one that these tokens hardly reach may be what others are about."""


def layers_by_inputs(model: nn.Module) -> dict[str, PackedLinear]:
    """The layers whose rounding goes by their inputs, by the names of their weights."""
    return {
        name: layer
        for name, layer in packed_weights(model).items()
        if isinstance(layer, PackedLinear) and layer.goes_by_inputs
    }


@torch.no_grad()
def measure_inputs(model: Any) -> dict[str, Tensor]:
    """Mean squares [K] of the inputs of the layers that go by them, by the names of their weights."""
    layers = layers_by_inputs(model)
    own = dict(model.named_parameters())
    most = len(own["positions.weight"]) if "positions.weight" in own else NUM_TOKENS
    drawn = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(own["embed.weight"]), (1, min(most, NUM_TOKENS)), generator=drawn)
    with _noted(layers) as squares:
        model.logits(model(tokens.to(next(iter(layers.values())).codes.device)))
    return {name: each + LEAST * each.mean() for name, each in squares.items()}


@contextmanager
def _noted(layers: dict[str, PackedLinear]) -> Iterator[dict[str, Tensor]]:
    """Within, layers note the mean squares of what they are given."""
    squares: dict[str, Tensor] = {}

    def noting(name: str, layer: PackedLinear) -> None:
        product = layer.forward

        def forward(x: Tensor) -> Tensor:
            squares[name] = x.flatten(0, -2).float().square().mean(0)
            return product(x)

        layer.forward = forward

    for name, layer in layers.items():
        noting(name, layer)
    try:
        yield squares
    finally:
        for layer in layers.values():
            del layer.forward
