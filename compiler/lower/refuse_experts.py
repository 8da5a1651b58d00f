"""Mixtures of experts on several devices: what is planned and not yet lowered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...spec.diagnostics import diagnose

if TYPE_CHECKING:
    from ...spec.base import Path
    from ...spec.diagnostics import Diagnostic
    from ...spec.feed_forward import Moe
    from ...spec.model import Model
    from ..planner.layout import Layout

MOE = ("model", "moe")


def refuse_experts(model: Model, moe: Moe, layout: Layout, *, rank_groups: int = 1) -> Iterator[Diagnostic]:
    """`rank_groups` of a server's ranks of tp have experts of their own."""
    size = moe.intermediate_size or model.intermediate_size
    shared = moe.shared_intermediate_size or moe.shared_experts * size
    for width, what, tp in ((size, "experts", layout.tp // rank_groups), (shared, "shared experts", layout.tp)):
        if width % tp:
            message = f"{what} of a width of {width:,} that tp {tp} does not divide are not lowered"
            yield _refused(f"{message}; with a degree that does they are", MOE)
    if layout.tp > 1 and moe.shared_experts and model.mlp.bias:
        message = (
            f"shared experts with biases (`mlp.bias`) that tp {layout.tp} cuts are not lowered yet; without they are"
        )
        yield _refused(message, ("model", "mlp", "bias"), part="value")
    if layout.ep > 1 and layout.order is not None:
        message = "ep beside axes in an `order` of their own is not lowered yet; in the usual order it is"
        yield _refused(message, ("parallel", "order"))
    sharing = layout.shards // layout.ep
    rows = size // max(1, layout.tp) * (2 if model.mlp.is_gated else 1)
    held = moe.num_experts // layout.ep
    if layout.ep > 1 and layout.zero and held % sharing and (rows % sharing or model.hidden_size % sharing):
        message = (
            f"{held} experts of {rows:,} rows, shared by {sharing} ranks of ZeRO, do not come out even and are not lowered;"
            " degrees that divide the experts of a rank or their rows are"
        )
        yield _refused(message, ("parallel",))


def _refused(message: str, path: Path, *, part: str = "key") -> Diagnostic:
    return diagnose("L301", message, path=path, part="key" if part == "key" else "value")
