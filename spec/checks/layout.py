"""Rules of the parallel layout that need no planner."""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnostics import Diagnostic, Edit, Fix, Label, diagnose
from ..model import Model
from ..parallel import Parallel


def expert_parallel_needs_experts(model: Model, parallel: Parallel) -> Iterator[Diagnostic]:
    if parallel.ep is not None and parallel.ep > 1 and model.moe is None:
        path = ("parallel", "ep")
        yield diagnose(
            "S308",
            f"`ep: {parallel.ep}` divides experts, and the model has none",
            path=path,
            labels=[Label("", ("model",), part="key")],
            fixes=[Fix("leave out `ep`", (Edit("remove", path),))],
        )


def virtual_stages_need_a_schedule(parallel: Parallel) -> Iterator[Diagnostic]:
    """Only interleaved 1F1B puts several stages on a rank as it is told; DualPipe puts two."""
    stages, schedule = parallel.virtual_stages, parallel.schedule
    if stages is None or stages == 1 or schedule is None or schedule == "interleaved_1f1b":
        return
    if schedule == "dualpipe" and stages == 2:
        return
    path = ("parallel", "schedule")
    yield diagnose(
        "S309",
        f"{schedule} holds {2 if schedule == 'dualpipe' else 1} of the pipeline's stages a rank, `virtual_stages` is {stages:,}",
        path=("parallel", "virtual_stages"),
        labels=[Label("", path)],
        fixes=[Fix("`schedule: interleaved_1f1b`", (Edit("set", path, "interleaved_1f1b"),))],
    )
