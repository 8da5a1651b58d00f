"""Rules of the model section: heads, positions, experts."""

from __future__ import annotations

from collections.abc import Iterator

from ..attention import Alibi, LatentAttention, LongRopeScaling, Rope
from ..diagnostics import Diagnostic, Edit, Fix, Label, diagnose
from ..feed_forward import Moe
from ..model import Model

PATH = ("model",)
MOE = ("model", "moe")


def kv_heads_divide_heads(model: Model) -> Iterator[Diagnostic]:
    """num_heads = group * num_kv_heads, in equal groups."""
    heads, kv_heads = model.num_heads, model.num_kv_heads
    if isinstance(model.attention, LatentAttention) or heads % kv_heads == 0:
        return
    path = (*PATH, "num_kv_heads")
    nearest = sorted(_divisors(heads), key=lambda divisor: (abs(divisor - kv_heads), divisor))[:2]
    yield diagnose(
        "M101",
        f"{heads:,} query heads cannot be shared out over {kv_heads:,} key/value heads",
        path=path,
        labels=[Label(f"{heads:,} query heads", (*PATH, "num_heads"))],
        fixes=[Fix(f"`num_kv_heads: {near}` divides {heads}", (Edit("set", path, near),)) for near in nearest],
    )


def _divisors(number: int) -> list[int]:
    """Of a number of heads: at most a few thousand candidates are looked at."""
    return [divisor for divisor in range(1, min(number, 4096) + 1) if number % divisor == 0]


def kv_heads_suit_the_kind(model: Model) -> Iterator[Diagnostic]:
    """mqa: one; mha: as many as query heads; gqa: any."""
    needed = {"mqa": 1, "mha": model.num_heads}.get(model.attention.kind)
    if needed is None or needed == model.num_kv_heads:
        return
    path = (*PATH, "num_kv_heads")
    kind = (*PATH, "attention", "kind")
    to_gqa = Fix("`kind: gqa` takes any number that divides the query heads", (Edit("set", kind, "gqa"),))
    to_needed = Fix(f"`num_kv_heads: {needed}`", (Edit("set", path, needed),))
    yield diagnose(
        "M102",
        f"{model.attention.kind} attention has {needed:,} key/value head{'s' if needed > 1 else ''}, "
        f"`num_kv_heads` is {model.num_kv_heads:,}",
        path=path,
        labels=[Label(model.attention.kind, kind)],
        fixes=[to_needed, to_gqa] if needed == 1 else [to_gqa, to_needed],
    )


def rotary_dim_fits_the_head(model: Model) -> Iterator[Diagnostic]:
    """Pairs of numbers are rotated: an even part of the head, at most all of it."""
    if not isinstance(model.position, Rope):
        return
    size, place = _rotated(model)
    rotary = model.position.rotary_dim
    path = (*PATH, "position", "rotary_dim")
    if rotary is None and size % 2:
        message = f"rope rotates pairs, and `{place}` is {size:,}, an odd number"
        yield diagnose("M103", message, path=(*PATH, "position"), part="key", labels=[Label("", (*PATH, place))])
    elif rotary is not None and (rotary > size or rotary % 2):
        what = f"more than `{place}` {size:,}" if rotary > size else "an odd number, and rope rotates pairs"
        near = min(rotary, size) // 2 * 2
        yield diagnose(
            "M103",
            f"`rotary_dim` {rotary:,} is {what}",
            path=path,
            fixes=[Fix(f"`rotary_dim: {near}`", (Edit("set", path, near),))] if near else (),
        )


def _rotated(model: Model) -> tuple[int, str]:
    """The part of a head that rope may rotate, and the field it comes from."""
    if isinstance(model.attention, LatentAttention):
        return model.attention.qk_rope_head_dim, "attention"
    return model.head_dim, "head_dim"


def position_suits_the_model(model: Model) -> Iterator[Diagnostic]:
    """ALiBi looks back only; latent attention carries its positions by rope."""
    path = (*PATH, "position", "kind")
    if isinstance(model.position, Alibi) and model.kind != "decoder":
        message = f"alibi biases scores by the distance to earlier tokens, and the model is an {model.kind}"
        yield diagnose("M104", message, path=path, labels=[Label("", (*PATH, "kind"))])
    if isinstance(model.attention, LatentAttention) and not isinstance(model.position, Rope):
        message = f"mla attention needs rope positions, not {model.position.kind}"
        fix = Fix("`kind: rope`", (Edit("set", path, "rope"),))
        yield diagnose("M104", message, path=path, labels=[Label("", (*PATH, "attention", "kind"))], fixes=[fix])


