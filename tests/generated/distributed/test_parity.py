"""Loss, gradients and weights of distributed programs equal those of the program for one device, over 20 steps in fp32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from programs import build, plan_of
from reference import MODELS, STEPS, filled, spec_of

from llmc.compiler.planner.layout import Layout

CLOSE = 1e-5


@dataclass(frozen=True)
class Case:
    layout: Layout
    model: str = "llama"
    steps: int = STEPS


CASES = {
    "dp 2": Case(Layout(dp_replicate=2)),
    "zero 1 x 2": Case(Layout(dp_shard=2, zero=1)),
    "zero 2 x 2": Case(Layout(dp_shard=2, zero=2)),
    "zero 3 x 2": Case(Layout(dp_shard=2, zero=3)),
    "hsdp 2 x 2": Case(Layout(dp_replicate=2, dp_shard=2, zero=3)),
    "tp 2": Case(Layout(tp=2)),
    "tp 2 + sp": Case(Layout(tp=2, sequence_parallel=True)),
    "tp 4 + sp, 2 kv heads": Case(Layout(tp=4, sequence_parallel=True)),
    "dp 2 x tp 2 + sp": Case(Layout(dp_shard=2, zero=3, tp=2, sequence_parallel=True)),
    "cp 2 ring": Case(Layout(cp=2, cp_kind="ring", zero=1)),
    "cp 2 ulysses": Case(Layout(cp=2, cp_kind="ulysses", zero=3)),
    "dp 2 x cp 2 ring": Case(Layout(dp_shard=2, cp=2, cp_kind="ring", zero=3)),
}
"""Those that are to be shown, in full length."""
VARIANTS = {
    "zero 0 of 2 shards": Case(Layout(dp_shard=2, zero=0)),
    "hsdp 2 x 2, zero 1": Case(Layout(dp_replicate=2, dp_shard=2, zero=1)),
    "tp 4, 2 kv heads": Case(Layout(tp=4)),
    "dp 2 x tp 2, zero 1": Case(Layout(dp_shard=2, zero=1, tp=2)),
    "cp 4 ring": Case(Layout(cp=4, cp_kind="ring", zero=3)),
    "cp 4 ulysses, 2 kv heads": Case(Layout(cp=4, cp_kind="ulysses", zero=1)),
    "dp 2 x cp 2 ulysses, replicas": Case(Layout(dp_replicate=2, cp=2, cp_kind="ulysses", zero=3)),
    "tp 2 + sp x cp 2 ring": Case(Layout(tp=2, sequence_parallel=True, cp=2, cp_kind="ring", zero=3)),
    "cp 2 ring, learned positions": Case(Layout(cp=2, cp_kind="ring", zero=3), "gpt2"),
    "cp 2 ring, latent attention": Case(Layout(cp=2, cp_kind="ring", zero=3), "latent"),
    "cp 4 ulysses, latent attention": Case(Layout(cp=4, cp_kind="ulysses", zero=1), "latent"),
    "tp 2 + sp x cp 2 ring, latent attention": Case(
        Layout(tp=2, sequence_parallel=True, cp=2, cp_kind="ring", recompute="selective"), "latent"
    ),
    "tp 2, biases": Case(Layout(tp=2), "gpt2"),
    "tp 2 + sp, biases": Case(Layout(tp=2, sequence_parallel=True), "gpt2"),
    "tp 2 + sp, softcaps": Case(Layout(tp=2, sequence_parallel=True), "gemma2"),
    "tp 2 + sp, sinks": Case(Layout(tp=2, sequence_parallel=True), "sinks"),
    "tp 2, a head with a bias": Case(Layout(tp=2), "gpt-j"),
    "tp 2 + sp x cp 2 ulysses, 8 heads": Case(Layout(tp=2, sequence_parallel=True, cp=2, cp_kind="ulysses"), "wide"),
    "zero 3 x 2, full recompute": Case(Layout(dp_shard=2, zero=3, recompute="full")),
    "zero 3 x 2, mixed recompute": Case(
        Layout(dp_shard=2, zero=3, recompute="mixed", recompute_layers=(("full", 1), ("selective", 1), ("none", 1)))
    ),
    "tp 2 + sp, selective recompute": Case(Layout(tp=2, sequence_parallel=True, recompute="selective")),
    "tp 2, norms of heads": Case(Layout(tp=2), "qwen3"),
    "tp 2 + sp, parallel blocks": Case(Layout(tp=2, sequence_parallel=True), "neox"),
}
"""Other models and mixtures of strategies."""
CASES |= {name: replace(case, steps=5) for name, case in VARIANTS.items()}


@pytest.mark.parametrize("name", CASES)
def test_layouts_repeat_the_program_of_one_device(name: str, pool: Pool, reference_of: Any, tmp_path: Path) -> None:
    case = CASES[name]
    spec, layout = spec_of(MODELS[case.model]), filled(case.layout)
    reference = reference_of(case.model)
    folder = build(spec, tmp_path, plan=plan_of(spec, layout=layout))
    found = pool.run("train", world_size=layout.devices, folder=str(folder), reference=str(reference), steps=case.steps)
    for rank, worst in enumerate(found):
        assert max(worst.values()) < CLOSE, (rank, worst)
