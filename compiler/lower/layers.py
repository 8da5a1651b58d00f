"""What each layer is called with: angles, masks, cache. Works out the signatures and the calls as finished text.

A layer is *global* or *local* (it has the sliding window, and the frequencies of `local_theta`). Where a model has both,
a pass over the layers prepares two tuples of arguments and each layer takes its own.

Masks: scaled_dot_product_attention applies a plain causal mask by itself while it reads a sequence from its start. All
else (a window, ALiBi, scores computed by hand, decoding into a cache) takes an explicit one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.model import Model
    from .attention import AttentionView
    from .latent import LatentView
    from .position import PositionView, RopeView

_MASK_FUNCTIONS = {"causal": "causal_mask", "window": "window_mask", "alibi": "alibi", "local_alibi": "local_alibi"}
"""Stem of a mask's partial -> the function it defines. In the order of definition."""


@dataclass(frozen=True)
class PassView:
    """One way through the layers: the forward pass, or a decode step. Empty text where there is nothing to pass."""

    rope: str
    """The call that gives cos and sin, where all layers share it."""
    mask: str
    """The call that gives the mask, where all layers share it."""
    whole: str
    """The arguments of global layers, in a model that has both kinds."""
    local: str
    """The arguments of local layers, in a model that has both kinds."""
    args: str
    """What a layer is called with after `x`, starting with a comma."""


@dataclass(frozen=True)
class LayersView:
    is_mixed: bool
    """Whether some layers are local and some global."""
    global_every: int
    ropes: tuple[RopeView, ...]
    masks: tuple[str, ...]
    """What to define, by the stem of the partial."""
    mask_name: str
    params: str
    """Parameters of a layer's forward."""
    block_params: str
    """Parameters of a block's forward; with a kernel for sum and norm the residual stream goes from block to block beside `x`."""
    args: str
    """What a block hands on to its attention after `x`, starting with a comma."""
    sdpa_args: str
    forward: PassView
    decode: PassView


@dataclass(frozen=True)
class _Kind:
    """Global or local layers."""

    rope: RopeView | None
    mask: str
    is_implicit: bool
    """Whether the forward pass leaves the mask to scaled_dot_product_attention or to a kernel."""


def lower_layers(
    model: Model,
    *,
    attention: AttentionView | LatentView,
    position: PositionView,
    has_decode: bool,
    kernels: tuple[str, ...],
    is_stage: bool = False,
) -> LayersView:
    """`is_stage`: of a pipeline, whose forward pass may be given hidden states in place of tokens."""
    has_kernel = "causal_attention" in kernels  # it has the mask within; then masks are for decoding alone
    has_global = [_is_global(layer, attention=attention) for layer in range(model.num_layers)]
    whole = _kind(attention, position, is_local=False, has_kernel=has_kernel)
    local = _kind(attention, position, is_local=True, has_kernel=has_kernel)
    is_mixed = len(set(has_global)) == 2 and whole != local
    used = (whole, local) if is_mixed else (whole,) if has_global[0] else (local,)

    decodes_by_mask = has_decode and "prefill_attention" not in kernels  # which knows positions
    masks = {kind.mask for kind in used if decodes_by_mask or not kind.is_implicit}
    is_optional = bool(masks) and any(kind.is_implicit for kind in used)
    name = "bias" if position.kind == "alibi" else "mask"
    mask_type = f"{name}: Tensor | None" if is_optional else f"{name}: Tensor"
    if is_optional and has_decode and not is_mixed:
        mask_type += " = None"
    elif has_decode and not decodes_by_mask:
        mask_type += " | None = None"

    rope_params = ["cos: Tensor", "sin: Tensor"] if position.rope else []
    mask_params = [mask_type] if masks else []
    cache_params = ["cache: LayerCache | None = None"] if has_decode else []
    params = [*rope_params, *mask_params, *cache_params]
    stream = ["stream: Tensor | None"] if {"add_rms_norm", "add_layer_norm"} & set(kernels) else []

    return LayersView(
        is_mixed=is_mixed,
        global_every=attention.global_every or 1,
        ropes=tuple(dict.fromkeys(kind.rope for kind in used if kind.rope)),
        masks=tuple(stem for stem in _MASK_FUNCTIONS if stem in masks or (stem == "alibi" and "local_alibi" in masks)),
        mask_name=name,
        params=", ".join(["self", "x: Tensor", *params]),
        block_params=", ".join(["self", *stream, "x: Tensor", *params]),
        args="".join(f", {param.split(':')[0]}" for param in params),
        sdpa_args=_sdpa_args(
            attention, mask_name=name, has_mask=bool(masks), is_optional=is_optional and not has_kernel
        ),
        forward=_forward(used, has_mask=bool(masks), mask_name=name, is_stage=is_stage),
        decode=_decode(used, mask_name=name, has_mask=decodes_by_mask),
    )


