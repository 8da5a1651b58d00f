"""Optimizers that a program does not have: of a kind of accelerator, of a model, of a layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.base import Path
    from ...spec.document import Spec
    from ...spec.training import Train
    from ..planner.layout import Layout


def optimizer_faults(spec: Spec, stage: Train) -> Iterator[tuple[Path, str]]:
    """(place in the stage, message) of what no layout changes."""
    name, kind, moe = stage.optimizer.name, spec.hardware.accelerator.kind, spec.model.moe
    place = ("optimizer", "name")
    if kind == "tpu" and name != "adamw":
        yield place, f"the optimizer {name} is not lowered for TPUs yet; adamw is"
    if kind == "tpu" and stage.ema_decay is not None:
        yield ("ema_decay",), "an average of the weights is not lowered for TPUs yet; without it training is"
    if name == "sophia" and moe is not None:
        yield (
            place,
            "sophia with experts, whose visits its estimates would count too, is not lowered yet; muon, lion and adamw are",
        )
    if name == "sophia" and stage.z_loss:
        message = f"sophia beside a `z_loss` of {stage.z_loss:g}, which is no part of its estimates, is not lowered; `z_loss: 0` is"
        yield ("z_loss",), message
    if name == "adafactor" and moe is not None:
        yield place, "adafactor with stacks of experts is not lowered yet; muon, lion and adamw are"
    if name == "muon" and moe is not None and moe.bias:
        yield place, "muon with biases of experts is not lowered yet; lion and adamw are"


def offload_layout_faults(spec: Spec, layout: Layout) -> Iterator[str]:
    """What keeps an optimizer's states on the devices. A CPU, whose plans have none elsewhere (planner/offload.py), could run all."""
    if layout.offload is None or spec.train is None:
        return
    train, kind = spec.train[0], spec.hardware.accelerator.kind
    if kind not in ("gpu", "cpu"):
        yield f"optimizer states on the host of a {kind} are not lowered yet; on that of a gpu they are"
    if layout.devices == 1:
        yield "optimizer states of one device on its host are not lowered yet; those of several are"
    if train.optimizer.name != "adamw":
        yield f"states of {train.optimizer.name} on the host are not lowered yet; those of adamw are"
    if train.ema_decay is not None:
        yield "an average of the weights beside states on the host is not lowered yet; without `ema_decay` they are"


def optimizer_layout_faults(spec: Spec, layout: Layout) -> Iterator[str]:
    """The search leaves such layouts out."""
    if spec.train is not None and spec.train[0].optimizer.name == "sophia" and layout.pp > 1:
        yield f"sophia's estimates through {layout.pp} stages of a pipeline are not lowered yet; with dp, tp and cp they are"
