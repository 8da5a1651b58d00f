"""The objectives of a spec as what can be counted: a share of requests within a bound.

`ttft_p99_ms: 500` says that 99 % of the requests have their first token within 0.5 s: the error budget is 1 %. A *burn rate*
is the share of requests beyond the bound, over the budget: at 1 it is used up just at the end of the period that it is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....runtimes.serving.metrics import METRICS

if TYPE_CHECKING:
    from ....spec.serving import Slo

_KINDS = {
    "ttft": ("llmc_time_to_first_token_seconds", "the first token"),
    "tpot": ("llmc_time_per_output_token_seconds", "the mean time between tokens"),
}
_SHARES = {"p50": 0.5, "p99": 0.99}


@dataclass(frozen=True)
class Objective:
    """At least `share` of the observations of a histogram are at most `bound_s`."""

    name: str
    """`ttft_p99`."""
    metric: str
    words: str
    share: float
    bound_s: float
    key: str

    @property
    def budget(self) -> float:
        return round(1 - self.share, 6)

    @property
    def le(self) -> str:
        """The bound as the exposition writes it in the label `le`."""
        return repr(self.bound_s)


@dataclass(frozen=True)
class Window:
    """An alert of two windows: the long one says that it matters, the short one that it goes on."""

    factor: float
    long: str
    short: str
    severity: str
    used: str
    """What of the budget of 30 days is gone when the alert comes."""


WINDOWS = (
    Window(14.4, "1h", "5m", "page", "2 %"),
    Window(6.0, "6h", "30m", "page", "5 %"),
    Window(3.0, "1d", "2h", "ticket", "10 %"),
    Window(1.0, "3d", "6h", "ticket", "10 %"),
)
"""Google's Site Reliability Workbook, chapter 5, table 5-8."""


def objectives_of(slo: Slo | None) -> tuple[Objective, ...]:
    """In the order of the language."""
    if slo is None:
        return ()
    found = []
    for kind, (metric, words) in _KINDS.items():
        for percentile, share in _SHARES.items():
            field = f"{kind}_{percentile}_ms"
            bound_ms = getattr(slo, field)
            if bound_ms is not None:
                key = f"serve.slo.{field}"
                found.append(Objective(f"{kind}_{percentile}", metric, words, share, bound_ms / 1e3, key))
    return tuple(found)


def windows_of(objective: Objective) -> tuple[Window, ...]:
    """Those that can be reached: half of all requests cannot be beyond the bound 14 times over."""
    return tuple(window for window in WINDOWS if window.factor * objective.budget < 1)


def bounds_of(objectives: tuple[Objective, ...]) -> dict[str, tuple[float, ...]]:
    """Histogram -> the buckets that its objectives need and the table has not."""
    found: dict[str, tuple[float, ...]] = {}
    for metric in METRICS:
        wanted = sorted({each.bound_s for each in objectives if each.metric == metric.name} - set(metric.buckets))
        if wanted:
            found[metric.name] = tuple(wanted)
    return found
