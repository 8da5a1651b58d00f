"""Checkpoints of several devices: any layout loads any other's, torn ones are passed over, one device reads and writes them too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pool import Pool
from programs import build, imported, plan_of
from reference import MODELS, filled, spec_of

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.checkpoint import Checkpoints
from llmc.runtimes.pytorch.weights import load_weights

ONE = Layout(micro_batch=8)
DP4 = Layout(dp_shard=4, zero=3)
LAYOUTS = {
    "tp 4 + sp": Layout(tp=4, sequence_parallel=True),
    "hsdp 2 x 2": Layout(dp_replicate=2, dp_shard=2, zero=2),
    "dp 2 x tp 2": Layout(dp_shard=2, zero=1, tp=2),
    "cp 2, replicated": Layout(cp=2, cp_kind="ring", zero=0),
    "tp 2 x pp 2": Layout(tp=2, pp=2, zero=0),
}


def program_of(layout: Layout, folder: Path) -> Path:
    spec = spec_of(MODELS["llama"])
    return build(spec, folder, plan=plan_of(spec, layout=layout if layout.devices == 1 else filled(layout)))


def whole(checkpoints: Path, folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the latest checkpoint as one device has them; `folder` is its program."""
    with imported(folder, "train") as (program,):
        model = program.Model()
        optimizer = program.make_optimizer(model)
        saved = Checkpoints(checkpoints, keep=9).load_latest(model=model, optimizer=optimizer)
        assert saved is not None
        found = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for name, parameter in model.named_parameters():
            found |= {f"{kind}.{name}": each for kind, each in optimizer.state[parameter].items()}
    return found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program_of(ONE, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def saved(pool: Pool, reference_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2, written by four shards."""
    folder = tmp_path_factory.mktemp("dp4")
    program, reference = program_of(DP4, folder / "program"), reference_of("llama")
    arguments = {"reference": str(reference), "checkpoints": str(folder / "checkpoints")}
    pool.run("save", world_size=4, folder=str(program), **arguments)
    return folder / "checkpoints"


def test_a_checkpoint_holds_safetensors_and_json_alone(saved: Path) -> None:
    assert [path.name for path in sorted(saved.iterdir())] == ["step-00000001", "step-00000002"]
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_and_back_changes_no_bit(name: str, pool: Pool, saved: Path, one: Path, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    there, back = program_of(layout, tmp_path / "there"), program_of(DP4, tmp_path / "back")
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    steps = pool.run("copy", world_size=layout.devices, folder=str(there), checkpoints=str(saved), to=first)
    assert set(steps) == {2}
    pool.run("copy", world_size=4, folder=str(back), checkpoints=first, to=second)
    expected = whole(saved, one)
    for found in (whole(Path(first), one), whole(Path(second), one)):
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_one_device_writes_what_several_read(pool: Pool, saved: Path, one: Path, tmp_path: Path) -> None:
    with imported(one, "train") as (program,):
        model = program.Model()
        optimizer = program.make_optimizer(model)
        Checkpoints(saved, keep=9).load_latest(model=model, optimizer=optimizer)
        Checkpoints(tmp_path / "one", keep=9).save(2, model=model, optimizer=optimizer, cursor={})
    there = program_of(LAYOUTS["tp 4 + sp"], tmp_path / "there")
    to = str(tmp_path / "to")
    pool.run("copy", world_size=4, folder=str(there), checkpoints=str(tmp_path / "one"), to=to)
    expected, found = whole(saved, one), whole(Path(to), one)
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_one_device_takes_the_weights_alone(saved: Path, one: Path) -> None:
    with imported(one, "model") as (program,):
        model = program.Model()
        load_weights(model, saved / "step-00000002")
    expected = whole(saved, one)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("damage", ["a byte", "a missing file", "half a file"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, pool: Pool, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "damaged")
    file = sorted((tmp_path / "damaged" / "step-00000002" / "optimizer").iterdir())[2]
    data = file.read_bytes()
    if damage == "a missing file":
        file.unlink()
    else:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage == "a byte" else data[: len(data) // 2])
    program = program_of(LAYOUTS["dp 2 x tp 2"], tmp_path / "program")
    arguments: dict[str, Any] = {"checkpoints": str(tmp_path / "damaged"), "to": str(tmp_path / "to")}
    assert set(pool.run("copy", world_size=4, folder=str(program), **arguments)) == {1}


def test_first_weights_are_the_same_in_every_layout(pool: Pool, one: Path, tmp_path: Path) -> None:
    found = []
    for name in ("dp 2 x tp 2", "tp 4 + sp", "cp 2, replicated"):
        program = program_of(LAYOUTS[name], tmp_path / name)
        pool.run(
            "first_weights", world_size=LAYOUTS[name].devices, folder=str(program), out=str(tmp_path / f"{name}.out")
        )
        found.append(whole(tmp_path / f"{name}.out", one))
    for others in found[1:]:
        assert [key for key in found[0] if not torch.equal(found[0][key], others[key])] == []
    assert found[0]["layers.0.attn.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.05)
