"""How Hugging Face stores a mixture of experts: a tensor an expert and matrix, or one for all of them (gpt-oss)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..emit.literals import literal
from .convert_rows import TensorRow, joined, same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...spec.feed_forward import Moe
    from ...spec.model import Model
    from .hf_names import HfExperts

_LAYER = "layers.{i}.mlp"


def expert_rows(model: Model, moe: Moe, names: HfExperts) -> Iterator[TensorRow]:
    """The parameters of a Moe module in the order of its parts."""
    for kind in ("weight", "bias") if moe.router.bias else ("weight",):
        yield TensorRow(f"{_LAYER}.router.{kind}", same(f"{names.router}.{kind}"))
    if moe.router.balance == "bias":
        yield TensorRow(f"{_LAYER}.balance_bias", same(names.balance_bias))
    width = moe.intermediate_size or model.intermediate_size
    yield from _apart(moe, names, width=width) if "{e}" in names.up else _together(moe, names)
    if moe.shared_experts:
        shared = moe.shared_intermediate_size or moe.shared_experts * width
        rows = {"gate": shared, "up": shared}
        up = joined(names.shared + ".{part}_proj", rows, kind="weight")
        yield TensorRow(f"{_LAYER}.shared.gate_up.weight", up)
        yield TensorRow(f"{_LAYER}.shared.down.weight", same(f"{names.shared}.down_proj.weight"))
    if moe.shared_gate:
        yield TensorRow(f"{_LAYER}.shared_gate.weight", same(f"{names.shared_gate}.weight"))


def _apart(moe: Moe, names: HfExperts, *, width: int) -> Iterator[TensorRow]:
    up = joined(names.up, dict.fromkeys(names.parts, width), kind="weight")
    yield TensorRow(f"{_LAYER}.experts.gate_up", f"Stacked({up}, {moe.num_experts})")
    yield TensorRow(f"{_LAYER}.experts.down", f"Stacked({same(f'{names.down}.weight')}, {moe.num_experts})")


def _together(moe: Moe, names: HfExperts) -> Iterator[TensorRow]:
    yield TensorRow(f"{_LAYER}.experts.gate_up", f"Interleaved({literal(names.up)})")
    yield TensorRow(f"{_LAYER}.experts.down", f"Transposed({literal(names.down)})")
    if moe.bias:
        yield TensorRow(f"{_LAYER}.experts.gate_up_bias", f"Interleaved({literal(f'{names.up}_bias')})")
        yield TensorRow(f"{_LAYER}.experts.down_bias", same(f"{names.down}_bias"))
