"""The steps of one engine by class of op: how long each takes, and what it reaches of a device's roofs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.facts import bytes_moved, flops
from ..ir.types import DType
from ..planner.figures import seconds
from .bars import Bar, single
from .roofline import Roof, Work, roofline
from .shapes import Chart

if TYPE_CHECKING:
    from ...spec.serving import Serve
    from ..cost.serving import Engine
    from ..ir.ops import Op
    from ..planner.serve_search import Candidate

REST = "experts, activations, collectives"


@dataclass(frozen=True)
class Step:
    """What a step is made of: `decoding` requests with `context` tokens each, or one prompt."""

    decoding: int
    context: int
    prompt: int = 0

    @property
    def rows(self) -> int:
        return self.decoding + self.prompt

    @property
    def extent(self) -> dict[str, float]:
        if self.prompt:
            return {"B": 1, "T": self.prompt, "S": self.prompt}
        return {"B": self.decoding, "T": 1, "S": self.context}


def steps_of(chosen: Candidate, asked: Serve) -> tuple[Step, Step]:
    """A decode step at the load of the plan, and a step with one prompt of the usual length."""
    workload = asked.workload
    prompt = (workload.input_tokens if workload else None) or max(1, asked.max_seq_len // 4)
    answer = (workload.output_tokens if workload else None) or max(1, asked.max_seq_len // 4)
    batch = max(1, round(chosen.service.batch / chosen.shape.pp)) if chosen.service else 1
    return Step(batch, prompt + answer // 2), Step(0, 0, prompt)


def works_of(engine: Engine, step: Step) -> list[Work]:
    """Classes of ops on one device, all layers of a replica, in the order of the model."""
    ops, free = engine.ops, step.extent
    products, attention = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for block in ops.blocks:
        for op in block.products:
            _add(products, block.count, flops(op, free), _moved(engine, op, free), ops.product_s(op, step.rows))
        for op in block.attention:
            amount = flops(op, free) / engine.shape.tp
            _add(attention, block.count, amount, _cache_bytes(engine, op, step), _attention_s(engine, op, step))
    head = {"B": float(max(step.decoding, 1)), "T": 1.0, "S": 1.0}
    moved = bytes_moved(ops.head, head, values=DType.BF16, weights=DType.BF16)
    rows = max(step.decoding, 1)
    return [
        Work("products", *products),
        Work("attention", *attention),
        Work("head", flops(ops.head, head), moved, ops.head_s(rows)),
    ]


def _add(sums: list[float], times: int, *values: float) -> None:
    for index, value in enumerate(values):
        sums[index] += times * value


def _moved(engine: Engine, op: Op, free: dict[str, float]) -> float:
    return bytes_moved(op, free, values=DType.BF16, weights=engine.weights)


def _cache_bytes(engine: Engine, op: Op, step: Step) -> float:
    tokens = step.prompt or step.context
    kept = min(tokens, op.attrs.get("window") or tokens) * engine.ops.kv_width(op) * engine.kv.size_bytes
    return kept * max(step.decoding, 1)


def _attention_s(engine: Engine, op: Op, step: Step) -> float:
    if step.prompt:
        return engine.ops.prefill_attention_s(op, step.prompt)
    return engine.ops.decode_attention_s(op, step.decoding, step.context)


def classes_of(engine: Engine, step: Step) -> dict[str, float]:
    """Seconds of a decode step by class; they sum to it."""
    ops = engine.ops
    found = {work.name: work.seconds for work in works_of(engine, step)}
    layers = sum(block.count * ops.layer_s(block, step.rows) for block in ops.blocks)
    found[REST] = layers - found["products"]
    whole = engine.decode_step_s(step.decoding * engine.shape.pp, context=step.context)
    found["launching, scheduling, sampling"] = max(0.0, whole - sum(found.values()))
    return {name: value for name, value in found.items() if value > 0}


def time_chart(chosen: Candidate, asked: Serve) -> Chart:
    step, _ = steps_of(chosen, asked)
    rows = classes_of(chosen.engine, step)
    bars = [Bar("decode step", sum(rows.values()))]
    bars += [Bar(name, value) for name, value in sorted(rows.items(), key=lambda row: -row[1])]
    return single(
        "serve-time",
        "Time of a decode step, by class",
        f"{step.decoding} requests with {step.context:,} tokens each, on average: one token for each of them.",
        bars,
        axis="milliseconds",
        text=seconds,
        tick=lambda value: f"{value * 1e3:g}",
        style_of=lambda bar: "c8" if bar.name == "decode step" else "c1",
    )


def roofline_chart(chosen: Candidate, asked: Serve) -> Chart:
    """Classes of a decode step and of a prompt."""
    engine, machine = chosen.engine, chosen.engine.machine
    works = []
    for name, step in zip(("decode", "prompt"), steps_of(chosen, asked), strict=True):
        for work in works_of(engine, step):
            works.append(Work(f"{name}: {work.name}", work.flops, work.moved_bytes, work.seconds))
    peak = machine.peak({"fp8": "fp8", "nvfp4": "nvfp4", "fp32": "fp32"}.get(chosen.shape.weights, "bf16"))
    slope = f"the slope is its memory, {machine.memory_bytes_per_s / 1e9:,.0f} GB/s"
    return roofline(
        "serve-roofline",
        "Roofline of the engine's op classes",
        f"One device of the engine, decoding and reading a prompt; {slope}.",
        works,
        roofs=[Roof(f"peak for {chosen.shape.weights} weights, {peak / 1e12:,.0f} TFLOP/s", peak)],
        bytes_per_s=machine.memory_bytes_per_s,
    )
