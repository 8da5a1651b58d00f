"""What ranks with spread experts, latent attention or cut sequences send and hold, in a dry run: as the inventory says, to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dry_claims import check_claims
from reference import BATCH, spec_of
from test_expert_parallel import LAYOUTS, MODELS

from llmc.compiler.planner.layout import Layout

RING: dict[str, Any] = {"cp": 2, "cp_kind": "ring"}
SWAP: dict[str, Any] = {"cp": 2, "cp_kind": "ulysses"}
HERE = {
    "one expert set, zero 3": Layout(dp_shard=4, zero=3),
    "ep 2, full": Layout(dp_shard=4, zero=3, ep=2, recompute="full"),
    "ep 2, selective, tp": Layout(dp_shard=2, zero=2, ep=2, tp=2, sequence_parallel=True, recompute="selective"),
    "ring": Layout(**RING, zero=3),
    "ring, full": Layout(dp_shard=2, **RING, zero=2, recompute="full"),
    "ring, tp 2 + sp": Layout(**RING, tp=2, sequence_parallel=True, zero=3, recompute="selective"),
    "ulysses": Layout(**SWAP, zero=1),
    "ulysses, tp 2, full": Layout(**SWAP, tp=2, zero=3, recompute="full"),
    "tp 2": Layout(tp=2),
    "tp 2 + sp, full": Layout(tp=2, sequence_parallel=True, recompute="full"),
}
ALL = LAYOUTS | HERE
CASES = [
    *(("mixtral", name) for name in ("ep 2", "ep 2, zero 0", "ep 2, zero 1", "dp 2 x ep 2", "hsdp 2 x ep 2", "ep 4")),
    *(("mixtral", name) for name in ("ep 2 x tp 2", "ep 2 x tp 2 + sp", "cp 2 ring, ep 2", "one expert set, zero 3")),
    *(("mixtral", name) for name in ("ep 2, full", "ep 2, selective, tp", "dp 2 x cp 2 ulysses, ep 2")),
    *(("mixtral, 4", name) for name in ("pp 2 x ep 2", "pp 2 x ep 2, zero 1, interleaved", "pp 2 x tp 2 + sp")),
    *(("mixtral, 4", name) for name in ("pp 2 x ep 2, zero 3, interleaved", "pp 2 x ep 2, zero bubble")),
    *(("deepseek-v3", name) for name in ("dp 2 x ep 2", "tp 2 + sp", "ep 2 x tp 2", "tp 2 + sp, full", "ep 2, full")),
    *(("deepseek-v3, 4", name) for name in ("pp 2 x ep 2, zero 1, interleaved", "pp 2, dualpipe")),
    *(("deepseek-v2", name) for name in ("tp 2", "ep 2 x tp 2 + sp")),
    *(("switch", name) for name in ("ep 2", "ep 2, full")),
    *(("qwen2-moe", "ep 2 x tp 2"), ("gpt-oss", "ep 2 x tp 2 + sp"), ("gpt-oss", "dp 2 x ep 2")),
    *((model, name) for model in ("llama", "latent") for name in HERE if name.startswith(("ring", "ulysses"))),
    ("deepseek-v3", "cp 2 ring, ep 2"),
]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_what_ranks_send_and_hold_is_what_the_inventory_says(model: str, name: str, tmp_path: Path) -> None:
    degrees = ALL[name]
    of_rank = BATCH // degrees.data_parallel
    micro_batch = 2 if degrees.pp > 1 else max(2, of_rank // 2)  # a first and a last one tell of all, but for pipelines
    layout = replace(degrees, micro_batch=micro_batch, grad_accumulation=max(1, of_rank // micro_batch))
    spec = spec_of(MODELS[model] if model != "llama" else {})
    ranks = sorted({stage * layout.devices // layout.pp for stage in range(layout.pp)} | {layout.devices - 1})
    check_claims(spec, layout, tmp_path, ranks=ranks)
