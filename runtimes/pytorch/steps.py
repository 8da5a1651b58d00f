"""Checks between the backward pass and the optimizer's step."""

from __future__ import annotations

import math

from ..common.errors import RunError


def check_finite(*, loss: float, grad_norm: float) -> None:
    """End the run before a step that would spoil the weights; the latest checkpoint is sound."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise RunError(
        f"training diverged: loss {loss}, norm of the gradient {grad_norm}",
        help="go on from the latest checkpoint with --resume and a lower lr, a longer warmup, or fp32",
    )
