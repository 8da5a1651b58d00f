"""Layouts that Meta, DeepSeek and NVIDIA published: the search admits them, and what it finds is predicted no slower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmc.compiler.backtest.price import Case, case_of
from llmc.compiler.backtest.rows import read_rows
from llmc.compiler.cost.step import step_time
from llmc.compiler.cost.workload import Workload
from llmc.compiler.frontend.model import build_model
from llmc.compiler.pipeline import run_passes
from llmc.compiler.planner.enumerate import OPEN, Given, families
from llmc.compiler.planner.layout import Layout
from llmc.compiler.planner.rules import violations
from llmc.compiler.planner.terms import changes
from llmc.compiler.planner.train_search import BRIM, Priced, Search, price, search
from llmc.compiler.topology.machine import machine_of
from llmc.spec import catalog
from llmc.spec.hardware import Hardware
from llmc.spec.model import Model
from llmc.spec.training import Train

ROOT = Path(__file__).resolve().parents[3]
TABLES = "NVIDIA-NeMo/Megatron-Bridge"


def workload(
    preset: str, accelerator: str, *, devices: int, seq_len: int, global_batch: int, precision: str
) -> Workload:
    stage = {"objective": "causal_lm", "steps": 1, "seq_len": seq_len, "global_batch": global_batch}
    model = Model.model_validate({key: value for key, value in catalog.preset(preset).items() if key != "source"})
    graph = run_passes(build_model(model, name=preset, train=Train.model_validate(stage)))
    entry = catalog.accelerator(accelerator)
    device = {key: value for key, value in entry.items() if key not in ("source", "assumed")} | {"name": accelerator}
    machine = machine_of(Hardware.model_validate({"accelerator": device, "nodes": devices // 8, "per_node": 8}))
    return Workload(graph, machine, seq_len=seq_len, precision=precision, optimizer="adamw")


def with_room_for(work: Workload, layout: Layout) -> Workload:
    """Published layouts ran: where our ledger says they need more than a device has, it has that much."""
    needed = work.ledger(layout).peak / BRIM * (1 + 1e-9)
    if needed <= work.machine.memory_bytes:
        return work
    work.reprice(replace(work.machine, memory_bytes=needed))
    return work


def run(work: Workload, wanted: Given, *, global_batch: int) -> Search:
    candidates = families(wanted, work.graph, work.machine, seq_len=work.seq_len, global_batch=global_batch)
    return search(candidates, work, global_batch=global_batch)


def fastest(found: Search) -> Priced:
    return min(found.fitting, key=lambda each: each.time.total)


META = (
    {
        "preset": "llama-3.1-405b",
        "accelerator": "h100-sxm-80g",
        "devices": 16_384,
        "seq_len": 8192,
        "global_batch": 2048,
        "precision": "bf16",
    },
    Layout(
        dp_shard=128,
        zero=2,
        tp=8,
        sequence_parallel=True,
        pp=16,
        schedule="interleaved_1f1b",
        virtual_stages=4,
        grad_accumulation=16,
    ),
)
"""The Llama 3 Herd of Models (2024), table 4: TP 8, CP 1, PP 16, DP 128 and 2,048 sequences of 8,192 tokens."""
DEEPSEEK = (
    {
        "preset": "deepseek-v3",
        "accelerator": "h800-sxm-80g",
        "devices": 2048,
        "seq_len": 4096,
        "global_batch": 15_360,
        "precision": "fp8",
    },
    Layout(
        dp_shard=128,
        zero=1,
        pp=16,
        ep=64,
        schedule="dualpipe",
        virtual_stages=2,
        grad_accumulation=120,
        recompute="selective",
    ),
)
"""DeepSeek-V3 (2024), section 3.2: 16-way pipeline, 64-way experts over 8 nodes, ZeRO-1, DualPipe; 15,360 sequences of 4,096 tokens."""


@pytest.mark.parametrize(("question", "layout"), [META, DEEPSEEK], ids=["meta", "deepseek"])
def test_what_is_found_is_no_slower_than_what_was_published_and_says_why(question: dict[str, Any], layout: Layout):
    work, batch = workload(**question), question["global_batch"]
    assert not list(violations(layout, work.graph, seq_len=work.seq_len, global_batch=batch))
    assert is_enumerated(work, layout, global_batch=batch)
    found = run(work, OPEN, global_batch=batch)
    assert found.gap < 1e-9
    published = Priced(layout, work.ledger(layout), step_time(work, layout))
    assert found.fitting[0].time.total < published.time.total
    reasons = changes(work, published, found.fitting[0])
    assert reasons
    assert all(reason.reason for reason in reasons)


def is_enumerated(work: Workload, layout: Layout, *, global_batch: int) -> bool:
    wanted = Given(tp=layout.tp, cp=layout.cp, pp=layout.pp, ep=layout.ep, micro_batch=layout.micro_batch)
    names = ("dp_replicate", "dp_shard", "zero", "sequence_parallel", "schedule", "virtual_stages", "cp_kind")
    every = families(wanted, work.graph, work.machine, seq_len=work.seq_len, global_batch=global_batch)
    return any(
        all(getattr(outer.layout, name) == getattr(layout, name) for name in names)
        and (layout.recompute in outer.recomputes or layout.schedule == "dualpipe")
        for family in every
        for outer in family.members()
    )


def tables() -> Iterator[Case]:
    """Each layout of the tables once."""
    seen = set()
    for row in read_rows(ROOT / "benchmarks" / "measurements" / "train.csv"):
        if row.source.startswith(TABLES):
            case = case_of(row)
            key = (row.model, row.accelerator, row.global_batch, row.seq_len, row.precision, case.layout)
            if key not in seen:
                seen.add(key)
                yield case


def test_the_tables_of_nvidia_are_admitted_and_what_is_found_beside_them_is_no_slower():
    """The degrees as published; schedule, sharding, stages and recompute as the search likes them."""
    num_layouts = num_faster = 0
    for case in tables():
        layout, batch, num_layouts = case.layout, case.row.global_batch, num_layouts + 1
        assert not list(violations(layout, case.work.graph, seq_len=case.work.seq_len, global_batch=batch)), case.row.id
        work = with_room_for(case.work, layout)
        assert is_enumerated(work, layout, global_batch=batch), case.row.id
        wanted = Given(tp=layout.tp, cp=layout.cp, pp=layout.pp, ep=layout.ep, micro_batch=layout.micro_batch)
        wanted = replace(wanted, sequence_parallel=layout.sequence_parallel)
        ours, theirs = fastest(run(work, wanted, global_batch=batch)), step_time(work, layout).total
        assert ours.time.total <= theirs * (1 + 1e-9), case.row.id
        num_faster += ours.time.total < theirs * 0.99
    assert num_layouts > 50
    assert num_faster > 0


@pytest.mark.parametrize("number", [0, 20, 40])
def test_with_all_degrees_open_what_is_found_is_no_slower_either(number: int):
    case = list(tables())[number]
    work = with_room_for(case.work, case.layout)
    found = run(work, OPEN, global_batch=case.row.global_batch)
    assert fastest(found).time.total <= step_time(work, case.layout).total * (1 + 1e-9)
    assert price([case.layout], work, global_batch=case.row.global_batch).fitting
