"""Predict each next token: the head's logits against the tokens one step on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.ops import CROSS_ENTROPY, TARGETS

if TYPE_CHECKING:
    from ....spec.training import Train
    from ...ir.builder import Builder


def add_objective(builder: Builder, train: Train, logits: str) -> str:
    """Logits [B, T, V] -> the loss of each token [B, T]."""
    targets = builder.add(TARGETS, "targets")
    return builder.add(CROSS_ENTROPY, "loss", logits, targets, z_loss=train.z_loss or None)
