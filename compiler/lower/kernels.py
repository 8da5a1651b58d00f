"""The kernels that a program imports: those of compiler/kernels/ that apply to its spec and layout."""

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
    setting = setting_of(spec, plan)
    return () if setting is None else choose_kernels(setting)


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
