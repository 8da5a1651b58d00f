"""Optimizers other than AdamW, and the average of the weights: several devices take the steps of one, and states change layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from dry_claims import check_claims
from pool import Pool
from programs import build, imported, plan_of
from reference import BATCH, MODELS, STEPS, filled, run_alone, spec_of
from safetensors.torch import load_file

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.checkpoint import Checkpoints
from llmc.runtimes.pytorch.optimizers.average import write_average
from llmc.runtimes.pytorch.weights import load_weights
from llmc.spec.document import Spec

CLOSE = 1e-5
ZERO3, TP2 = Layout(dp_shard=2, zero=3), Layout(tp=2)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "lion": {"name": "lion", "lr": 1e-3},
    "adafactor": {"name": "adafactor", "lr": 1e-2},
    "muon": {"name": "muon", "lr": 1e-3, "eps": 1e-6},
    "sophia": {"name": "sophia", "lr": 1e-3},
}
CASES = {
    ("lion", "zero 3 x 2"): (ZERO3, STEPS),
    ("lion", "tp 2"): (TP2, STEPS),
    ("adafactor", "zero 3 x 2"): (ZERO3, STEPS),
    ("adafactor", "zero 1 x 2, pp 2"): (Layout(dp_shard=2, zero=1, pp=2), 4),
    ("muon", "zero 3 x 2"): (ZERO3, STEPS),
    ("muon", "hsdp 2 x 2, zero 2"): (Layout(dp_replicate=2, dp_shard=2, zero=2), 4),
    ("adafactor", "tp 2"): (TP2, STEPS),
    ("adafactor", "zero 3 x 2, tp 4"): (Layout(dp_shard=2, zero=3, tp=4), 4),
    ("muon", "tp 4"): (Layout(tp=4), STEPS),
    ("muon", "zero 1 x 2, tp 2"): (Layout(dp_shard=2, zero=1, tp=2), 4),
    ("sophia", "dp 2"): (Layout(dp_replicate=2), STEPS),
    ("sophia", "zero 2 x 2"): (Layout(dp_shard=2, zero=2), STEPS),
    ("sophia", "zero 3 x 2"): (ZERO3, STEPS),
    ("sophia", "tp 4, sp"): (Layout(tp=4, sequence_parallel=True), STEPS),
    ("sophia", "zero 1 x 2, cp 2"): (Layout(dp_shard=2, zero=1, cp=2, cp_kind="ring"), STEPS),
}
"""Layouts, and how many steps they take."""
WIDE = ("sophia",)
"""Those in float64: divided by a curvature near zero, the noise of fp32 grows beyond any bound within ten steps."""


def spec_with(name: str, **changes: Any) -> Spec:
    z_loss = 0.0 if name == "sophia" else 1e-3
    return spec_of(MODELS["llama"], optimizer=OPTIMIZERS[name], ema_decay=0.9, z_loss=z_loss, **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of one device."""
    folders = {name: tmp_path_factory.mktemp(name) for name in OPTIMIZERS}
    for name, folder in folders.items():
        run_alone(spec_with(name), folder, micro_batch=BATCH // 2, is_wide=name in WIDE)
    return folders


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_layouts_repeat_the_program_of_one_device(
    name: str, layout: str, pool: Pool, alone: dict[str, Path], tmp_path: Path
) -> None:
    degrees, steps = CASES[name, layout]
    spec, chosen = spec_with(name), filled(degrees)
    folder = build(spec, tmp_path, plan=plan_of(spec, layout=chosen))
    arguments = {"folder": str(folder), "reference": str(alone[name]), "steps": steps, "is_wide": name in WIDE}
    for rank, worst in enumerate(pool.run("train", world_size=chosen.devices, **arguments)):
        assert max(worst.values()) < CLOSE, (rank, worst)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_of_one_device_lowers_the_loss(name: str, alone: dict[str, Path]) -> None:
    """On the same random text, which is learnt by heart a little."""
    spec = spec_with(name)
    with imported(alone[name] / "program", "train") as (program,):
        torch.manual_seed(0)
        model = program.Model()
        program.init_weights(model)
        optimizer = program.make_optimizer(model)
        batch = load_file(alone[name] / "reference.safetensors")["batches"][0, : BATCH // 2].numpy()
        losses = [
            program.train_step(model, optimizer, iter([batch] * 2), lr=spec.train[0].optimizer.lr * 3, **told)[0]  # type: ignore[index]
            for told in ({"step": step} if name == "sophia" else {} for step in range(1, 9))
        ]
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_go_to_another_layout_and_back_to_one_device(
    name: str, pool: Pool, alone: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_with(name)
    last = Layout(pp=2, dp_shard=2, zero=1) if name != "sophia" else Layout(tp=2, dp_shard=2, zero=1)
    programs = {"zero3": ZERO3, "tp": Layout(tp=4), "last": last}
    folders = {
        key: build(spec, tmp_path / key, plan=plan_of(spec, layout=filled(each))) for key, each in programs.items()
    }
    paths = {"start": str(tmp_path / "none"), "end": str(tmp_path / "a"), "reference": str(alone[name])}
    pool.run("pass_on", world_size=2, folder=str(folders["zero3"]), **paths)
    pool.run("pass_on", world_size=4, folder=str(folders["tp"]), start=str(tmp_path / "a"), end=str(tmp_path / "b"))
    pool.run("pass_on", world_size=4, folder=str(folders["last"]), start=str(tmp_path / "b"), end=str(tmp_path / "c"))
    with imported(alone[name] / "program", "train") as (program,):
        found = [loaded(program, tmp_path / end) for end in ("a", "b", "c")]
    for after in found[1:]:
        assert found[0].keys() == after.keys()
        assert [key for key in found[0] if not torch.equal(found[0][key], after[key])] == []
    assert any(each.any() for key, each in found[0].items() if not key.startswith(("weight", "ema")))


def loaded(program: Any, checkpoints: Path) -> dict[str, torch.Tensor]:
    """Weights and states of the latest checkpoint as one device has them; the average is what a server would load."""
    model = program.Model()
    optimizer = program.make_optimizer(model)
    saved = Checkpoints(checkpoints, keep=9).load_latest(model=model, optimizer=optimizer)
    assert saved is not None
    found = {f"weight.{name}": each.detach().clone() for name, each in model.named_parameters()}
    for name, parameter in model.named_parameters():
        found |= {f"{kind}.{name}": each for kind, each in optimizer.state[parameter].items()}
    write_average(saved.folder, checkpoints / "average")
    load_weights(model, checkpoints / "average")
    assert all(torch.equal(each, found[f"ema.{name}"]) for name, each in model.named_parameters())
    return found


def test_a_resumed_run_draws_the_same_labels(alone: dict[str, Path], tmp_path: Path) -> None:
    """Saved after six steps, before the second estimate of the curvature: the same to the bit."""
    with imported(alone["sophia"] / "program", "train") as (program,):
        batches = load_file(alone["sophia"] / "reference.safetensors")["batches"].unflatten(1, (2, -1)).numpy()
        checkpoints = Checkpoints(tmp_path, keep=1)
        ends = []
        for first in (0, 6):
            torch.manual_seed(0)
            model = program.Model()
            program.init_weights(model)
            optimizer = program.make_optimizer(model)
            if first:
                assert checkpoints.load_latest(model=model, optimizer=optimizer) is not None
            for step in range(first + 1, 14):
                program.train_step(model, optimizer, iter(batches[step - 1]), lr=1e-3, step=step)
                if step == 6:
                    checkpoints.save(6, model=model, optimizer=optimizer, cursor={})
            ends.append([each.detach().clone() for each in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


CLAIMED = {
    ("adafactor", "llama", "pp 2"): Layout(dp_shard=2, zero=1, pp=2),
    ("muon", "llama", "zero 2 x 4"): Layout(dp_shard=4, zero=2),
    ("muon", "mixtral", "ep 2"): Layout(dp_shard=4, zero=3, ep=2),
    ("muon", "mixtral", "zero 2 x 2, ep 2, tp 2"): Layout(dp_shard=2, zero=2, ep=2, tp=2),
    ("muon", "llama", "zero 3 x 2, tp 4, pp 2"): Layout(dp_shard=2, zero=3, tp=4, pp=2),
    ("adafactor", "llama", "zero 3 x 4, tp 4"): Layout(dp_shard=4, zero=3, tp=4),
    ("adafactor", "gpt2", "dp 2, tp 2"): Layout(dp_replicate=2, tp=2),
    ("sophia", "llama", "zero 2 x 2, tp 2"): Layout(dp_shard=2, zero=2, tp=2),
}


@pytest.mark.parametrize(("name", "model", "layout"), CLAIMED)
def test_what_ranks_send_and_hold_is_what_the_inventory_says(
    name: str, model: str, layout: str, tmp_path: Path
) -> None:
    """To the byte, the average included."""
    chosen = filled(CLAIMED[name, model, layout])
    fields = ARCHITECTURES[model] if model != "llama" else MODELS["llama"]
    spec = spec_of(fields, optimizer=OPTIMIZERS[name], ema_decay=0.9, z_loss=0.0)
    check_claims(spec, chosen, tmp_path, ranks=(0, chosen.devices - 1))
