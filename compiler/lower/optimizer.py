"""Optimizers that a program does not have: of a kind of accelerator, of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.base import Path
    from ...spec.document import Spec
    from ...spec.training import Train


def optimizer_faults(spec: Spec, stage: Train) -> Iterator[tuple[Path, str]]:
    """(place in the stage, message) of what no layout changes."""
    name, kind, moe = stage.optimizer.name, spec.hardware.accelerator.kind, spec.model.moe
    place = ("optimizer", "name")
    if kind == "tpu" and name != "adamw":
        yield place, f"the optimizer {name} is not lowered for TPUs yet; adamw is"
    if kind == "tpu" and stage.ema_decay is not None:
        yield ("ema_decay",), "an average of the weights is not lowered for TPUs yet; without it training is"
    if name == "sophia":
        yield (
            place,
            (
                "the optimizer sophia is not lowered: every tenth step it needs gradients for labels drawn from the model's own"
                " prediction, and the fused loss never has the logits; adamw, adafactor, lion and muon are"
            ),
        )
    if name == "adafactor" and moe is not None:
        yield place, "adafactor with stacks of experts is not lowered yet; muon, lion and adamw are"
    if name == "muon" and moe is not None and moe.bias:
        yield place, "muon with biases of experts is not lowered yet; lion and adamw are"
