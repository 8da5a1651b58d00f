"""What the ranks of a pipeline send, hold and wait for, in a dry run: as the inventory says, to the byte, and to the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from dry_claims import check_claims
from reference import spec_of
from test_pipeline import CASES, MODELS_HERE, SP, Case, V, filled

from llmc.compiler.planner.layout import LayerRecompute, Layout

MIXED: tuple[tuple[LayerRecompute, int], ...] = (("full", 1), ("selective", 1), ("none", 2))
EXACT = {
    name: CASES[name] for name in ("gpipe", "interleaved 1f1b", "uneven stages", "tied, in a V", "zero 1, tied, in a V")
}
EXACT |= {name: CASES[name] for name in ("zero 2, tied", "zero 3", "zero 3, interleaved", "tp 2 + sp, tied", "dp 2")}
EXACT |= {
    "dp 2, zero bubble": Case(Layout(pp=2, dp_replicate=2, schedule="zero_bubble"), "four"),
    "replicas of shards, tp": Case(Layout(pp=2, dp_replicate=2, dp_shard=2, zero=2, **SP), "tied"),
    "zero 1, tp 2, dualpipe": Case(Layout(pp=2, dp_shard=2, zero=1, **SP, **V), "four"),
    "tp 2, zero bubble": Case(Layout(pp=2, schedule="zero_bubble", **SP), "tied"),
    "tp 4, 2 kv heads": Case(Layout(pp=2, tp=4), "four"),
    "mixed recompute, tp": Case(Layout(pp=2, recompute="mixed", recompute_layers=MIXED, **SP), "four"),
}
"""Not ZeRO-2 under schedules that split the backward pass: how often the gradient of the head travels is not in the plan."""


@pytest.mark.parametrize("name", EXACT)
def test_what_ranks_send_and_hold_is_what_the_inventory_says(name: str, tmp_path: Path) -> None:
    layout, spec = filled(EXACT[name].layout), spec_of(MODELS_HERE[EXACT[name].model])
    ranks = [stage * layout.devices // layout.pp for stage in range(layout.pp)]
    check_claims(spec, layout, tmp_path, ranks=ranks)