def _is_global(layer: int, *, attention: AttentionView | LatentView) -> bool:
    """Without a window in the spec every layer is global; with one, each `global_every`-th, counted from 1."""
    if not attention.has_window:
        return True
    return attention.global_every is not None and (layer + 1) % attention.global_every == 0


def _kind(attention: AttentionView | LatentView, position: PositionView, *, is_local: bool, has_kernel: bool) -> _Kind:
    mask = "alibi" if position.kind == "alibi" else "causal"
    if is_local and attention.window is not None:
        mask = "local_alibi" if mask == "alibi" else "window"
    rope = position.local_rope if is_local and position.local_rope else position.rope
    is_implicit = has_kernel or (mask == "causal" and not attention.is_eager)
    return _Kind(rope=rope, mask=mask, is_implicit=is_implicit)


def _forward(kinds: tuple[_Kind, ...], *, has_mask: bool, mask_name: str, is_stage: bool) -> PassView:
    """Positions 0 to T - 1, the same for every sequence."""
    num_tokens = "len(positions)" if is_stage else "tokens.shape[1]"

    def mask_of(kind: _Kind) -> str:
        return "" if kind.is_implicit else _mask_call(kind, f"positions, {num_tokens}")

    if len(kinds) == 2:
        whole, local = (
            _tuple(_rope(kind, "positions"), (mask_of(kind) or "None") if has_mask else "") for kind in kinds
        )
        return PassView(rope="", mask="", whole=whole, local=local, args=_CHOSEN)
    rope, mask = _rope(kinds[0], "positions"), mask_of(kinds[0])
    return PassView(rope=rope, mask=mask, whole="", local="", args=_args(rope, mask, mask_name=mask_name))


def _decode(kinds: tuple[_Kind, ...], *, mask_name: str, has_mask: bool) -> PassView:
    """Positions of each sequence's own, and keys up to the furthest of them; without masks they are no axis of heads away."""
    positions = "at" if has_mask else "positions"

    def mask_of(kind: _Kind) -> str:
        return _mask_call(kind, "at, num_keys") if has_mask else ""

    if len(kinds) == 2:
        whole, local = (_tuple(_rope(kind, positions), mask_of(kind)) for kind in kinds)
        return PassView(rope="", mask="", whole=whole, local=local, args=_CHOSEN)
    rope, mask = _rope(kinds[0], positions), mask_of(kinds[0])
    return PassView(rope=rope, mask=mask, whole="", local="", args=_args(rope, mask, mask_name=mask_name))


_CHOSEN = ", *(whole if layer.is_global else local)"


def _rope(kind: _Kind, positions: str) -> str:
    return f"{kind.rope.name}({positions})" if kind.rope else ""


def _mask_call(kind: _Kind, args: str) -> str:
    """A bias has the dtype of the queries: scaled_dot_product_attention reads others wrongly (fp64 with fp32, torch 2.13)."""
    call = f"{_MASK_FUNCTIONS[kind.mask]}({args})"
    return f"{call}.type_as(x)" if "alibi" in kind.mask else call


def _args(rope: str, mask: str, *, mask_name: str) -> str:
    return (", cos, sin" if rope else "") + (f", {mask_name}" if mask else "")


def _tuple(rope: str, mask: str) -> str:
    items = [item for item in (f"*{rope}" if rope else "", mask) if item]
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _sdpa_args(attention: AttentionView | LatentView, *, mask_name: str, has_mask: bool, is_optional: bool) -> str:
    args = [f"attn_mask={mask_name}"] if has_mask else []
    if not has_mask:
        args.append("is_causal=True")
    elif is_optional:
        args.append(f"is_causal={mask_name} is None")
    if attention.is_grouped:
        args.append("enable_gqa=True")
    if attention.scale is not None:
        args.append(f"scale={attention.scale!r}")
    return ", ".join(args)
