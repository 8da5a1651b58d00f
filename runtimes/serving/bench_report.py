"""What a benchmark measured, as a table, as JSON and as a picture, with the plan's expectation beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .bench import Measured
from .simulation import Percentiles, keeps

Objectives = Mapping[str, float]
"""ttft_p99_ms and the like: what the spec asks for."""


def figures(measured: Measured, *, slo: Objectives, predicted: Objectives) -> dict[str, Any]:
    """Everything as numbers, for machines."""
    outcomes, duration_s = measured.outcomes, measured.duration_s
    finished = [outcome for outcome in outcomes if outcome.finished_s is not None]
    found: dict[str, Any] = {
        "requests": len(outcomes),
        "finished": len(finished),
        "refused": sum(outcome.is_refused for outcome in outcomes),
        "errors": measured.errors,
        "duration_s": duration_s,
        "requests_per_s": len(finished) / duration_s,
        "output_tokens_per_s": sum(outcome.output_tokens for outcome in finished) / duration_s,
    }
    for name, values in (
        ("ttft", [o.ttft_s for o in finished]),
        ("tpot", [o.tpot_s for o in finished]),
        ("e2e", [o.e2e_s for o in finished]),
    ):
        at = Percentiles.of(values)
        found |= {f"{name}_{share}_ms": _ms(getattr(at, f"{share}_s")) for share in ("p50", "p90", "p95", "p99")}
    if measured.refused_s:
        found["refusal_p99_ms"] = Percentiles.of(measured.refused_s).p99_s * 1e3
    if slo:
        ttft_s, tpot_s = _bound(slo, "ttft"), _bound(slo, "tpot")
        good = sum(keeps(outcome, ttft_s=ttft_s, tpot_s=tpot_s) for outcome in finished)
        found["goodput_per_s"] = good / duration_s
        found["good_share_of_finished"] = good / len(finished) if finished else 0.0
    found["slo"], found["predicted"] = dict(slo), dict(predicted)
    return found


def _ms(seconds: float) -> float | None:
    """None of nothing: JSON has no NaN."""
    return None if math.isnan(seconds) else seconds * 1e3


def _bound(slo: Objectives, name: str) -> float | None:
    """The strictest objective for one request: that of the highest percentile."""
    bound_ms = slo.get(f"{name}_p99_ms") or slo.get(f"{name}_p50_ms")
    return None if bound_ms is None else bound_ms / 1e3


ROWS = (
    ("TTFT p50", "ttft_p50_ms", "ms"),
    ("TTFT p90", "ttft_p90_ms", "ms"),
    ("TTFT p99", "ttft_p99_ms", "ms"),
    ("TPOT p50", "tpot_p50_ms", "ms"),
    ("TPOT p90", "tpot_p90_ms", "ms"),
    ("TPOT p99", "tpot_p99_ms", "ms"),
    ("E2E p50", "e2e_p50_ms", "ms"),
    ("E2E p99", "e2e_p99_ms", "ms"),
    ("output", "output_tokens_per_s", "tokens/s"),
    ("requests", "requests_per_s", "/s"),
)


def table(found: Mapping[str, Any]) -> str:
    """For people."""
    lines = [
        f"{found['finished']} of {found['requests']} requests finished in {found['duration_s']:.1f} s,"
        f" {found['refused']} refused, {sum(found['errors'].values())} failed"
    ]
    lines += [f"  {count} x {error}" for error, count in found["errors"].items()]
    lines.append(f"{'':<10}{'measured':>12}{'plan':>12}{'objective':>12}")
    for label, name, unit in ROWS:
        cells = (found[name], found["predicted"].get(name), found["slo"].get(name))
        shown = "".join(f"{'' if value is None else _number(value):>12}" for value in cells)
        lines.append(f"{label:<10}{shown}  {unit}")
    if "goodput_per_s" in found:
        share = found["good_share_of_finished"]
        lines.append(
            f"goodput   {_number(found['goodput_per_s']):>12} requests/s hold the objective, {share:.1%} of those finished"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plot(measured: Measured, file: Path, *, slo: Objectives) -> None:
    """Shares of requests below each time, with the objectives as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    finished = [outcome for outcome in measured.outcomes if outcome.finished_s is not None]
    for axes, name, values in zip(
        figure.subplots(1, 2),
        ("ttft", "tpot"),
        ([o.ttft_s for o in finished], [o.tpot_s for o in finished]),
        strict=True,
    ):
        ordered = sorted(value * 1e3 for value in values if value is not None)
        axes.step(ordered, [(at + 1) / len(ordered) for at in range(len(ordered))], where="post")
        for percentile, share in (("p50", 0.5), ("p99", 0.99)):
            bound = slo.get(f"{name}_{percentile}_ms")
            if bound is not None:
                axes.axvline(bound, linestyle="--", color="tab:red")
                axes.annotate(f"{percentile} objective", (bound, share), rotation=90, ha="right", va="top", fontsize=8)
        axes.set(xlabel=f"{name.upper()}, ms", ylabel="share of requests", ylim=(0, 1), xlim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
