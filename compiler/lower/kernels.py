"""The kernels that a program imports: those of compiler/kernels/ that apply to its spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernels.setting import Setting
from ..kernels.table import choose_kernels
from .model import longest_sequence

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..kernels.kernel import Kernel
    from ..planner.plan import Plan


def lower_kernels(spec: Spec, plan: Plan) -> tuple[Kernel, ...]:
    """In the order of their names; none without training.

    Of programs for several devices only the loss is one, unless its vocabulary is cut: the others take no sharded weights
    or tokens.
    """
    if spec.train is None or plan.train is None:
        return ()
    layout = plan.train.layout
    accumulation = layout.grad_accumulation
    chosen = choose_kernels(
        Setting(spec, spec.train[0], grad_accumulation=accumulation, longest=longest_sequence(spec))
    )
    if layout.devices == 1:
        return chosen
    return tuple(kernel for kernel in chosen if kernel.name == "linear_cross_entropy" and layout.tp == 1)
