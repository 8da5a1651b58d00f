"""Activations that are computed again in the backward pass in place of being kept, layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Collection

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_layers(model: nn.Module, *, whole: Collection[int] = (), attention: Collection[int] = ()) -> None:
    """Layers in `whole` keep their input alone, those in `attention` all but what is inside attention.

    Where a pipeline has cut the model, layers keep the numbers that they have in all of it.
    """
    layers = model.get_submodule("layers")
    for name, layer in layers.named_children():
        if int(name) in whole:
            _recompute(layer)
        elif int(name) in attention:
            _recompute(layer.get_submodule("attn"))


def _recompute(module: nn.Module) -> None:
    """Within the module, so that the hooks of FSDP around it run once."""
    setattr(module, "forward", functools.partial(checkpoint, module.forward, use_reentrant=False))  # noqa: B010
