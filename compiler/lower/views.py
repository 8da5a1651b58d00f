"""Spec, graph and plan -> the views of every template. Decisions end here; templates get finished values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .convert import lower_convert
from .data import lower_data
from .kernels import lower_kernels
from .model import lower_model
from .readme import lower_readme
from .train import lower_train

if TYPE_CHECKING:
    from pathlib import Path

    from ...spec.document import Spec
    from ..planner.plan import Plan
    from .convert import ConvertView
    from .data import DataView
    from .kernels import LinearCrossEntropyView
    from .model import ModelView
    from .readme import ReadmeView
    from .train import TrainView


@dataclass(frozen=True)
class Views:
    """One view a template; None for a file that the spec does not ask for."""

    model: ModelView
    train: TrainView | None
    data: DataView | None
    kernels: tuple[LinearCrossEntropyView, ...]
    convert: ConvertView | None
    readme: ReadmeView


@dataclass(frozen=True)
class Place:
    """Where a program comes from and where it goes."""

    spec_file: Path
    out_dir: Path

    @property
    def origin(self) -> str:
        """What generated files call the spec: its bare name, the same from wherever it is built."""
        return self.spec_file.name


def lower_views(spec: Spec, plan: Plan, *, place: Place) -> Views:
    """All views of a program that nothing in `refuse.py` stands against."""
    assert plan.model is not None
    device = "cuda" if spec.hardware.accelerator.kind == "gpu" else "cpu"
    recompute = plan.train.layout.recompute if plan.train else "none"
    model = lower_model(spec, origin=place.origin, num_parameters=plan.model.parameters, recompute=recompute)
    convert = lower_convert(spec.model, name=spec.name, origin=place.origin)
    train = None
    if spec.train is not None and plan.train is not None:
        train = lower_train(spec, plan.train, origin=place.origin, device=device)
    data = None
    if spec.train is not None and spec.data is not None:
        data = lower_data(spec, spec.data, origin=place.origin, place=place)
    return Views(
        model=model,
        train=train,
        data=data,
        kernels=lower_kernels(spec),
        convert=convert,
        readme=lower_readme(spec, plan, model=model, train=train, convert=convert, origin=place.origin),
    )
