"""The dense feed-forward block, gated or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.ops import ACTIVATION, GATED_ACTIVATION
from ..parts import add_linear

if TYPE_CHECKING:
    from ....spec.model import Model
    from ...ir.builder import Builder


def add_feed_forward(builder: Builder, model: Model, x: str) -> str:
    """Normed residual [B, T, D] -> [B, T, D]."""
    return add_mlp(builder, model, x, prefix="mlp", width=model.intermediate_size)


def add_mlp(builder: Builder, model: Model, x: str, *, prefix: str, width: int) -> str:
    """up (and gate), activation, down, with a hidden width of `width`."""
    mlp, sizes = model.mlp, {"F": width}
    dims = ("B T D", "D", "F")
    if mlp.is_gated:
        gate = add_linear(builder, f"{prefix}.gate", x, dims=dims, bias=mlp.bias, sizes=sizes)
        up = add_linear(builder, f"{prefix}.up", x, dims=dims, bias=mlp.bias, sizes=sizes)
        hidden = builder.add(GATED_ACTIVATION, f"{prefix}.act", gate, up, sizes=sizes, function=mlp.activation)
    else:
        up = add_linear(builder, f"{prefix}.up", x, dims=dims, bias=mlp.bias, sizes=sizes)
        hidden = builder.add(ACTIVATION, f"{prefix}.act", up, sizes=sizes, function=mlp.activation)
    return add_linear(builder, f"{prefix}.down", hidden, dims=("B T F", "F", "D"), bias=mlp.bias, sizes=sizes)
