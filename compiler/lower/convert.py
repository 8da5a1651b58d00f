"""The view of convert.py: how each parameter is stored in a Hugging Face checkpoint of the same model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...spec.hf_config import UnsupportedConfig, to_hf_config
from ..emit.literals import json_text, literal
from .convert_experts import expert_rows
from .convert_rows import TensorRow, joined, same
from .hf_names import HfNames, names_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ...spec.model import Model


@dataclass(frozen=True)
class ConvertView:
    """What templates/pytorch/convert.py.j2 needs, under the name `c`."""

    name: str
    origin: str
    model_type: str
    num_layers: int
    config: Mapping[str, Any]
    """config.json of an exported checkpoint; it becomes hf_config.json beside convert.py."""
    rows: tuple[TensorRow, ...]

    @property
    def config_text(self) -> str:
        return json_text(self.config)

    @property
    def imports(self) -> tuple[str, ...]:
        """The kinds of source that the rows use."""
        return tuple(sorted({kind for row in self.rows for kind in re.findall(r"\b[A-Z]\w+(?=\()", row.source)}))


def lower_convert(model: Model, *, name: str, origin: str) -> ConvertView | None:
    """None if no model type of Hugging Face is the same model, or its checkpoints are not converted yet."""
    try:
        config = to_hf_config(model)
    except UnsupportedConfig:
        return None
    names = names_of(config["model_type"], has_two_parallel_norms=getattr(model.block, "norms", "") == "separate")
    if names is None:
        return None
    return ConvertView(
        name=name,
        origin=origin,
        model_type=config["model_type"],
        num_layers=model.num_layers,
        config=dict(sorted(config.items())),
        rows=tuple(_rows(model, names)),
    )


def _rows(model: Model, names: HfNames) -> Iterator[TensorRow]:
    """The parameters of model.py in the order of its modules."""
    yield TensorRow("embed.weight", same(f"{names.embed}.weight"))
    if model.position.kind == "learned":
        yield TensorRow("positions.weight", same(f"{names.positions}.weight"))
    if model.embedding.norm:
        yield from _norm(model, "embed_norm", names.embed_norm)
    yield from _layer_rows(model, names)
    if model.block.norms != "post":
        yield from _norm(model, "norm", names.norm)
    if not model.tie_embeddings:
        yield TensorRow("head.weight", same(f"{names.head}.weight"))
    if model.head.bias:
        yield TensorRow("head.bias", same(f"{names.head}.bias"))


def _layer_rows(model: Model, names: HfNames) -> Iterator[TensorRow]:
    layer = "layers.{i}"
    is_sandwich = model.block.norms == "sandwich"
    yield from _norm(model, f"{layer}.attn_norm", names.attn_norm)
    yield from _latent_rows(model, names) if model.attention.kind == "mla" else _heads_rows(model, names)
    for kind in _kinds(bias=model.attention.out_bias):
        yield TensorRow(f"{layer}.attn.out.{kind}", _matrix(names, names.out, kind=kind))
    if is_sandwich:
        yield from _norm(model, f"{layer}.attn_post_norm", names.attn_post_norm)
    if model.block.norms != "shared":
        yield from _norm(model, f"{layer}.mlp_norm", names.mlp_norm)
    if not all(model.is_moe_layer(number) for number in range(model.num_layers)):
        yield from _mlp_rows(model, names)
    if model.moe is not None and names.experts is not None:
        yield from expert_rows(model, model.moe, names.experts)
    if is_sandwich:
        yield from _norm(model, f"{layer}.mlp_post_norm", names.mlp_post_norm)


def _heads_rows(model: Model, names: HfNames) -> Iterator[TensorRow]:
    layer, attention = "layers.{i}.attn", model.attention
    assert attention.kind != "mla"
    for kind in _kinds(bias=attention.qkv_bias):
        yield TensorRow(f"{layer}.qkv.{kind}", _qkv(model, names, kind=kind))
    if attention.qk_norm is not None:
        yield from _norm(model, f"{layer}.q_norm", names.q_norm)
        yield from _norm(model, f"{layer}.k_norm", names.k_norm)
    if attention.sinks:
        yield TensorRow(f"{layer}.sinks", same(names.sinks))


def _latent_rows(model: Model, names: HfNames) -> Iterator[TensorRow]:
    layer, attention, theirs = "layers.{i}.attn", model.attention, names.latent
    assert attention.kind == "mla"
    assert theirs is not None
    if attention.q_lora_rank is None:
        yield TensorRow(f"{layer}.q.weight", same(f"{theirs.q}.weight"))
    else:
        for kind in _kinds(bias=attention.qkv_bias):
            yield TensorRow(f"{layer}.q_down.{kind}", same(f"{theirs.q_down}.{kind}"))
        yield from _norm(model, f"{layer}.q_norm", theirs.q_norm)
        yield TensorRow(f"{layer}.q_up.weight", same(f"{theirs.q_up}.weight"))
    for kind in _kinds(bias=attention.qkv_bias):
        yield TensorRow(f"{layer}.kv_down.{kind}", same(f"{theirs.kv_down}.{kind}"))
    yield from _norm(model, f"{layer}.kv_norm", theirs.kv_norm)
    yield TensorRow(f"{layer}.kv_up.weight", same(f"{theirs.kv_up}.weight"))


def _mlp_rows(model: Model, names: HfNames) -> Iterator[TensorRow]:
    layer, mlp = "layers.{i}.mlp", model.mlp
    for kind in _kinds(bias=mlp.bias):
        yield TensorRow(f"{layer}.{'gate_up' if mlp.is_gated else 'up'}.{kind}", _up(model, names, kind=kind))
    for kind in _kinds(bias=mlp.bias):
        yield TensorRow(f"{layer}.down.{kind}", _matrix(names, names.down, kind=kind))


def _kinds(*, bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def _norm(model: Model, ours: str, theirs: str) -> Iterator[TensorRow]:
    has_bias = model.norm.kind == "layernorm" and model.norm.bias
    for kind in _kinds(bias=has_bias):
        yield TensorRow(f"{ours}.{kind}", same(f"{theirs}.{kind}"))


def _matrix(names: HfNames, stem: str, *, kind: str) -> str:
    is_transposed = names.is_transposed and kind == "weight"
    return f"{'Transposed' if is_transposed else 'Same'}({literal(f'{stem}.{kind}')})"


def _qkv(model: Model, names: HfNames, *, kind: str) -> str:
    kv_size = model.num_kv_heads * model.head_dim
    if "{part}" in names.qkv:
        return joined(names.qkv, {"q": model.num_heads * model.head_dim, "k": kv_size, "v": kv_size}, kind=kind)
    if names.qkv_rows == "grouped" and model.num_kv_heads > 1:  # with one key/value head both orders are the same
        group = model.num_heads // model.num_kv_heads
        return (
            f"Grouped({literal(f'{names.qkv}.{kind}')}, kv_heads={model.num_kv_heads}, group={group}, "
            f"head_dim={model.head_dim})"
        )
    return _matrix(names, names.qkv, kind=kind)


def _up(model: Model, names: HfNames, *, kind: str) -> str:
    if "{part}" in names.up:
        return joined(names.up, {"gate": model.intermediate_size, "up": model.intermediate_size}, kind=kind)
    return _matrix(names, names.up, kind=kind)
