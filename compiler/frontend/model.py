"""Spec -> Graph: the trunk, and one block for each class of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec.diagnostics import Diagnostic, SpecError, diagnose
from ..ir.builder import WEIGHT, Builder
from ..ir.ops import ADD_POSITIONS, ADD_SINUSOIDS, EMBEDDING, LAYERS, SOFTCAP, TOKENS, Param
from .layers import LayerClass, classes_of_layers, order_of_layers
from .parts import add_linear, add_norm, add_residual
from .tables import ATTENTION, FEED_FORWARD, OBJECTIVE, find

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.model import Model
    from ...spec.training import Train
    from ..ir.graph import Graph

MAX_LAYERS = 10_000
"""Each layer has a place in the order of the graph and lines in a checkpoint; no model comes near."""

MAX_DEVICES = 2**20


def build_graph(spec: Spec) -> Graph:
    """The graph of a spec: with the loss of its first training stage if it trains, else up to the logits."""
    problems = check(spec)
    if problems:
        raise SpecError(problems)
    return build_model(spec.model, name=spec.name, train=spec.train[0] if spec.train else None)


def check(spec: Spec) -> list[Diagnostic]:
    """What the language admits and no frontend builds yet."""
    found = []
    if spec.model.kind != "decoder":
        message = f"models of kind {spec.model.kind} are not lowered yet; kind decoder is"
        found.append(diagnose("L301", message, path=("model", "kind")))
    if spec.model.num_layers > MAX_LAYERS:
        message = f"num_layers {spec.model.num_layers:,} is more than the {MAX_LAYERS:,} layers a model may have"
        found.append(diagnose("P210", message, path=("model", "num_layers")))
    if spec.hardware.num_devices > MAX_DEVICES:
        message = (
            f"{spec.hardware.num_devices:,} devices are more than the {MAX_DEVICES:,} that a layout is searched for"
        )
        found.append(diagnose("P211", message, path=("hardware",), part="key"))
    for number, train in enumerate(spec.train or ()):
        if train.objective.kind not in OBJECTIVE:
            message = f"the objective {train.objective.kind} is not lowered yet; {', '.join(OBJECTIVE)} is"
            found.append(diagnose("L301", message, path=("train", number, "objective")))
    return found


def build_model(model: Model, *, name: str, train: Train | None = None) -> Graph:
    """tokens -> embed -> layers -> norm -> head [-> loss]."""
    builder = Builder(name=name, sizes=sizes_of(model))
    x = _add_embedding(builder, model)
    x = builder.add(LAYERS, "layers", x)
    if not (model.block.kind == "sequential" and model.block.norms == "post"):  # post-norm blocks end with a norm
        x = add_norm(builder, model, "norm", x)
    output = _add_head(builder, model, x)
    if train is not None:
        output = find(OBJECTIVE, train.objective.kind)(builder, train, output)
    for block, layer in classes_of_layers(model).items():
        builder.close_block(_add_block(builder, model, block, layer))
    return builder.finish(order=order_of_layers(model), output=output)


def sizes_of(model: Model) -> dict[str, int]:
    """The dims that the model binds, by letter."""
    attention = model.attention
    kv_heads = 1 if attention.kind == "mqa" else model.num_kv_heads
    sizes = {"D": model.hidden_size, "H": model.num_heads, "K": kv_heads, "C": model.head_dim}
    sizes |= {"F": model.intermediate_size, "V": model.vocab_size, "O": 1}
    if attention.kind == "mla":
        del sizes["K"]
        sizes |= {"C": attention.qk_nope_head_dim + attention.qk_rope_head_dim, "N": attention.qk_nope_head_dim}
        sizes |= {"R": attention.qk_rope_head_dim, "L": attention.kv_lora_rank, "U": attention.v_head_dim}
        if attention.q_lora_rank is not None:
            sizes["Q"] = attention.q_lora_rank
    if model.moe is not None:
        sizes |= {"E": model.moe.num_experts, "X": model.moe.experts_per_token}
    if model.position.kind == "learned":
        sizes["P"] = model.max_seq_len + model.position.offset
    return sizes


def _add_embedding(builder: Builder, model: Model) -> str:
    tokens = builder.add(TOKENS, "tokens")
    scale = model.embedding.scale
    factor = model.hidden_size**0.5 if scale == "sqrt_hidden_size" else scale
    x = builder.add(EMBEDDING, "embed", tokens, params=WEIGHT, scale=factor)
    if model.position.kind == "learned":
        x = builder.add(ADD_POSITIONS, "positions", x, params=WEIGHT, offset=model.position.offset or None)
    elif model.position.kind == "sinusoidal":
        x = builder.add(ADD_SINUSOIDS, "positions", x)
    return add_norm(builder, model, "embed_norm", x) if model.embedding.norm else x


def _add_head(builder: Builder, model: Model, x: str) -> str:
    logits = add_linear(builder, "head", x, dims=("B T D", "D", "V"), bias=model.head.bias)
    if model.tie_embeddings:
        builder.tie("head", Param("weight", tied_to="embed.weight"))
    if model.head.softcap is not None:
        logits = builder.add(SOFTCAP, "softcap", logits, cap=model.head.softcap)
    return logits


def _add_block(builder: Builder, model: Model, name: str, layer: LayerClass) -> str:
    """One layer, [B, T, D] -> [B, T, D]."""
    x = builder.open_block(name)
    add_attention = find(ATTENTION, model.attention.kind)
    add_feed_forward = find(FEED_FORWARD, "moe" if layer.is_moe else "mlp")
    if model.block.kind == "parallel":
        normed = add_norm(builder, model, "attn_norm", x)
        other = normed if model.block.norms == "shared" else add_norm(builder, model, "mlp_norm", x)
        attended = add_attention(builder, model, normed, layer)
        total = add_residual(builder, "attn_add", x, attended)
        return add_residual(builder, "mlp_add", total, add_feed_forward(builder, model, other))
    if model.block.norms == "post":
        attended = add_attention(builder, model, x, layer)
        x = add_norm(builder, model, "attn_norm", add_residual(builder, "attn_add", x, attended))
        fed = add_feed_forward(builder, model, x)
        return add_norm(builder, model, "mlp_norm", add_residual(builder, "mlp_add", x, fed))
    has_post_norms = model.block.norms == "sandwich"
    y = add_attention(builder, model, add_norm(builder, model, "attn_norm", x), layer)
    y = add_norm(builder, model, "attn_post_norm", y) if has_post_norms else y
    x = add_residual(builder, "attn_add", x, y)
    y = add_feed_forward(builder, model, add_norm(builder, model, "mlp_norm", x))
    y = add_norm(builder, model, "mlp_post_norm", y) if has_post_norms else y
    return add_residual(builder, "mlp_add", x, y)
