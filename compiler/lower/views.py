"""Spec, graph and plan -> the views of every template. Decisions end here; templates get finished values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..deploy.launch import lower_deploy
from ..planner.layout import Layout
from .convert import lower_convert
from .data import lower_data
from .kernels import lower_kernels, setting_of
from .model import lower_model
from .parallel import context_of, lower_parallel, tensor_of
from .pipeline import pipeline_of
from .ranks import lower_ranks
from .readme import lower_readme
from .serving import lower_serve
from .spmd import lower_spmd
from .train import lower_train

if TYPE_CHECKING:
    from pathlib import Path

    from ...spec.document import Spec
    from ..deploy.target import Files
    from ..kernels.kernel import Kernel
    from ..planner.plan import Plan
    from .convert import ConvertView
    from .data import DataView
    from .model_view import ModelView
    from .parallel import ParallelView
    from .readme import ReadmeView
    from .serving import ServeView
    from .spmd import SpmdView
    from .train import TrainView


@dataclass(frozen=True)
class Views:
    """One view a template; None for a file that the spec does not ask for."""

    model: ModelView
    train: TrainView | None
    parallel: ParallelView | None
    spmd: SpmdView | None
    """Of programs for TPUs, in the place of `parallel`; a server of one chip needs none."""
    data: DataView | None
    serve: ServeView | None
    kernels: tuple[Kernel, ...]
    convert: ConvertView | None
    readme: ReadmeView
    deploy: Files
    """Launch files, which no backend changes."""


@dataclass(frozen=True)
class Place:
    """Where a program comes from and where it goes."""

    spec_file: Path
    out_dir: Path

    @property
    def origin(self) -> str:
        """What generated files call the spec: its bare name, the same from wherever it is built."""
        return self.spec_file.name


_DEVICES: dict[str, Literal["cpu", "cuda", "npu", "xla"]] = {"cpu": "cpu", "gpu": "cuda", "npu": "npu", "tpu": "xla"}
"""Kind of accelerator -> PyTorch's name of its devices."""


def lower_views(spec: Spec, plan: Plan, *, place: Place) -> Views:
    """All views of a program that nothing in `refuse.py` stands against."""
    assert plan.model is not None
    device = _DEVICES[spec.hardware.accelerator.kind]
    layout = plan.train.layout if plan.train else _served_layout(plan)
    is_spread = device == "xla" and (plan.train is not None or layout.devices > 1)
    spmd = lower_spmd(spec, layout, origin=place.origin) if is_spread else None
    kernels = lower_kernels(spec, plan)
    model = lower_model(
        spec,
        origin=place.origin,
        num_parameters=plan.model.parameters,
        recompute="none" if layout.recompute == "mixed" else layout.recompute,
        recomputes_some=layout.recompute == "mixed",
        kernels=kernels,
        rank_groups=plan.serve.layout.ep if plan.serve is not None and plan.train is None else 1,
        **_parts(spec, layout, spmd=spmd),
    )
    parallel = None
    if device != "xla" and plan.train is not None:
        parallel = lower_parallel(spec, layout, origin=place.origin, device=device, model=model)
    convert = None
    if (
        not model.axes.names and model.pp is None
    ):  # one that has the whole model: a rank's part has no counterpart elsewhere
        convert = lower_convert(spec.model, name=spec.name, origin=place.origin)
    train = None
    if spec.train is not None and plan.train is not None:
        train = lower_train(spec, plan.train, origin=place.origin, device=device, kernels=kernels)
    data = None
    if spec.train is not None and spec.data is not None:
        data = lower_data(spec, spec.data, origin=place.origin, place=place)
    serve = None
    if spec.serve is not None and plan.serve is not None:
        serve = lower_serve(
            spec,
            plan.serve,
            origin=place.origin,
            device=device,
            kernels=kernels,
            ranks=lower_ranks(spec, model),
        )
    return Views(
        model=model,
        train=train,
        parallel=parallel,
        data=data,
        serve=serve,
        kernels=kernels,
        spmd=spmd,
        convert=convert,
        deploy=lower_deploy(spec, plan, steps=train.steps if train else None, serve=serve, origin=place.origin),
        readme=lower_readme(
            spec,
            plan,
            model=model,
            train=train,
            convert=convert,
            kernels=kernels,
            setting=setting_of(spec, plan),
            origin=place.origin,
        ),
    )


def _served_layout(plan: Plan) -> Layout:
    """What cuts the model of a program that only serves."""
    return Layout(tp=plan.serve.layout.tp, pp=plan.serve.layout.pp) if plan.serve is not None else Layout()


def _parts(spec: Spec, layout: Layout, *, spmd: SpmdView | None) -> dict[str, Any]:
    """What a device has of the model: with SPMD the compiler cuts it, and the program has it whole."""
    if spmd is not None:
        return {"spmd": spmd}
    return {
        "tp": tensor_of(spec, layout),
        "cp": context_of(layout),
        "pp": pipeline_of(spec, layout),
        "ep": layout.ep,
        "is_parallel": layout.devices > 1,
    }
