"""A small model and a small layout that go through the same templates: what can be run here, in float64.

Every degree above 1 becomes 2. Of the model stay the kinds of its parts and how they divide: fewer key/value heads than
tensor-parallel ranks, a vocabulary that does not divide, dense layers before those with experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...spec.attention import LatentAttention

if TYPE_CHECKING:
    from ...spec.attention import Attention, Position
    from ...spec.document import Spec
    from ...spec.feed_forward import Moe
    from ...spec.model import Model
    from ..planner.layout import Layout

HEAD_DIM = 16
SEQ_LEN = 32
MICRO_BATCHES = 2


def small_layout(layout: Layout) -> Layout:
    """The same mechanisms on two ranks an axis."""
    two = {name: min(2, getattr(layout, name)) for name in ("dp_replicate", "dp_shard", "tp", "cp", "pp", "ep")}
    virtual = min(2, layout.virtual_stages)
    return replace(
        layout,
        **two,
        virtual_stages=virtual,
        micro_batch=2,
        grad_accumulation=max(MICRO_BATCHES, 2 * two["pp"] * virtual if layout.pp > 1 else 0),
        stages=None,
        recompute_layers=None,
        order=None,
    )


def small_spec(spec: Spec, layout: Layout, small: Layout) -> Spec:
    """The spec with its dimensions cut down, for `small`, in fp32."""
    assert spec.train is not None
    (train, *_) = spec.train
    batch = small.data_parallel * small.micro_batch * small.grad_accumulation
    update = {"seq_len": SEQ_LEN, "global_batch": batch, "tokens": None, "steps": 3, "precision": "fp32"}
    return spec.model_copy(
        update={
            "model": small_model(spec.model, layout, small),
            "train": (train.model_copy(update=update),),
            "serve": None,
        }
    )


def small_model(model: Model, layout: Layout, small: Layout) -> Model:
    """All widths cut down."""
    copies = layout.tp > model.num_kv_heads
    kv_heads = 1 if copies or model.num_kv_heads == 1 else 2
    heads = kv_heads * (1 if model.num_heads == model.num_kv_heads else 2)
    divides = model.vocab_size % layout.tp == 0
    layers = max(2 * small.pp * small.virtual_stages, _fewest_layers(model))
    return model.model_copy(
        update={
            "hidden_size": 48,
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": HEAD_DIM,
            "intermediate_size": 80,
            "vocab_size": 96 if divides else 97,
            "max_seq_len": 4 * SEQ_LEN,
            "attention": _attention(model.attention),
            "position": _position(model.position, model.head_dim),
            "moe": _moe(model.moe),
        }
    )


def _fewest_layers(model: Model) -> int:
    """One of each class of layers."""
    every = getattr(model.attention, "global_every", None) or 1
    if model.moe is not None:
        every = max(every, min(1, model.moe.first_dense_layers) + model.moe.every)
    return max(2, every)


def _attention(attention: Attention) -> Attention:
    if not isinstance(attention, LatentAttention):
        window = None if attention.window is None else SEQ_LEN // 2
        return attention.model_copy(update={"window": window})
    ranks = {"kv_lora_rank": 24, "qk_nope_head_dim": HEAD_DIM, "qk_rope_head_dim": 8, "v_head_dim": HEAD_DIM}
    return attention.model_copy(update={"q_lora_rank": attention.q_lora_rank and 24, **ranks})


def _position(position: Position, head_dim: int) -> Position:
    rotary = getattr(position, "rotary_dim", None)
    if rotary is None:
        return position
    return position.model_copy(update={"rotary_dim": max(2, rotary * HEAD_DIM // head_dim // 2 * 2)})


def _moe(moe: Moe | None) -> Moe | None:
    if moe is None:
        return None
    groups = min(2, moe.router.groups)
    router = moe.router.model_copy(update={"groups": groups, "topk_groups": min(groups, moe.router.topk_groups)})
    return moe.model_copy(
        update={
            "num_experts": 8,
            "experts_per_token": min(2, moe.experts_per_token),
            "intermediate_size": 32,
            "shared_intermediate_size": moe.shared_intermediate_size and 32,
            "first_dense_layers": min(1, moe.first_dense_layers),
            "router": router,
        }
    )
