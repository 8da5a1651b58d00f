"""The plan on one screen: the answer first, then what fills memory and time, then why others lost, then what to do next.

Plain text, at most 100 columns, no colour needed to understand it. Conversion to the units people read happens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...spec.units import GIB
from ..cost.step import time_by_class
from . import explain
from .asked import Asked
from .figures import (
    WIDTH,
    bars,
    big,
    duration,
    gib,
    gib_short,
    milliseconds,
    row_of_facts,
    seconds,
    short,
    two_tables,
    wrap,
)
from .plan import Plan, ServeInterval, ServePrediction, TrainPrediction
from .shadow import serve_prices, train_prices
from .train_search import runners_up
from .words import checkpoint_facts, engine_words, layout_line, serve_line

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..cost.memory import Ledger
    from ..pipeline import PlanEntry
    from .serve_plan import ServeOutcome
    from .train_plan import TrainOutcome
    from .train_search import Priced


RUNNERS_UP = 3
"""How many the report shows unless asked for more."""


def print_plan(entry: PlanEntry, *, file: str, asked: Asked | None = None) -> str:
    """The report of one spec, without its diagnostics; empty where it has no plan."""
    plan, spec, train, serve = entry.plan, entry.spec, entry.train, entry.serve
    asked = asked or Asked()
    lines: list[str] = []
    if plan.model is not None and spec is not None:
        lines += _headline(plan, spec, train, serve)
    if train is not None and train.plan is not None and plan.train is not None and spec is not None:
        lines += ["", *_training(train, spec, asked, precision=spec.train[0].precision if spec.train else "")]
    if serve is not None and serve.plan is not None and spec is not None:
        lines += ["", *_serving(serve, spec, asked)]
    if lines and not any(each.severity == "error" for each in plan.diagnostics):
        lines += _answers(entry, asked)
        lines += ["", *wrap(_next(file, train=train, serve=serve), indent="  ", hanging="        ")]
    return "\n".join(line.rstrip() for line in lines) + ("\n" if lines else "")


def _answers(entry: PlanEntry, asked: Asked) -> list[str]:
    from .why_not import why_not

    return [line for question in asked.why_not for line in why_not(entry, question)]


def _headline(plan: Plan, spec: Spec, train: TrainOutcome | None, serve: ServeOutcome | None) -> list[str]:
    machine = train.work.machine if train else serve.machine if serve else None
    assert plan.model is not None
    size = f"{big(plan.model.parameters)} parameters"
    if plan.model.active_parameters < plan.model.parameters:
        size += f" ({big(plan.model.active_parameters)} active)"
    if machine is None:
        return [f"{plan.name}   {size}", "", "  no `train` and no `serve` section: there is nothing to plan"]
    devices = machine.num_devices
    where = machine.accelerator if devices == 1 else f"{devices:,} × {machine.accelerator}"
    detail = []
    if spec.hardware.topology is not None:
        slices = f"{spec.hardware.slices} slices × " if spec.hardware.slices > 1 else ""
        detail.append(f"{slices}torus {spec.hardware.topology}")
    elif devices > 1:
        detail.append(f"{devices // machine.per_node:,} nodes × {machine.per_node}")
    if devices > 1 and machine.fast_link:
        detail.append(machine.fast_link)
    if devices > machine.domain and machine.slow_link:
        detail.append(machine.slow_link)
    head = f"{plan.name}   {size} on {where}"
    together = f"{head} ({' · '.join(detail)})" if detail else head
    return [together] if len(together) <= WIDTH else [head, f"  {' · '.join(detail)}"]


def _training(train: TrainOutcome, spec: Spec, asked: Asked, *, precision: str) -> list[str]:
    assert train.plan is not None
    predicted, plan = train.plan.predicted, train.plan
    lines = wrap(f"{layout_line(plan.layout)} · {precision}", indent="  ")
    step = f"step {seconds(predicted.step_time_s)} ({seconds(predicted.step_time_low_s)} – {seconds(predicted.step_time_high_s)})"
    rate = f"{short(predicted.tokens_per_s_per_device)} tokens/s{' a device' if plan.layout.devices > 1 else ''}"
    lines += row_of_facts([step, rate, f"MFU {predicted.mfu:.0%}", _whole_run(train, predicted)])
    if plan.reliability is not None:
        lines += row_of_facts(checkpoint_facts(plan.reliability))
    if plan.fits and plan.layout.offload is not None:
        lines += row_of_facts(_offload_facts(train))
    ledger = train.chosen.ledger if plan.fits else train.found.nearest_miss.ledger if train.found.nearest_miss else None
    if ledger is not None:
        lines += ["", *two_tables(_memory_table(train, ledger), _time_table(train, predicted))]
    if train.auto is not None and plan.fits:
        lines += ["", *_auto(train, train.auto)]
    if plan.fits and asked.top is not None:
        lines += _explained(train, at_most=asked.top)
    else:
        lines += _runners_up(train) if plan.fits else []
        lines += _ruled_out(train)
    if asked.prices:
        lines += explain.prices(train_prices(spec, train))
    return lines


def _offload_facts(train: TrainOutcome) -> list[str]:
    """What the host keeps and does, and what made the planner take it."""
    chosen, machine = train.chosen, train.work.machine
    states = chosen.ledger.host * machine.devices_of_host
    assert machine.host_memory_bytes is not None
    facts = [
        f"the host keeps {gib(states)} of optimizer states of its {gib(machine.host_memory_bytes)}",
        f"its update takes {seconds(chosen.time.optimizer)} of a step (assumed)",
    ]
    stays = [miss for miss in train.found.misfits if miss.layout.offload is None]
    if stays:
        leanest = min(stays, key=lambda miss: miss.ledger.peak)
        facts.append(f"without it nothing fits: at least {gib(leanest.ledger.peak)} of {gib(machine.memory_bytes)}")
    return facts


def _explained(train: TrainOutcome, *, at_most: int) -> list[str]:
    others = runners_up(train.found.fitting, at_most=at_most)
    lines = ["", *explain.runners_up(train, others)] if others else []
    return [*lines, *explain.ruled_out(train), *explain.provenance(train)]


def _whole_run(train: TrainOutcome, predicted: TrainPrediction) -> str:
    steps, tokens = train.batch.steps, train.batch.tokens
    total = f"{big(tokens)} tokens in {steps:,} steps: {duration(steps * predicted.step_time_s)}"
    if train.plan is not None and train.plan.layout.devices > 1:
        total += f", {short(predicted.device_hours)} device-hours"
    if predicted.cost_usd is not None:
        total += f", ${big(predicted.cost_usd)}"
    return total


def _memory_table(train: TrainOutcome, ledger: Ledger) -> list[str]:
    title = f"memory{' a device' if train.work.machine.num_devices > 1 else ''}   {gib(ledger.peak)} of {gib(train.work.machine.memory_bytes)}"
    names = {"logits": "loss", "working": "working set"}
    classes = ("parameters", "gradients", "optimizer", "activations", "logits", "gathered", "working", "runtime")
    rows = [(names.get(name, name), getattr(ledger, name)) for name in classes]
    return [title, *bars(rows, total=ledger.peak, text=gib_short)]


def _time_table(train: TrainOutcome, predicted: TrainPrediction) -> list[str]:
    if not train.found.fitting:
        return []
    rows = list(time_by_class(train.work, train.chosen.layout, train.chosen.time).items())
    return [f"time a step   {seconds(predicted.step_time_s)}", *bars(rows, total=predicted.step_time_s, text=seconds)]


def _auto(train: TrainOutcome, auto: Priced) -> list[str]:
    chosen = train.chosen
    if auto.layout == chosen.layout:
        return ["  auto would choose the same layout"]
    difference = chosen.time.total / auto.time.total - 1
    verdict = (
        f"{difference:.0%} faster"
        if difference > 0.01
        else "as fast"
        if difference > -0.01
        else f"{-difference:.0%} slower"
    )
    text = (
        f"auto would choose {layout_line(auto.layout)}: {seconds(auto.time.total)}, {verdict}, {gib(auto.ledger.peak)}"
    )
    return wrap(text, indent="  ", hanging="    ")


def _runners_up(train: TrainOutcome) -> list[str]:
    others = runners_up(train.found.fitting, at_most=RUNNERS_UP)
    if not others:
        return []
    lines = ["", f"  runners-up{'step':>12}  why it lost"]
    for other in others:
        lines += wrap(layout_line(other.layout), indent="    ", hanging="      ")
        why = explain.why_lost(train.work, other, train.chosen)
        lines += explain.wrap_plain(f"{seconds(other.time.total):>8}  {why}", indent=" " * 16, hanging=" " * 26)
    return lines


def _ruled_out(train: TrainOutcome) -> list[str]:
    found, parts = train.found, []
    if found.misfits and found.nearest_miss is not None:
        nearest = found.nearest_miss
        count = found.num_misfits
        verb = "does" if count == 1 else "do"
        parts.append(
            f"{count:,} {verb} not fit (nearest: {layout_line(nearest.layout)} needs {gib(nearest.ledger.peak)})"
        )
    parts += [f"{count:,} {key}" for key, count in (+found.broken).most_common(3)]
    if found.num_slower:
        parts.append(f"{found.num_slower:,} cannot be as fast")
    if not parts:
        return []
    return ["", *wrap(" · ".join(parts), indent="  ruled out   ", hanging="              ")]


def _serving(serve: ServeOutcome, spec: Spec, asked: Asked) -> list[str]:
    assert serve.plan is not None
    plan, predicted = serve.plan, serve.plan.predicted
    devices = (
        f"{plan.devices:,} of {serve.machine.num_devices:,} devices" if serve.machine.num_devices > 1 else "one device"
    )
    lines = wrap(f"serve: {serve_line(plan.layout)} · {devices}", indent="  ")
    facts = [
        f"first token {milliseconds(predicted.ttft_p50_ms)} (p99 {milliseconds(predicted.ttft_p99_ms)})",
        f"each token {milliseconds(predicted.tpot_p50_ms)} (p99 {milliseconds(predicted.tpot_p99_ms)})",
        f"{short(predicted.output_tokens_per_s)} tokens/s",
        f"{predicted.requests_per_s:.3g} requests/s",
    ]
    if serve.price_per_hour_usd is not None:
        an_hour = plan.devices * serve.price_per_hour_usd
        a_million = an_hour / (predicted.output_tokens_per_s * 3600 / 1e6)
        facts.append(f"${an_hour:.2f}/h, ${a_million:.2f} a million tokens")
    lines += row_of_facts(facts)
    lines += [_medians(plan.interval)] if plan.interval is not None else []
    memory = predicted.memory_gib
    rows = [("weights", memory.weights), ("kv cache", memory.kv_cache), ("buffers", memory.buffers)]
    lines += ["", f"    memory a device   {memory.peak:.1f} of {serve.machine.memory_bytes / GIB:.1f} GiB"]
    lines += [f"      {row}" for row in bars(rows, total=memory.peak, text=lambda size: f"{size:.2f}")]
    lines.append(f"      room for {short(predicted.kv_cache_tokens)} tokens of keys and values a replica")
    if plan.alternatives and asked.top is not None:
        lines += ["", "  other layouts that hold it", *explain.serve_runners_up(serve, at_most=asked.top)]
    elif plan.alternatives:
        rows = [(engine_words(each.layout), _serve_times(each.predicted)) for each in plan.alternatives[:RUNNERS_UP]]
        lines += ["", "  other layouts that hold it", *_columns(rows)]
    if plan.rejected:
        shown = plan.rejected[: RUNNERS_UP if asked.top is None else asked.top]
        rows = [(engine_words(each.layout), each.reason) for each in shown]
        lines += ["", "  ruled out", *_columns(rows)] if rows else []
    if asked.top is not None:
        lines += explain.limits(plan)
    if asked.prices:
        lines += explain.prices(serve_prices(spec, serve))
    return lines


def _medians(interval: ServeInterval) -> str:
    """How far off they may be."""
    ttft = f"{milliseconds(interval.ttft_p50_low_ms)} – {milliseconds(interval.ttft_p50_high_ms)}"
    tpot = f"{milliseconds(interval.tpot_p50_low_ms)} – {milliseconds(interval.tpot_p50_high_ms)}"
    return f"  medians, nine times in ten: first token {ttft}, each token {tpot}"


def _serve_times(predicted: ServePrediction) -> str:
    return f"{milliseconds(predicted.tpot_p50_ms)} a token, first token p99 {milliseconds(predicted.ttft_p99_ms)}"


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(first) for first, _ in rows)
    lines = []
    for first, second in rows:
        lines += explain.wrap_plain(f"{first:<{width}}   {second}", indent="    ", hanging=" " * (7 + width))
    return lines


def _next(file: str, *, train: TrainOutcome | None, serve: ServeOutcome | None) -> str:
    commands = [f"llmc build {file}"]
    if train is not None:
        commands.append(f"llmc run train {file}")
    elif serve is not None:
        commands.append(f"llmc run serve {file}")
    return f"next: {' · '.join(commands)} · llmc plan {file} --json"
