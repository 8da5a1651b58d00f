"""Name -> "module:function" of each kind that a spec may name; loaded when a spec names it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ATTENTION: dict[str, str] = {
    "mha": ".attention.heads:add_attention",
    "mqa": ".attention.heads:add_attention",
    "gqa": ".attention.heads:add_attention",
    "mla": ".attention.mla:add_attention",
}
FEED_FORWARD: dict[str, str] = {
    "mlp": ".feed_forward.mlp:add_feed_forward",
    "moe": ".feed_forward.moe:add_feed_forward",
}
OBJECTIVE: dict[str, str] = {
    "causal_lm": ".objective.causal_lm:add_objective",
}
"""Objectives that are lowered today; the language knows more."""


def find(table: dict[str, str], name: str) -> Any:
    """The function that a table names."""
    module, _, function = table[name].partition(":")
    return getattr(import_module(module, __package__), function)
