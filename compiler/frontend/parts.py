"""Pieces that every kind of attention and feed-forward block uses: norms, linears, rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir.builder import WEIGHT
from ..ir.ops import ADD, LAYER_NORM, LINEAR, RMS_NORM, ROPE, Param

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...spec.attention import Rope
    from ...spec.model import Model
    from ..ir.builder import Builder

BIAS = Param("bias")


def add_norm(
    builder: Builder,
    model: Model,
    name: str,
    x: str,
    *,
    dims: str = "B T D!",
    scale: str = "D",
    eps: float | None = None,
) -> str:
    """The model's norm over the dims marked with `!`, with a weight of dims `scale`; by default with its own `eps`."""
    norm = model.norm if eps is None else model.norm.model_copy(update={"eps": eps})
    output = dims.replace("!", "")
    if norm.kind == "rmsnorm":
        line = f"{dims}, {scale} -> {output}"
        return builder.add(
            RMS_NORM, name, x, line=line, params=WEIGHT, eps=norm.eps, unit_offset=norm.unit_offset or None
        )
    params = (*WEIGHT, BIAS) if norm.bias else WEIGHT
    line = f"{dims}, {', '.join([scale] * len(params))} -> {output}"
    return builder.add(LAYER_NORM, name, x, line=line, params=params, eps=norm.eps)


def add_linear(
    builder: Builder,
    name: str,
    x: str,
    *,
    dims: tuple[str, str, str],
    bias: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> str:
    """A projection; `dims` are those of what is read, summed and written: ("B T D", "D", "F") -> B T F."""
    read, summed, written = dims
    batch = read.removesuffix(summed).strip()
    line = f"{read}, {summed} {written}{f', {written}' if bias else ''} -> {batch} {written}"
    params = (*WEIGHT, BIAS) if bias else WEIGHT
    return builder.add(LINEAR, name, x, line=line, params=params, sizes=sizes)


def add_rope(builder: Builder, model: Model, name: str, x: str, *, line: str, is_local: bool, rotary_dim: int) -> str:
    """Rotate queries or keys; the identity for models without rotary positions."""
    if model.position.kind != "rope":
        return x
    return builder.add(ROPE, name, x, line=line, rotary_dim=rotary_dim, **rope_attrs(model.position, is_local=is_local))


def rope_attrs(position: Rope, *, is_local: bool) -> dict[str, Any]:
    """Base and scaling of the frequencies. Layers with a window have a base of their own in some models, unscaled (Gemma 3)."""
    interleaved = position.interleaved or None
    if is_local and position.local_theta is not None:
        return {"theta": position.local_theta, "interleaved": interleaved}
    scaling = position.scaling.kind if position.scaling is not None else None
    return {"theta": position.theta, "interleaved": interleaved, "scaling": scaling}


def add_residual(builder: Builder, name: str, x: str, y: str) -> str:
    """x + y."""
    return builder.add(ADD, name, x, y)
