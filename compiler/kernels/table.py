"""Name -> "module:function" of each kernel. The function says whether its kernel applies, and with which sizes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .kernel import Kernel, LeftAlone
    from .setting import Setting

KERNELS: dict[str, str] = {
    "adamw": ".adamw:choose",
    "add_norm": ".add_norm:choose",
    "causal_attention": ".causal_attention:choose",
    "embed": ".embed:choose",
    "gated_linear": ".gated_linear:choose",
    "linear": ".linear:choose",
    "linear_cross_entropy": ".linear_cross_entropy:choose",
}


def choose_kernels(setting: Setting) -> tuple[Kernel, ...]:
    """The kernels of a training program, in the order of their names."""
    from .kernel import LeftAlone

    chosen = (_function(target)(setting) for target in KERNELS.values())
    return tuple(sorted((each for each in chosen if not isinstance(each, LeftAlone)), key=lambda kernel: kernel.name))


def left_alone(setting: Setting) -> dict[str, str]:
    """Kernel that a program does not have -> the reason."""
    from .kernel import LeftAlone

    chosen = {name: _function(target)(setting) for name, target in KERNELS.items()}
    return {name: each.reason for name, each in chosen.items() if isinstance(each, LeftAlone)}


def _function(target: str) -> Callable[[Setting], Kernel | LeftAlone]:
    module, _, name = target.partition(":")
    return getattr(import_module(module, __package__), name)
