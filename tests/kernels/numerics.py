"""The numerics rule of llmc.runtimes.kernels.checks.rule as assertions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmc.runtimes.kernels.checks.rule import canaries, compare, error, random, run

__all__ = ["assert_accurate", "canaries", "error", "random", "run"]


def assert_accurate(function: Callable[..., Any], eager: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """Compare the outputs of `function` and its gradients with those of `eager`, run in float64 and as it is."""
    for found in compare(function, eager, inputs):
        assert found.holds, f"{found.what}: error {found.error:.1e}, allowed {found.allowed:.1e}"
