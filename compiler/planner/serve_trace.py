"""A workload that was recorded: its means for closed forms, its requests for simulation."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...spec.diagnostics import Diagnostic, diagnose

if TYPE_CHECKING:
    from ...runtimes.serving.arrivals import Arrival
    from ...spec.serving import Serve, Workload


@lru_cache(maxsize=4)
def recorded(file: Path) -> tuple[Arrival, ...]:
    """In order of time."""
    from ...runtimes.serving.arrivals import read_trace

    return tuple(read_trace(file))


def with_trace(serve: Serve, *, folder: Path) -> Serve | Diagnostic:
    """The section with what its trace says filled in, and the trace's full path; as it is without a trace."""
    workload = serve.workload
    if workload is None or workload.trace is None:
        return serve
    path = ("serve", "workload", "trace")
    try:
        arrivals = recorded(folder / workload.trace)
    except Exception as error:
        if not isinstance(error, OSError) and not hasattr(error, "help"):  # RunError: a line that is no request
            raise
        return diagnose("P222", f"the trace cannot be used: {str(error).splitlines()[0]}", path=path)
    if len(arrivals) < 2 or arrivals[-1].time_s <= arrivals[0].time_s:
        return diagnose("P222", f"a trace of {len(arrivals)} requests at one moment has no rate", path=path)
    return serve.model_copy(update={"workload": _filled_in(workload, arrivals, file=folder / workload.trace)})


def _filled_in(workload: Workload, arrivals: tuple[Arrival, ...], *, file: Path) -> Workload:
    num = len(arrivals)
    means = {
        "input_tokens": max(1, round(sum(each.input_tokens for each in arrivals) / num)),
        "output_tokens": max(1, round(sum(each.output_tokens for each in arrivals) / num)),
        "requests_per_s": (num - 1) / (arrivals[-1].time_s - arrivals[0].time_s),
    }
    return workload.model_copy(update={**means, "trace": str(file.resolve())})
