"""Mixtures of experts: which layers have them, how a token chooses, what keeps them evenly used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .numbers import plural

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.feed_forward import Moe
    from ...spec.model import Model

BIAS_STEP = 0.001
"""What a step adds to or takes from the bias of an expert (DeepSeek-AI 2024, arXiv 2412.19437, section 4.2)."""


@dataclass(frozen=True)
class ExpertsView:
    """What templates/pytorch/feed_forward/moe.py.j2 needs, as `m.experts`."""

    num_experts: int
    """Of a rank, where ep spreads them."""
    num_whole: int
    """Of a layer."""
    rank_groups: int
    """Of a server's ranks of tp, how many groups have experts of their own; 1: every rank has a part of each expert."""
    parts: int
    """Ranks of tp that have a part of an expert each; 1: an expert is whole."""
    per_token: int
    size: int
    """Width of an expert, or of a rank's part of it."""
    bias: bool
    score: Literal["softmax", "sigmoid"]
    normalize: bool
    scale: float
    groups: int
    topk_groups: int
    router_bias: bool
    is_router_fp32: bool
    """Whether the router computes in fp32 in a program of narrow numbers: near ties decide who is chosen."""
    aux_loss_weight: float
    z_loss_weight: float
    has_balance_bias: bool
    counts_visits: bool
    """Whether a step moves that bias."""
    bias_step: float
    capacity_factor: float | None
    shared_size: int | None
    """Width of all shared experts together."""
    shared_gate: bool
    layer_condition: str
    """On the number `i` of a layer: whether it has experts. Empty if all have."""

    @property
    def group_size(self) -> int:
        """Experts of a group."""
        return self.num_whole // self.groups

    @property
    def has_router_loss(self) -> bool:
        return self.aux_loss_weight > 0 or self.z_loss_weight > 0

    @property
    def differs_in_training(self) -> bool:
        """Whether a forward pass in training does more than another."""
        return self.has_router_loss or self.counts_visits or self.capacity_factor is not None

    @property
    def aux_factor(self) -> float:
        """On sum(share of tokens that visit * mean score): the weight times E / X, so that even use costs the weight."""
        return self.aux_loss_weight * self.num_whole / self.per_token

    @property
    def is_weighted_plainly(self) -> bool:
        """Whether the scores of the chosen experts are their weights."""
        return not self.normalize and self.scale == 1.0

    @property
    def doc(self) -> str:
        shared = ""
        if self.shared_size is not None:
            shared = f", and every token a shared expert {'by a gate of its own' if self.shared_gate else 'as well'}"
        return f"A mixture of experts: each token visits {self.per_token} of {self.num_whole}{shared}."

    @property
    def words(self) -> str:
        """For the head of model.py."""
        shared = " and shared ones" if self.shared_size is not None else ""
        return f"{plural(self.num_whole, 'expert')}{shared} a layer, {self.per_token} a token"


def lower_experts(spec: Spec, *, tp: int = 1, ep: int = 1, rank_groups: int = 1) -> ExpertsView | None:
    """None for a dense model. `tp` ranks have a part of each expert, or each of their groups of some; `ep` ranks have some of them."""
    model = spec.model
    moe = model.moe
    if moe is None:
        return None
    router, size = moe.router, moe.intermediate_size or model.intermediate_size
    is_trained = spec.train is not None
    return ExpertsView(
        num_experts=moe.num_experts // (ep * rank_groups),
        num_whole=moe.num_experts,
        rank_groups=rank_groups,
        parts=tp // rank_groups,
        per_token=moe.experts_per_token,
        size=size * rank_groups // tp,
        bias=moe.bias,
        score=router.score,
        normalize=router.normalize,
        scale=router.scale,
        groups=router.groups,
        topk_groups=router.topk_groups,
        router_bias=router.bias,
        is_router_fp32=_is_narrow(spec),
        aux_loss_weight=router.aux_loss_weight if router.balance == "aux_loss" and is_trained else 0.0,
        z_loss_weight=router.z_loss_weight if is_trained else 0.0,
        has_balance_bias=router.balance == "bias",
        counts_visits=router.balance == "bias" and is_trained,
        bias_step=BIAS_STEP,
        capacity_factor=moe.capacity_factor if is_trained else None,
        shared_size=_shared_size(moe, size=size, tp=tp),
        shared_gate=moe.shared_gate,
        layer_condition=_condition(moe, model),
    )


def _is_narrow(spec: Spec) -> bool:
    in_training = spec.train is not None and any(stage.precision != "fp32" for stage in spec.train)
    return in_training or (spec.serve is not None and "bf16" in spec.serve.weights.dtype)


def _shared_size(moe: Moe, *, size: int, tp: int) -> int | None:
    if not moe.shared_experts:
        return None
    return (moe.shared_intermediate_size or moe.shared_experts * size) // tp


def _condition(moe: Moe, model: Model) -> str:
    """The rule of Model.is_moe_layer as Python."""
    if all(model.is_moe_layer(layer) for layer in range(model.num_layers)):
        return ""
    first, every = moe.first_dense_layers, moe.every
    if every == 1:
        return f"i >= {first}"
    if first == 0:
        return f"i % {every} == {every - 1}"
    return f"i >= {first} and (i - {first}) % {every} == {every - 1}"
