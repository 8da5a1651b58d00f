"""A step's time term by term: what each is, where its constants come from, and why it differs between two layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..cost.constants import table
from ..cost.provenance import Origin
from ..cost.step import rank_time, time_by_class
from .axes import axes_of
from .figures import seconds
from .words import recompute_words

if TYPE_CHECKING:
    from ..cost.workload import Workload
    from .layout import Layout
    from .train_search import Priced

COMMUNICATION = {"tp": "tp_comm", "dp": "dp_comm", "pp": "pp_comm", "cp": "cp_comm", "ep": "ep_comm"}
"""Axis -> its whole time in a plan, hidden or not."""

DECIDED_BY: dict[str, tuple[str, ...]] = {
    "matmul": ("format", "half_side"),
    "attention": ("flash", "attention_half_tokens"),
    "norms, pointwise": ("memory",),
    "routing": ("memory",),
    "embedding": ("memory",),
    "head and loss": ("bf16", "logit_bytes"),
    "recompute": ("format", "flash"),
    "bubble": ("format", "flash"),
    "optimizer": ("memory",),
    "overheads": ("step_s", "micro_batch_s"),
}
"""Term -> the constants that decide it (cost/constants.toml); `format` is the share of the peak in the products' format."""
COMMUNICATION_DECIDED_BY = {
    "tp": ("tp_exposed_overlapped", "slowdown"),
    "dp": ("fsdp_window", "slowdown", "network_share"),
    "pp": ("network_share",),
    "cp": ("tp_exposed",),
    "ep": ("ep_exposed",),
}
FORMATS = ("fp32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4")
NOT_COMPUTE = ("recompute", "exposed comm", "bubble", "optimizer", "overheads")


@dataclass(frozen=True)
class Term:
    """One part of a step."""

    name: str
    seconds: float
    origin: Origin
    """That of the constant which decides it."""


@dataclass(frozen=True)
class Change:
    """What a term takes more (or less, if negative) in another layout than in the chosen one, and for what reason."""

    name: str
    seconds: float
    reason: str

    def __str__(self) -> str:
        sign = "+" if self.seconds >= 0 else "−"
        return f"{self.name} {sign}{seconds(abs(self.seconds))}: {self.reason}"


def terms_of(work: Workload, priced: Priced) -> tuple[Term, ...]:
    """The parts of a step, the longest first; they sum to it."""
    rows = time_by_class(work, priced.layout, priced.time)
    terms = [Term(name, value, origin_of(name, work, priced)) for name, value in rows.items() if value > 0]
    return tuple(sorted(terms, key=lambda term: -term.seconds))


def origin_of(name: str, work: Workload, priced: Priced) -> Origin:
    """Of the first constant that decides a term: the others correct it."""
    if name == "exposed comm":
        times = {axis: getattr(priced.time, field) for axis, field in COMMUNICATION.items()}
        return _origin(COMMUNICATION_DECIDED_BY[max(times, key=lambda axis: times[axis])][0], work)
    constant = DECIDED_BY.get(name, ("memory",))[0]
    return _origin(work.precision, work) if constant == "format" else _origin(constant, work)


def _origin(constant: str, work: Workload) -> Origin:
    """As the table says; a number format without a figure of its own goes by fp8's or bf16's (DeviceConstants.product_share)."""
    tables = table()
    family = tables["architecture"][work.machine.constants.architecture]
    names = [constant, *(["fp8"] if constant in ("mxfp8", "nvfp4") else []), *(["bf16"] if constant in FORMATS else [])]
    for place in (family, tables["shared"], tables["software"][work.software.kind]):
        for name in names:
            if name in place:
                return place[name]["origin"]
    return "assumed"


def changes(work: Workload, other: Priced, chosen: Priced) -> list[Change]:
    """Term by term, the largest growth first; what is under 0.2 % of the step is left out.

    With other stages another rank is the busiest, with other ops: its compute is then compared as a whole.
    """
    there, here = _rows(work, other), _rows(work, chosen)
    if other.layout.pp != chosen.layout.pp or other.layout.virtual_stages != chosen.layout.virtual_stages:
        there, here = _together(there), _together(here)
    found = []
    for name in dict.fromkeys((*there, *here)):
        more = there.get(name, 0.0) - here.get(name, 0.0)
        if abs(more) >= 0.002 * chosen.time.total:
            found.append(Change(name, more, _reason(name, more, work, other, chosen)))
    return sorted(found, key=lambda change: -change.seconds)


def _rows(work: Workload, priced: Priced) -> dict[str, float]:
    return time_by_class(work, priced.layout, priced.time)


