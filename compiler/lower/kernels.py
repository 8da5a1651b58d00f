"""The kernels that a program imports: those of compiler/kernels/ that apply to its spec and layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernels.serving import choose_on_npu, choose_serving, has_serving_kernels, serves_on_npu
from ..kernels.setting import Setting
from ..kernels.table import choose_kernels
from .model import longest_sequence

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..kernels.kernel import Kernel
    from ..planner.plan import Plan


def lower_kernels(spec: Spec, plan: Plan) -> tuple[Kernel, ...]:
    """Of a program that trains, in the order of their names; of one that only serves, those of servers."""
    setting = setting_of(spec, plan)
    return serving_kernels(spec, plan) if setting is None else choose_kernels(setting)


def serving_kernels(spec: Spec, plan: Plan) -> tuple[Kernel, ...]:
    """Of a server, whose numbers are in the format of the KV cache."""
    if spec.serve is None or plan.serve is None:
        return ()
    layout = plan.serve.layout
    if serves_on_npu(spec, weights=layout.weights, stages=layout.pp):
        return choose_on_npu(spec, longest=longest_sequence(spec), tp=layout.tp)
    if not has_serving_kernels(spec, weights=layout.weights, devices=layout.tp * layout.pp):
        return ()
    dtype = "fp32" if spec.serve.kv_cache.dtype == "fp32" else "bf16"
    return choose_serving(spec, weights=layout.weights, dtype=dtype, longest=longest_sequence(spec), tp=layout.tp)


def setting_of(spec: Spec, plan: Plan) -> Setting | None:
    """What kernels are chosen for; None without training."""
    if spec.train is None or plan.train is None:
        return None
    layout = plan.train.layout
    return Setting(
        spec,
        spec.train[0],
        grad_accumulation=layout.grad_accumulation,
        longest=longest_sequence(spec),
        layout=layout,
    )
