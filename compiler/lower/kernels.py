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
    """In the order of their names; none without training."""
    if spec.train is None or plan.train is None:
        return ()
    accumulation = plan.train.layout.grad_accumulation
    return choose_kernels(Setting(spec, spec.train[0], grad_accumulation=accumulation, longest=longest_sequence(spec)))
