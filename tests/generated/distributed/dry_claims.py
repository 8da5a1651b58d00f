"""Holds a program's dry run to the inventory, rank by rank. Not a test module."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from programs import build, plan_of
from test_mutations import runs_here

from llmc.compiler.cost.inventory import Setting, inventory, state_bytes_of
from llmc.compiler.cost.moments import Kept
from llmc.compiler.cost.stored import kv_copies
from llmc.compiler.frontend.model import build_graph
from llmc.compiler.pipeline import run_passes
from llmc.compiler.planner.layout import Layout
from llmc.compiler.verify.dry import Job
from llmc.compiler.verify.groups import coordinates
from llmc.compiler.verify.order import find_hang
from llmc.compiler.verify.traffic import found_sums, planned_sums
from llmc.spec.document import Spec


def check_claims(spec: Spec, layout: Layout, folder: Path, *, ranks: Iterable[int]) -> None:
    """What `ranks` send and hold is what the inventory says, to the byte, and all ranks together come to an end."""
    build(spec, folder, plan=plan_of(spec, layout=layout))
    assert spec.train is not None
    kept = Kept(spec.train[0].optimizer.name, has_average=spec.train[0].ema_decay is not None)
    graph = run_passes(build_graph(spec))
    ((*records,),) = runs_here(folder, [Job(tuple(range(layout.devices)), (layout.grad_accumulation,))])
    for rank in ranks:
        place = coordinates(layout, rank)
        shard_rank = place["dp_shard"] * layout.cp + place["cp"]
        setting = Setting(
            seq_len=32, values=4, loss_chunk=1 << 20, stage_rank=place["pp"], shard_rank=shard_rank, kept=kept
        )
        planned = planned_sums(inventory(graph, layout, setting), layout, rank)
        found = found_sums(records[rank], layout, kv_copies=kv_copies(graph, layout))
        wrong = {key: (planned.get(key), found.get(key)) for key in {**planned, **found}}
        wrong = {key: pair for key, pair in wrong.items() if pair[0] != pair[1]}
        assert not wrong, f"rank {rank}, planned and found: {wrong}"
        states: Any = records[rank].states
        weights, moments = state_bytes_of(graph, layout, setting)
        held = (states.parameters, states.gradients, states.optimizer)
        assert held == (weights, weights, moments), (rank, held, (weights, weights, moments))
    hang = find_hang({record.rank: record.events for record in records})
    assert hang is None, hang
