"""The plan on one screen: the answer first, then what fills memory and time, then why others lost, then what to do next.

Plain text, at most 100 columns, no colour needed to understand it. Conversion to the units people read happens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...spec.units import GIB
from ..cost.step import time_by_class
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
from .layout import Layout
from .plan import Plan, ServeLayout, ServePrediction, TrainPrediction

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..cost.memory import Ledger
    from ..pipeline import PlanEntry
    from .serve_plan import ServeOutcome
    from .train_plan import TrainOutcome
    from .train_search import Priced


def print_plan(entry: PlanEntry, *, file: str) -> str:
    """The report of one spec, without its diagnostics; empty where it has no plan."""
    plan, spec, train, serve = entry.plan, entry.spec, entry.train, entry.serve
    lines: list[str] = []
    if plan.model is not None and spec is not None:
        lines += _headline(plan, spec, train, serve)
    if train is not None and train.plan is not None and plan.train is not None and spec is not None:
        lines += ["", *_training(train, spec, precision=spec.train[0].precision if spec.train else "")]
    if serve is not None and serve.plan is not None:
        lines += ["", *_serving(serve)]
    if lines and not any(each.severity == "error" for each in plan.diagnostics):
        lines += ["", *wrap(_next(file, train=train, serve=serve), indent="  ", hanging="        ")]
    return "\n".join(line.rstrip() for line in lines) + ("\n" if lines else "")


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
        detail.append(f"torus {spec.hardware.topology}")
    elif devices > 1:
        detail.append(f"{devices // machine.per_node:,} nodes × {machine.per_node}")
    if devices > 1 and machine.fast_link:
        detail.append(machine.fast_link)
    if devices > machine.domain and machine.slow_link:
        detail.append(machine.slow_link)
    head = f"{plan.name}   {size} on {where}"
    together = f"{head} ({' · '.join(detail)})" if detail else head
    return [together] if len(together) <= WIDTH else [head, f"  {' · '.join(detail)}"]


def _training(train: TrainOutcome, spec: Spec, *, precision: str) -> list[str]:
    assert train.plan is not None
    predicted, plan = train.plan.predicted, train.plan
    lines = wrap(f"{layout_line(plan.layout)} · {precision}", indent="  ")
    step = f"step {seconds(predicted.step_time_s)} ({seconds(predicted.step_time_low_s)} – {seconds(predicted.step_time_high_s)})"
    rate = f"{short(predicted.tokens_per_s_per_device)} tokens/s{' a device' if plan.layout.devices > 1 else ''}"
    lines += row_of_facts([step, rate, f"MFU {predicted.mfu:.0%}", _whole_run(train, predicted)])
    ledger = train.chosen.ledger if plan.fits else train.found.nearest_miss.ledger if train.found.nearest_miss else None
    if ledger is not None:
        lines += ["", *two_tables(_memory_table(train, ledger), _time_table(train, predicted))]
    if train.auto is not None and plan.fits:
        lines += ["", *_auto(train, train.auto)]
    if plan.fits:
        lines += _runners_up(train)
    lines += _ruled_out(train)
    return lines


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
    from .train_search import runners_up

    others = runners_up(train.found.fitting, at_most=3)
    if not others:
        return []
    rows = [(layout_line(each.layout), seconds(each.time.total), why_lost(each, train.chosen)) for each in others]
    width = min(46, max(len(row[0]) for row in rows))
    lines = ["", f"  {'runners-up':<{width}}  {'step':>8}  why it lost"]
    for name, step, why in rows:
        if len(name) > width:
            lines += wrap(name, indent="  ", hanging="    ")
            name = ""
        lines.append(f"  {name:<{width}}  {step:>8}  {why}")
    return lines


def why_lost(other: Priced, chosen: Priced) -> str:
    """The part of a step that grew most, with what it grew by; or what else decided."""
    words = {
        "compute": "more compute and overheads",
        "recompute": "computes activations again",
        "bubble": "pipeline ranks wait",
        "optimizer": "a longer optimizer step",
        "exposed_comm": "communication is not hidden",
    }
    growth = {name: getattr(other.time, name) - getattr(chosen.time, name) for name in words}
    slower = other.time.total - chosen.time.total
    if other.is_tight and not chosen.is_tight:
        return f"{gib(other.ledger.peak)} fill a device to the brim"
    name = max(growth, key=lambda each: growth[each])
    if slower / chosen.time.total < 0.005:
        if other.ledger.peak > chosen.ledger.peak * 1.02:
            return f"as fast, and {gib(other.ledger.peak - chosen.ledger.peak)} more memory"
        return "as fast, and more to set up"
    return f"{words[name]} (+{seconds(growth[name])})"


def _ruled_out(train: TrainOutcome) -> list[str]:
    found, parts = train.found, []
    if found.misfits and found.nearest_miss is not None:
        nearest = found.nearest_miss
        count = found.num_misfits
        verb = "does" if count == 1 else "do"
        parts.append(
            f"{count:,} {verb} not fit (nearest: {layout_line(nearest.layout)} needs {gib(nearest.ledger.peak)})"
        )
    parts += [f"{count:,} {key}" for key, count in found.broken.most_common(3)]
    if not parts:
        return []
    return ["", *wrap(" · ".join(parts), indent="  ruled out   ", hanging="              ")]


def _serving(serve: ServeOutcome) -> list[str]:
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
    memory = predicted.memory_gib
    rows = [("weights", memory.weights), ("kv cache", memory.kv_cache), ("buffers", memory.buffers)]
    lines += ["", f"    memory a device   {memory.peak:.1f} of {serve.machine.memory_bytes / GIB:.1f} GiB"]
    lines += [f"      {row}" for row in bars(rows, total=memory.peak, text=lambda size: f"{size:.2f}")]
    lines.append(f"      room for {short(predicted.kv_cache_tokens)} tokens of keys and values a replica")
    if plan.alternatives:
        rows = [(engine_words(each.layout), _serve_times(each.predicted)) for each in plan.alternatives[:3]]
        lines += ["", "  other layouts that hold it", *_columns(rows)]
    if plan.rejected:
        rows = [(engine_words(each.layout), each.reason) for each in plan.rejected[:3]]
        lines += ["", "  ruled out", *_columns(rows)]
    return lines


def _serve_times(predicted: ServePrediction) -> str:
    return f"{milliseconds(predicted.tpot_p50_ms)} a token, first token p99 {milliseconds(predicted.ttft_p99_ms)}"


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(first) for first, _ in rows)
    return [f"    {first:<{width}}   {second}" for first, second in rows]


def _next(file: str, *, train: TrainOutcome | None, serve: ServeOutcome | None) -> str:
    commands = [f"llmc build {file}"]
    if train is not None:
        commands.append(f"llmc run train {file}")
    elif serve is not None:
        commands.append(f"llmc run serve {file}")
    return f"next: {' · '.join(commands)} · llmc plan {file} --json"


# Layouts in a line.


def layout_line(layout: Layout) -> str:
    """What is not 1 or none: `dp_shard 64 · zero 3 · micro-batch 2 × accumulation 8 · recompute none`."""
    degrees = [(name, getattr(layout, name)) for name in ("dp_replicate", "dp_shard", "tp", "cp", "pp", "ep")]
    parts = [f"{name} {value}" for name, value in degrees if value > 1]
    if layout.tp > 1 and not layout.sequence_parallel:
        parts.append("no sequence parallelism")
    if layout.shards > 1:
        parts.insert(1 if layout.dp_shard > 1 and layout.dp_replicate == 1 else len(parts), f"zero {layout.zero}")
    if layout.pp > 1:
        parts.append(layout.schedule + (f" × {layout.virtual_stages}" if layout.virtual_stages > 1 else ""))
    parts.append(f"micro-batch {layout.micro_batch} × accumulation {layout.grad_accumulation}")
    parts.append(f"recompute {layout.recompute}")
    return " · ".join(parts)


def serve_line(layout: ServeLayout) -> str:
    """`8 replicas × tp 4 · batch 40 · prefill chunk 2048 · bf16 weights, bf16 cache`"""
    parts = [f"tp {layout.tp}"] + [
        f"{name} {getattr(layout, name)}" for name in ("pp", "ep") if getattr(layout, name) > 1
    ]
    engine = " × ".join([f"{layout.replicas} replica{'s' if layout.replicas > 1 else ''}", *parts])
    formats = f"{layout.weights} weights, {layout.kv_dtype} cache"
    return f"{engine} · batch {layout.max_batch} · prefill chunk {layout.prefill_chunk} · {formats}"


def engine_words(layout: ServeLayout) -> str:
    """`24 devices = 6 × tp 4 · batch 48 · fp8`"""
    degrees = [f"{name} {getattr(layout, name)}" for name in ("tp", "pp", "ep") if getattr(layout, name) > 1]
    devices = layout.replicas * layout.tp * layout.pp
    engine = " × ".join([str(layout.replicas), *degrees])
    return f"{devices} device{'s' if devices > 1 else ''} = {engine} · batch {layout.max_batch} · {layout.weights}"