def scaling_has_a_factor_a_pair(model: Model) -> Iterator[Diagnostic]:
    """LongRoPE: a factor for each rotated pair."""
    if not isinstance(model.position, Rope) or not isinstance(model.position.scaling, LongRopeScaling):
        return
    pairs = (model.position.rotary_dim or _rotated(model)[0]) // 2
    for name in ("short_factor", "long_factor"):
        factors = getattr(model.position.scaling, name)
        if len(factors) != pairs:
            message = f"`{name}` has {len(factors):,} factors, {pairs:,} pairs are rotated"
            yield diagnose("M108", message, path=(*PATH, "position", "scaling", name), part="key")


def window_is_shorter_than_sequences(model: Model) -> Iterator[Diagnostic]:
    """A window of max_seq_len or more is none."""
    window = getattr(model.attention, "window", None)
    if window is None or window < model.max_seq_len:
        return
    yield diagnose(
        "M110",
        f"a window of {window:,} tokens has no effect: `max_seq_len` is {model.max_seq_len:,}",
        path=(*PATH, "attention", "window"),
        labels=[Label("", (*PATH, "max_seq_len"))],
    )


def enough_experts(model: Model) -> Iterator[Diagnostic]:
    """experts_per_token <= experts in the groups that a token may choose from."""
    moe = model.moe
    if moe is None:
        return
    reachable, words = moe.num_experts, "there are"
    if moe.router.groups > 1 and moe.num_experts % moe.router.groups == 0:
        reachable = moe.num_experts // moe.router.groups * min(moe.router.topk_groups, moe.router.groups)
        words = f"{moe.router.topk_groups} of {moe.router.groups} groups hold"
    if moe.experts_per_token > reachable:
        yield diagnose(
            "M105",
            f"a token visits {moe.experts_per_token:,} experts, {words} {reachable:,}",
            path=(*MOE, "experts_per_token"),
            labels=[Label("", (*MOE, "num_experts"))],
        )


def experts_form_groups(model: Model) -> Iterator[Diagnostic]:
    """num_experts = size * groups, topk_groups <= groups."""
    if model.moe is None:
        return
    router, experts = model.moe.router, model.moe.num_experts
    if experts % router.groups:
        message = f"{experts:,} experts do not form {router.groups:,} equal groups"
        path = (*MOE, "router", "groups")
        near = min(_divisors(experts), key=lambda divisor: (abs(divisor - router.groups), divisor))
        fix = Fix(f"`groups: {near}` divides {experts}", (Edit("set", path, near),))
        yield diagnose("M106", message, path=path, labels=[Label("", (*MOE, "num_experts"))], fixes=[fix])
    if router.topk_groups > router.groups:
        message = f"a token chooses {router.topk_groups:,} groups, there are {router.groups:,}"
        yield diagnose("M106", message, path=(*MOE, "router", "topk_groups"))


def some_layer_has_experts(model: Model) -> Iterator[Diagnostic]:
    """`every` and `first_dense_layers` leave at least one layer of experts."""
    moe = model.moe
    if moe is None or _num_moe_layers(moe, model.num_layers):
        return
    first = moe.first_dense_layers + moe.every
    yield diagnose(
        "M107",
        f"the first layer with experts would be number {first:,}, the model has {model.num_layers:,} layers",
        path=(*MOE, "first_dense_layers" if moe.first_dense_layers >= model.num_layers else "every"),
        labels=[Label("", (*PATH, "num_layers"))],
    )


def _num_moe_layers(moe: Moe, num_layers: int) -> int:
    return max(0, num_layers - moe.first_dense_layers) // moe.every


def shared_options_have_an_expert(model: Model) -> Iterator[Diagnostic]:
    """shared_gate and shared_intermediate_size describe shared experts."""
    moe = model.moe
    if moe is None or moe.shared_experts:
        return
    for name, given in (("shared_gate", moe.shared_gate), ("shared_intermediate_size", moe.shared_intermediate_size)):
        if given:
            path = (*MOE, "shared_experts")
            fix = Fix("`shared_experts: 1`", (Edit("set", path, 1),))
            message = f"`{name}` describes shared experts, and `shared_experts` is 0"
            yield diagnose("M109", message, path=(*MOE, name), part="key", fixes=[fix])
