"""Two plans beside each other: what differs, by what it changes, and what each is expected to take."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .difference import Difference, differences
from .figures import WIDTH, big, duration, milliseconds, percent_more, seconds, short
from .plan import Plan

TITLES = {
    "convergence": "changes what is learned",
    "answers": "changes the format that answers come from",
    "execution": "changes only how it runs",
}


@dataclass(frozen=True)
class Side:
    """A plan that carries its spec, and the file it is from."""

    file: str
    plan: Plan


def to_json(a: Side, b: Side) -> dict[str, Any]:
    """For tools: differences by kind, and what each side is expected to do."""
    found = differences(a.plan, b.plan)
    kinds = {kind: [{"path": d.path, "a": d.a, "b": d.b} for d in found if d.kind == kind] for kind in TITLES}
    return {
        "llmc_diff": 1,
        "a": a.file,
        "b": b.file,
        "same_training": not kinds["convergence"],
        **kinds,
        "predicted": {name: _predicted(side.plan) for name, side in (("a", a), ("b", b))},
    }


def _predicted(plan: Plan) -> dict[str, Any]:
    data = plan.model_dump(mode="json")
    return {section: data[section]["predicted"] for section in ("train", "serve") if data[section] is not None}


def report(a: Side, b: Side) -> str:
    """At most 100 columns, plain."""
    found = differences(a.plan, b.plan)
    lines = [f"A  {a.file}   {_model(a.plan)}", f"B  {b.file}   {_model(b.plan)}"]
    for kind, title in TITLES.items():
        rows = [each for each in found if each.kind == kind]
        if rows:
            lines += ["", f"  {title}", *_rows(rows)]
        elif kind == "convergence":
            lines += ["", "  nothing that changes what is learned"]
    lines += [*_training(a.plan, b.plan), *_serving(a.plan, b.plan)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _model(plan: Plan) -> str:
    return f"{plan.name}, {big(plan.model.parameters)} parameters" if plan.model is not None else plan.name


def _rows(found: Sequence[Difference]) -> list[str]:
    width = min(40, max(len(_dotted(each)) for each in found))
    room = WIDTH - width - 6
    lines = []
    for each in found:
        change = f"{_shown(each.a, room // 2)} → {_shown(each.b, room // 2)}"
        lines.append(f"    {_dotted(each):<{width}}  {change}")
    return lines


def _dotted(each: Difference) -> str:
    """`train.optimizer.lr`: the only stage of a training needs no number."""
    return each.path.replace("train.0.", "train.", 1)


def _shown(value: Any, room: int) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, (dict, list)):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, int):
        text = f"{value:,}"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= room else text[: room - 1] + "…"


Figure = tuple[str, float | None, float | None, Callable[[float], str]]


def _table(title: str, figures: Sequence[Figure]) -> list[str]:
    rows = [row for row in figures if row[1] is not None or row[2] is not None]
    lines = ["", f"  {title:<24}{'A':>14}{'B':>14}"]
    for name, one, other, text in rows:
        cells = [text(value) if value is not None else "unknown" for value in (one, other)]
        change = percent_more(other, one) if one and other is not None and one != other else ""
        lines.append(f"    {name:<22}{cells[0]:>14}{cells[1]:>14}   {change}")
    return lines


def _training(a: Plan, b: Plan) -> list[str]:
    if a.train is None or b.train is None:
        return _only_one(a, b, "train")
    one, other = a.train.predicted, b.train.predicted
    fits = ["yes" if each.fits else "no" for each in (a.train, b.train)]
    figures: list[Figure] = [
        ("step", one.step_time_s, other.step_time_s, seconds),
        ("tokens/s", one.tokens_per_s, other.tokens_per_s, short),
        ("MFU", one.mfu, other.mfu, lambda value: f"{value:.1%}"),
        ("memory a device", one.memory_gib.peak, other.memory_gib.peak, lambda value: f"{value:.1f} GiB"),
        ("whole training", _whole_s(a), _whole_s(b), duration),
        ("device-hours", one.device_hours, other.device_hours, short),
        ("cost", one.cost_usd, other.cost_usd, lambda value: f"${big(value)}"),
        ("energy", one.energy_mwh, other.energy_mwh, lambda value: f"{short(value)} MWh"),
    ]
    lines = _table("training", figures)
    return [*lines, f"    {'fits':<22}{fits[0]:>14}{fits[1]:>14}"]


def _whole_s(plan: Plan) -> float:
    assert plan.train is not None
    return plan.train.predicted.device_hours * 3600 / plan.train.layout.devices


def _serving(a: Plan, b: Plan) -> list[str]:
    if a.serve is None or b.serve is None:
        return _only_one(a, b, "serve")
    one, other = a.serve.predicted, b.serve.predicted
    holds = ["yes" if each.meets_slo else "no" for each in (a.serve, b.serve)]
    figures: list[Figure] = [
        ("devices", a.serve.devices, b.serve.devices, lambda value: f"{value:.0f}"),
        ("first token p50", one.ttft_p50_ms, other.ttft_p50_ms, milliseconds),
        ("first token p99", one.ttft_p99_ms, other.ttft_p99_ms, milliseconds),
        ("each token p50", one.tpot_p50_ms, other.tpot_p50_ms, milliseconds),
        ("each token p99", one.tpot_p99_ms, other.tpot_p99_ms, milliseconds),
        ("tokens/s", one.output_tokens_per_s, other.output_tokens_per_s, short),
        ("memory a device", one.memory_gib.peak, other.memory_gib.peak, lambda value: f"{value:.1f} GiB"),
    ]
    return [*_table("serving", figures), f"    {'holds the objective':<22}{holds[0]:>14}{holds[1]:>14}"]


def _only_one(a: Plan, b: Plan, section: str) -> list[str]:
    have = [name for name, plan in (("A", a), ("B", b)) if getattr(plan, section) is not None]
    return ["", f"  only {have[0]} has a `{section}` plan"] if have else []
