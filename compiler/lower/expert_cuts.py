"""What tp and ep cut of a mixture of experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .model_view import ModelView


@dataclass(frozen=True)
class CutView:
    """A line of the table: the end of a parameter's name, the cut as source, and a comment."""

    name: str
    cut: str
    comment: str


def expert_cuts(spec: Spec, model: ModelView) -> Iterator[CutView]:
    """In the order of the modules; none of a dense model."""
    moe, is_gated, has_tp = spec.model.moe, spec.model.mlp.is_gated, model.tp is not None
    if moe is None or model.experts is None:
        return
    experts = model.experts
    size = moe.intermediate_size or spec.model.intermediate_size
    if has_tp:  # the output of a rank is a summand, and so is what it says of its input's use
        yield from (CutView(f"mlp.router.{kind}", _SHARED, "") for kind in _kinds(moe.router.bias))
    up, name = (_sections(size), "gate_up") if is_gated else (f"Rows({size})", "up")
    down, bias, groups = "Columns()", _SHARED, ""
    if experts.rank_groups > 1:
        groups = f", groups={experts.rank_groups}"
    if experts.parts == 1:  # a rank has its experts whole
        up = down = bias = "Whole()"
    yield CutView(f"experts.{name}", f"EachExpert({up}{groups})", "one a matrix")
    if moe.bias:
        yield CutView(f"experts.{name}_bias", f"EachExpert({up}{groups})", "")
    yield CutView("experts.down", f"EachExpert({down}{groups})", "")
    if moe.bias:
        yield CutView("experts.down_bias", f"EachExpert({bias}{groups})", "")
    if not has_tp or experts.shared_size is None:
        return
    shared = moe.shared_intermediate_size or moe.shared_experts * size
    yield CutView(f"shared.{name}.weight", _sections(shared) if is_gated else f"Rows({shared})", "")
    yield CutView("shared.down.weight", "Columns()", "")
    if moe.shared_gate:
        yield CutView("shared_gate.weight", _SHARED, "")


_SHARED = "Whole(is_shared=True)"


def _sections(size: int) -> str:
    return f"Sections(({size}, {size}), copies=(1, 1))"


def _kinds(has_bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if has_bias else ("weight",)