def _together(rows: dict[str, float]) -> dict[str, float]:
    """All compute in one row."""
    others = {name: value for name, value in rows.items() if name in NOT_COMPUTE}
    return {"compute": sum(rows.values()) - sum(others.values()), **others}


def _reason(name: str, more: float, work: Workload, other: Priced, chosen: Priced) -> str:
    if name == "exposed comm":
        return _communication(more, work, other, chosen)
    if name == "bubble":
        there, here = _bubble(work, other), _bubble(work, chosen)
    elif name in _WORDS:
        there, here = _WORDS[name](other.layout), _WORDS[name](chosen.layout)
    else:
        there, here = _products(other.layout, chosen.layout), _products(chosen.layout, other.layout)
    return there if there == here else f"{there} (chosen: {here})"


def _products(layout: Layout, beside: Layout) -> str:
    """What decides how large the products of a device are, as far as it differs."""
    names = {"micro_batch": "micro-batch", "tp": "tp", "cp": "cp", "ep": "ep", "pp": "pp"}
    parts = [
        f"{words} {getattr(layout, name)}"
        for name, words in names.items()
        if getattr(layout, name) != getattr(beside, name)
    ]
    return ", ".join(parts) or "layers spread otherwise"


def _bubble(work: Workload, priced: Priced) -> str:
    """Stages, micro-batches and schedule; and how much of it is waiting for the slowest stage."""
    layout, time = priced.layout, priced.time
    if layout.pp == 1:
        return "no pipeline"
    virtual = f" × {layout.virtual_stages}" if layout.virtual_stages > 1 else ""
    words = f"{layout.pp} stages{virtual}, {layout.grad_accumulation} micro-batches, {layout.schedule}"
    ranks = work.ranks(layout)
    times = [rank_time(work, layout, rank) for rank in ranks]
    mean_s = sum(rank.times * each.whole for rank, each in zip(ranks, times, strict=True)) / layout.pp
    longest_s = max(each.whole for each in times)
    waiting = layout.grad_accumulation * work.machine.constants.imbalance * (longest_s - mean_s)
    if waiting > 0.25 * time.bubble:
        words += f"; {seconds(waiting)} of it wait for the stage with most to do"
    return words


def _recompute(layout: Layout) -> str:
    again = {
        "none": "nothing computed again",
        "selective": "attention computed again",
        "full": "every layer computed again",
    }
    return again.get(layout.recompute) or f"computed again: {recompute_words(layout)}"


def _optimizer(layout: Layout) -> str:
    over = layout.shards if layout.zero else 1
    split = layout.tp * layout.pp
    on_host = ", on the host" if layout.offload is not None else ""
    where = f"states over {over} rank{'s' if over > 1 else ''}"
    return (f"{where} of {split} parts" if split > 1 else where) + on_host


def _overheads(layout: Layout) -> str:
    return f"{layout.grad_accumulation} micro-batch{'es' if layout.grad_accumulation > 1 else ''} a step"


_WORDS: dict[str, Callable[[Layout], str]] = {
    "recompute": _recompute,
    "optimizer": _optimizer,
    "overheads": _overheads,
}


def _communication(more: float, work: Workload, other: Priced, chosen: Priced) -> str:
    """The axes whose traffic moved the term, with their whole times: `tp 2: 1.2 s over NVLink4 450 GB/s (chosen: none)`."""
    whole = {axis: (getattr(other.time, name), getattr(chosen.time, name)) for axis, name in COMMUNICATION.items()}
    growth = {axis: (there - here) * (1 if more > 0 else -1) for axis, (there, here) in whole.items()}
    most = max(growth.values())
    moved = [axis for axis in sorted(growth, key=lambda each: -growth[each]) if growth[axis] > 0.15 * max(most, 0.0)]
    if most <= 0:
        return "less of it is hidden" if more > 0 else "more of it is hidden"
    return "; ".join(_axis(axis, *whole[axis], work, other, chosen) for axis in moved[:2])


def _axis(axis: str, there: float, here: float, work: Workload, other: Priced, chosen: Priced) -> str:
    """Whole times of an axis, hidden or not."""
    before = seconds(here) if here > 0 else "none"
    if there == 0:
        return f"no {axis} traffic (chosen: {before})"
    layout = other.layout
    name = axis
    if axis == "dp":
        name = max(("dp_shard", "dp_replicate", "cp"), key=lambda each: getattr(layout, each))
    label = f"{name} {getattr(layout, name)}" + (f" zero {layout.zero}" if axis == "dp" and layout.zero else "")
    links = {place.name: place.link for place in axes_of(layout, work.machine)}
    over = f" over {links[name]}" if name in links else ""
    return f"{label}: {seconds(there)}{over} (chosen: {before})"
