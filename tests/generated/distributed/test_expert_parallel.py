"""Expert parallelism repeats the program of one device: loss, gradients, their norm, weights, the bias that balances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from pool import Pool
from programs import build, plan_of
from reference import BATCH, STEPS, run_alone, spec_of
from safetensors.torch import load_file
from test_parity import CLOSE

from llmc.compiler.planner.layout import Layout

MICRO_BATCH = 2
"""Of every rank of every layout: the routers' balance is that of a micro-batch."""
LAYOUTS = {
    "dp 2": Layout(dp_shard=2, zero=3),
    "ep 2": Layout(dp_shard=2, zero=3, ep=2),
    "ep 2, zero 0": Layout(dp_shard=2, zero=0, ep=2),
    "ep 2, zero 1": Layout(dp_shard=2, zero=1, ep=2),
    "dp 2 x ep 2": Layout(dp_shard=4, zero=3, ep=2),
    "hsdp 2 x ep 2": Layout(dp_replicate=2, dp_shard=2, zero=3, ep=2),
    "ep 4": Layout(dp_shard=4, zero=2, ep=4),
    "ep 2 x tp 2": Layout(dp_shard=2, zero=3, ep=2, tp=2),
    "ep 2 x tp 2 + sp": Layout(dp_shard=2, zero=3, ep=2, tp=2, sequence_parallel=True),
    "tp 2 + sp": Layout(tp=2, sequence_parallel=True),
    "cp 2 ring, ep 2": Layout(cp=2, cp_kind="ring", zero=3, ep=2),
    "dp 2 x cp 2 ulysses, ep 2": Layout(dp_shard=2, cp=2, cp_kind="ulysses", zero=3, ep=2),
}
INTERLEAVED: dict[str, Any] = {"schedule": "interleaved_1f1b", "virtual_stages": 2}
STAGES = {
    "pp 2": Layout(pp=2),
    "pp 2 x ep 2": Layout(pp=2, dp_shard=2, zero=2, ep=2),
    "pp 2 x ep 2, zero 0": Layout(pp=2, dp_shard=2, zero=0, ep=2),
    "pp 2 x ep 2, zero 1, interleaved": Layout(pp=2, dp_shard=2, zero=1, ep=2, **INTERLEAVED),
    "pp 2 x ep 2, zero 3, interleaved": Layout(pp=2, dp_shard=2, zero=3, ep=2, **INTERLEAVED),
    "pp 2 x ep 2, zero bubble": Layout(pp=2, dp_shard=2, zero=1, ep=2, schedule="zero_bubble"),
    "pp 2, dualpipe": Layout(pp=2, schedule="dualpipe", virtual_stages=2),
    "pp 2 x tp 2 + sp": Layout(pp=2, tp=2, sequence_parallel=True),
    "pp 2, cp 2 ring, ep 2": Layout(pp=2, cp=2, cp_kind="ring", zero=2, ep=2),
}
"""With pipelines; models of four layers, since stages have one at least."""
LAYOUTS |= STAGES
MODELS = ARCHITECTURES | {f"{name}, 4": ARCHITECTURES[name] | {"num_layers": 4} for name in ("mixtral", "deepseek-v3")}
SHOWN = ("ep 2", "dp 2 x ep 2", "pp 2 x ep 2")
"""In full length."""
CASES = [
    *(("mixtral", layout) for layout in LAYOUTS if layout not in STAGES),
    *(("deepseek-v3", layout) for layout in ("ep 2", "dp 2 x ep 2", "ep 4", "tp 2 + sp", "ep 2 x tp 2")),
    *((model, layout) for model in ("qwen2-moe", "gpt-oss") for layout in ("ep 2, zero 1", "ep 2 x tp 2 + sp")),
    *(("mixtral, 4", layout) for layout in STAGES),
    *(
        ("deepseek-v3, 4", layout)
        for layout in ("pp 2 x ep 2, zero 1, interleaved", "pp 2, dualpipe", "pp 2 x tp 2 + sp")
    ),
]


@pytest.fixture(scope="module")
def reference_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of the one-device program of a model, made once."""
    made: dict[str, Path] = {}

    def reference_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run_alone(spec_of(MODELS[name]), made[name], micro_batch=MICRO_BATCH)
        return made[name]

    return reference_of


def build_of(model: dict[str, Any], degrees: Layout, folder: Path) -> None:
    """A program whose micro-batches are those of the reference."""
    spec = spec_of(model)
    accumulation = BATCH // degrees.data_parallel // MICRO_BATCH
    filled = replace(degrees, micro_batch=MICRO_BATCH, grad_accumulation=accumulation)
    build(spec, folder, plan=plan_of(spec, layout=filled))


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_layouts_with_experts_repeat_the_program_of_one_device(
    name: str, layout: str, pool: Pool, reference_of: Any, tmp_path: Path
) -> None:
    degrees, steps = LAYOUTS[layout], STEPS if layout in SHOWN else 5
    build_of(MODELS[name], degrees, tmp_path)
    args = {"folder": str(tmp_path), "reference": str(reference_of(name)), "steps": steps}
    for rank, worst in enumerate(pool.run("train", world_size=degrees.devices, **args)):
        assert max(worst.values()) < CLOSE, (rank, worst)


def test_a_checkpoint_of_spread_experts_is_passed_on_from_layout_to_layout(
    pool: Pool, reference_of: Any, tmp_path: Path
) -> None:
    """Every tensor of the last is that of the first: sections, experts, the bias that balances them."""
    reference, folders = str(reference_of("deepseek-v3")), [tmp_path / str(number) for number in range(5)]
    layouts = ("ep 4", "dp 2 x ep 2", "pp 2 x ep 2", "hsdp 2 x ep 2", "ep 4")
    for number, layout in enumerate(layouts):
        degrees = LAYOUTS[layout]
        folder = tmp_path / f"program-{number}"
        build_of(ARCHITECTURES["deepseek-v3"], degrees, folder)
        args: dict[str, Any] = {"folder": str(folder), "start": "", "end": str(folders[number])}
        args |= {"start": str(folders[number - 1])} if number else {"reference": reference}
        pool.run("pass_on", world_size=degrees.devices, **args)
    first, last = (tensors_of(folders[number]) for number in (0, -1))
    assert first.keys() == last.keys()
    assert any(name.endswith("balance_bias") for name in first)
    assert all(torch.equal(first[name], last[name]) for name in first)


def tensors_of(checkpoints: Path) -> dict[str, Any]:
    """The whole tensors of the one checkpoint of a folder, by kind, name and place."""
    found = {}
    for file in sorted(checkpoints.glob("step-*/*/*.safetensors")):
        for name, tensor in load_file(file).items():
            found[f"{file.parent.name}/{file.name}/{name}"] = tensor
    return found
