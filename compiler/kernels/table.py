"""Name -> "module:function" of each kernel. The function says whether its kernel applies, and with which sizes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .kernel import Kernel
    from .setting import Setting

KERNELS: dict[str, str] = {
    "adamw": ".adamw:choose",
    "add_rms_norm": ".add_rms_norm:choose",
    "causal_attention": ".causal_attention:choose",
    "embed": ".embed:choose",
    "gated_linear": ".gated_linear:choose",
    "linear_cross_entropy": ".linear_cross_entropy:choose",
}


def choose_kernels(setting: Setting) -> tuple[Kernel, ...]:
    """The kernels of a training program, in the order of their names."""
    chosen = (_function(target)(setting) for target in KERNELS.values())
    return tuple(sorted((kernel for kernel in chosen if kernel is not None), key=lambda kernel: kernel.name))


def _function(target: str) -> Callable[[Setting], Kernel | None]:
    module, _, name = target.partition(":")
    return getattr(import_module(module, __package__), name)
