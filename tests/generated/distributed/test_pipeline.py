"""Pipelines repeat the program of one device, whatever the schedule and beside whatever other axes; see test_parity.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pool import Pool
from programs import build, imported, plan_of
from reference import BATCH, MODELS, run_alone, spec_of
from test_parity import CLOSE, Case

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.checkpoint import Saved
from llmc.runtimes.pytorch.parallel.checkpoint import load_checkpoint
from llmc.runtimes.pytorch.parallel.cuts import Cuts, Whole

MODELS_HERE: dict[str, dict[str, Any]] = {
    "four": {"num_layers": 4},
    "tied": MODELS["gpt2"] | {"num_layers": 4},
    "masked": MODELS["gemma2"] | {"num_layers": 4},
}
V: dict[str, Any] = {"schedule": "dualpipe", "virtual_stages": 2}
INTERLEAVED: dict[str, Any] = {"schedule": "interleaved_1f1b", "virtual_stages": 2}
SP: dict[str, Any] = {"tp": 2, "sequence_parallel": True}
CASES = {
    "gpipe": Case(Layout(pp=2, schedule="gpipe"), "four"),
    "1f1b": Case(Layout(pp=2), "four"),
    "interleaved 1f1b": Case(Layout(pp=2, **INTERLEAVED), "four"),
    "zero bubble": Case(Layout(pp=2, schedule="zero_bubble"), "four"),
    "dualpipe": Case(Layout(pp=2, **V), "four"),
    "uneven stages": Case(Layout(pp=2, stages=(3, 1)), "four"),
    "tied": Case(Layout(pp=2), "tied"),
    "zero 3": Case(Layout(pp=2, dp_shard=2, zero=3), "four"),
    "tp 2": Case(Layout(pp=2, tp=2), "four"),
    "dp 2 x tp 2 + sp": Case(Layout(pp=2, dp_shard=2, zero=3, **SP), "four"),
}
VARIANTS = {
    "interleaved zero bubble": Case(Layout(pp=2, schedule="zero_bubble", virtual_stages=2), "four"),
    "four ranks": Case(Layout(pp=4), "four"),
    "tied, in a V": Case(Layout(pp=2, **V), "tied"),
    "recompute": Case(Layout(pp=2, recompute="full"), "four"),
    "dp 2": Case(Layout(pp=2, dp_replicate=2), "four"),
    "dp 2, zero bubble": Case(Layout(pp=2, dp_replicate=2, schedule="zero_bubble"), "four"),
    "zero 1": Case(Layout(pp=2, dp_shard=2, zero=1), "four"),
    "zero 2, zero bubble": Case(Layout(pp=2, dp_shard=2, zero=2, schedule="zero_bubble"), "four"),
    "zero 2, tied": Case(Layout(pp=2, dp_shard=2, zero=2), "tied"),
    "zero 3, interleaved": Case(Layout(pp=2, dp_shard=2, zero=3, **INTERLEAVED), "four"),
    "zero 1, tied, in a V": Case(Layout(pp=2, dp_shard=2, zero=1, **V), "tied"),
    "tp 2 + sp": Case(Layout(pp=2, **SP), "four"),
    "tp 2 + sp, dualpipe": Case(Layout(pp=2, **SP, **V), "four"),
    "tp 2 + sp, tied": Case(Layout(pp=2, **SP), "tied"),
    "cp 2": Case(Layout(pp=2, cp=2, cp_kind="ring", zero=3), "four"),
    "windows of tokens that a stage never sees": Case(Layout(pp=2), "masked"),
    "the same, tp 2 + sp": Case(Layout(pp=2, **SP), "masked"),
}
CASES |= {name: replace(case, steps=5) for name, case in VARIANTS.items()}


@pytest.fixture(scope="module")
def reference_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def reference_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run_alone(spec_of(MODELS_HERE[name]), made[name])
        return made[name]

    return reference_of


def filled(layout: Layout) -> Layout:
    """With four micro-batches a step, or as many as a rank has sequences."""
    of_rank = BATCH // layout.data_parallel
    return replace(layout, micro_batch=max(1, of_rank // 4), grad_accumulation=min(4, of_rank))


def program_of(case: Case, folder: Path) -> Path:
    spec = spec_of(MODELS_HERE[case.model])
    return build(spec, folder, plan=plan_of(spec, layout=filled(case.layout)))


@pytest.mark.parametrize("name", CASES)
def test_pipelines_repeat_the_program_of_one_device(name: str, pool: Pool, reference_of: Any, tmp_path: Path) -> None:
    case = CASES[name]
    reference, folder = reference_of(case.model), program_of(case, tmp_path)
    size = case.layout.devices
    found = pool.run("train", world_size=size, folder=str(folder), reference=str(reference), steps=case.steps)
    for rank, worst in enumerate(found):
        assert max(worst.values()) < CLOSE, (rank, worst)


@pytest.mark.parametrize("name", ["interleaved 1f1b", "tied, in a V", "zero 3", "tp 2 + sp"])
def test_validation_passes_through_all_stages(name: str, pool: Pool, reference_of: Any, tmp_path: Path) -> None:
    case = CASES[name]
    folder, reference = program_of(case, tmp_path), reference_of(case.model)
    found = pool.run("validate", world_size=case.layout.devices, folder=str(folder), reference=str(reference))
    assert max(found) < CLOSE


def test_checkpoints_pass_from_stages_to_shards_and_back(pool: Pool, reference_of: Any, tmp_path: Path) -> None:
    """Weights and moments are the same to the bit, the embedding that two stages have among them."""
    layouts = {"tied": CASES["tied"], "dp": Case(Layout(dp_shard=2, zero=3), "tied"), "v": CASES["tied, in a V"]}
    states, before, reference = [], "", str(reference_of("tied"))
    for name, case in layouts.items():
        folder, end = program_of(case, tmp_path / name), tmp_path / f"{name}-checkpoints"
        start = {"reference": reference} if not before else {}
        pool.run("pass_on", world_size=2, folder=str(folder), start=before, end=str(end), **start)
        before = str(end)
        states.append(state_of(end / "step-00000001", tmp_path / f"{name}-alone"))
    for other in states[1:]:
        assert other.keys() == states[0].keys()
        assert all(torch.equal(other[name], tensor) for name, tensor in states[0].items())
    assert all(tensor.any() for name, tensor in states[0].items() if name.endswith("weight"))


def state_of(checkpoint: Path, folder: Path) -> dict[str, torch.Tensor]:
    """What the program for one device finds in a checkpoint."""
    spec = spec_of(MODELS_HERE["tied"])
    with imported(build(spec, folder, plan=plan_of(spec, layout=Layout(micro_batch=BATCH))), "train") as (program,):
        model = program.Model()
        optimizer = program.make_optimizer(model)
        saved = Saved(folder=checkpoint, step=1, cursor={}, updates=1)
        load_checkpoint(saved, model=model, optimizer=optimizer, cuts=Cuts({}, rest=Whole()), group=None, no_dist=True)
        state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for name, parameter in model.named_parameters():
            state |= {f"{kind}.{name}": optimizer.state[parameter][kind] for kind in ("exp_avg", "exp_avg_sq")}
        return state
