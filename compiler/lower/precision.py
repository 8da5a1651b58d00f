"""Number formats that a program does not train in: of a kind of accelerator, of a model, of a layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.base import Path
    from ...spec.document import Spec
    from ...spec.training import Train

_LOWERED = ("bf16", "fp32", "fp16")
_ON_TPUS = ("bf16", "fp32")


def precision_faults(spec: Spec, stage: Train) -> Iterator[tuple[Path, str]]:
    """(place in the stage, message) of what no layout changes."""
    accelerator, place = spec.hardware.accelerator, ("precision",)
    lowered = _ON_TPUS if accelerator.kind == "tpu" else _LOWERED
    if stage.precision not in lowered:
        where = " for TPUs" if accelerator.kind == "tpu" else ""
        yield place, f"training in {stage.precision} is not lowered{where} yet; in {_listed(lowered)} it is"
    if stage.loss_scale is not None and stage.precision != "fp16":
        yield ("loss_scale",), f"`loss_scale` is for fp16, and {stage.precision} has the range of fp32: leave it out"
    if stage.precision == "fp16" and stage.optimizer.name == "sophia":
        message = "sophia's estimates want a scale of their own in fp16, which is not lowered yet; in bf16 and fp32 they need none"
        yield place, message


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
