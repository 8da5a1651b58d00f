"""Which layers are alike: the block class of each layer, from the first to the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.model import Model


@dataclass(frozen=True)
class LayerClass:
    """What sets a layer apart from others of the same model."""

    is_moe: bool
    window: int | None


def classes_of_layers(model: Model) -> dict[str, LayerClass]:
    """Name -> class, in the order in which the classes first appear."""
    classes: dict[str, LayerClass] = {}
    for layer, name in enumerate(order_of_layers(model)):
        classes.setdefault(name, _class_of(model, layer))
    return classes


def order_of_layers(model: Model) -> tuple[str, ...]:
    """The class of each layer. `block` when all are alike, else after what differs: `local`, `global`, `dense`, `moe`."""
    classes = [_class_of(model, layer) for layer in range(model.num_layers)]
    mixes_windows = len({each.window for each in classes}) > 1
    mixes_experts = len({each.is_moe for each in classes}) > 1
    names = {each: _name(each, mixes_windows=mixes_windows, mixes_experts=mixes_experts) for each in set(classes)}
    return tuple(names[each] for each in classes)


def _class_of(model: Model, layer: int) -> LayerClass:
    return LayerClass(is_moe=model.is_moe_layer(layer), window=_window(model, layer))


def _window(model: Model, layer: int) -> int | None:
    """The sliding window of layer number `layer`, counted from 0; each N-th layer, counted from 1, sees everything."""
    attention = model.attention
    if attention.kind == "mla" or attention.window is None:
        return None
    if attention.global_every is not None and (layer + 1) % attention.global_every == 0:
        return None
    return attention.window


def _name(layer: LayerClass, *, mixes_windows: bool, mixes_experts: bool) -> str:
    parts = []
    if mixes_windows:
        parts.append("local" if layer.window is not None else "global")
    if mixes_experts:
        parts.append("moe" if layer.is_moe else "dense")
    return "_".join(parts) or "block"
