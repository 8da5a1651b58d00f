"""The view of the README that stands beside a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..deploy.facts import machines_of
from ..kernels.table import left_alone
from ..kernels.weight_only_linear import WeightOnlyLinear

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..kernels.kernel import Kernel
    from ..kernels.setting import Setting
    from ..planner.plan import Plan
    from .convert import ConvertView
    from .model_view import ModelView
    from .train import TrainView


@dataclass(frozen=True)
class KernelRow:
    """What one kernel spares, against separate ops."""

    name: str
    language: str
    fuses: str
    spared: str
    """Bytes through memory, forward."""
    kept: str
    """Bytes that are not kept for the backward pass."""


_LANGUAGES = {"cpp": "C++", "triton": "Triton", "pallas": "Pallas", "pytorch": "PyTorch", "npu": "torch-npu"}


@dataclass(frozen=True)
class ReadmeView:
    """What templates/pytorch/README.md.j2 needs, under the name `r`."""

    name: str
    origin: str
    num_parameters: str
    model_words: tuple[str, ...]
    plan_lines: tuple[str, ...]
    has_train: bool
    has_serve: bool
    replicas: int
    """Servers; with several there is a router."""
    ranks: int
    """Processes of each, one a device."""
    ranks_of_node: int
    kernels: tuple[KernelRow, ...]
    packed: tuple[str, ...]
    """Of a server whose weights are kept in few bits: a line on each kernel."""
    lossless_bits: float
    """That bf16 weights take where linear layers are kernels; else 0."""
    has_kernels: bool
    left_alone: tuple[tuple[str, str], ...]
    """Kernel that the program does not have, and why."""
    launch_target: str
    """What launch/ is for; empty without one."""
    model_type: str
    """Hugging Face's name for the model; empty if it has none."""
    run_dir: str
    has_data: bool
    chips: int
    """Of a served replica on TPUs; 1 on other accelerators."""
    num_devices: int
    nodes: int
    start: str
    """The command that starts training."""


def lower_readme(
    spec: Spec,
    plan: Plan,
    *,
    model: ModelView,
    train: TrainView | None,
    convert: ConvertView | None,
    kernels: tuple[Kernel, ...],
    setting: Setting | None,
    origin: str,
) -> ReadmeView:
    has_kernels = train is not None
    products = [each for each in kernels if isinstance(each, WeightOnlyLinear)]
    devices = plan.serve.devices // plan.serve.layout.replicas if plan.serve else 1
    is_tpu = spec.hardware.accelerator.kind == "tpu"
    ranks = 1 if is_tpu else devices  # one process has all chips
    return ReadmeView(
        name=spec.name,
        origin=origin,
        num_parameters=model.num_parameters,
        model_words=model.summary,
        plan_lines=train.plan_lines if train else (),
        has_train=train is not None,
        has_serve=spec.serve is not None,
        replicas=plan.serve.layout.replicas if plan.serve else 1,
        ranks=ranks,
        ranks_of_node=machines_of(spec, ranks).per_node,
        kernels=tuple(_kernel(each) for each in kernels) if has_kernels else (),
        packed=_packed([each for each in products if each.has_scales]),
        lossless_bits=next((each.weight_bits for each in products if not each.has_scales), 0.0),
        has_kernels=bool(kernels) and (has_kernels or train is None),
        left_alone=tuple(left_alone(setting).items()) if setting is not None and has_kernels else (),
        launch_target=spec.deploy.target if spec.deploy is not None else "",
        model_type=convert.model_type if convert else "",
        run_dir=f"runs/{spec.name}",
        chips=devices if is_tpu else 1,
        has_data=spec.data is not None,
        num_devices=plan.train.layout.devices if plan.train else 1,
        nodes=_hosts(spec, plan, train) if train else 1,
        start=train.command if train else "",
    )


def _hosts(spec: Spec, plan: Plan, train: TrainView) -> int:
    """A torus has no nodes in the spec; its hosts have so many chips each."""
    if train.device != "xla" or plan.train is None:
        return train.nodes
    return -(-plan.train.layout.devices // spec.hardware.accelerator.per_node)


def _kernel(kernel: Kernel) -> KernelRow:
    per = "a parameter" if kernel.template == "adamw" else "a token"
    return KernelRow(
        name=kernel.name,
        language=_LANGUAGES[kernel.language],
        fuses=kernel.fuses,
        spared=f"{kernel.spared_bytes:,.0f} {per}" if kernel.spared_bytes else "",
        kept=f"{kernel.spared_kept_bytes:,.0f} a token" if kernel.spared_kept_bytes else "",
    )


def _packed(kernels: list[WeightOnlyLinear]) -> tuple[str, ...]:
    places = ("layers", "the head") if len(kernels) == 2 else ("layers and the head",)
    return tuple(
        f"`kernels/{each.name}{'.cpp' if each.is_native else '_gpu.py'}`: {place}, {each.weight_bits:g} bits a weight (groups of {each.group})"
        f"{', inputs in 8' if each.rounds_inputs else ''}"
        for place, each in zip(places, kernels, strict=False)
    )
