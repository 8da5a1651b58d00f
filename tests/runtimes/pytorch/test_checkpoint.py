"""Checkpoints are whole or absent, verified, and exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.pytorch import checkpoint as module
from llmc.runtimes.pytorch.checkpoint import Checkpoints, latest_checkpoint, read_meta


def trained(steps: int = 2, *, width: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(steps)
    model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: Path, step: int, *, keep: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, optimizer = trained(step)
    cursor = {"samples": 10 * step}
    Checkpoints(folder, keep=keep).save(step, model=model, optimizer=optimizer, cursor=cursor)
    return model, optimizer


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer = save(tmp_path, 3)
    expected_draw = torch.rand(4)
    other, other_optimizer = trained(1)
    saved = Checkpoints(tmp_path, keep=2).load_latest(model=other, optimizer=other_optimizer)
    assert saved is not None
    assert (saved.step, saved.cursor) == (3, {"samples": 30})
    assert torch.equal(torch.rand(4), expected_draw)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(optimizer.state[mine][key], other_optimizer.state[theirs][key]), key


def test_bf16_weights_and_other_states_come_back_exactly(tmp_path: Path) -> None:
    model, optimizer = trained(2)
    model.bfloat16()
    rest = {}
    for name, parameter in model.named_parameters():
        rest[name] = optimizer.state[parameter]["rest"] = torch.randint(0, 2**15, parameter.shape, dtype=torch.int16)
    Checkpoints(tmp_path, keep=1).save(2, model=model, optimizer=optimizer, cursor={})
    other, other_optimizer = trained(1)
    other.bfloat16()
    Checkpoints(tmp_path, keep=1).load_latest(model=other, optimizer=other_optimizer)
    for name, parameter in other.named_parameters():
        assert torch.equal(other_optimizer.state[parameter]["rest"], rest[name])
        assert torch.equal(parameter, dict(model.named_parameters())[name])


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=2)
    assert [path.name for path in Checkpoints(tmp_path, keep=2).list()] == ["step-00000003", "step-00000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "step-00000002" / "model.safetensors").write_bytes(b"old")
    save(tmp_path, 2)
    assert read_meta(tmp_path / "step-00000002").step == 2


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "meta.json"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_never_loaded(file: str, harm: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    target = tmp_path / "step-00000002" / file
    data = target.read_bytes()
    if harm == "truncate":
        target.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        target.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    else:
        target.unlink()
    if file == "meta.json" and harm == "flip":
        target.write_text(data.decode().replace('"step": 2', '"stop": 2'))
    model, optimizer = trained(1)
    saved = Checkpoints(tmp_path, keep=2).load_latest(model=model, optimizer=optimizer)
    assert saved is not None
    assert saved.step == 1


@pytest.mark.parametrize("moment", ["sha256", "sync"])
def test_a_crash_while_saving_leaves_the_one_before(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run" / "checkpoints"
    save(root, 1)
    with monkeypatch.context() as patch:

        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module, moment, crash)
        with pytest.raises(KeyboardInterrupt):
            save(root, 2)
    assert latest_checkpoint(tmp_path / "run") == root / "step-00000001"
    save(root, 3)
    assert sorted(path.name for path in root.iterdir()) == ["step-00000001", "step-00000003"]  # the remains are gone


def test_there_may_be_none(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    assert Checkpoints(tmp_path / "no", keep=1).load_latest(model=model, optimizer=optimizer) is None
    assert latest_checkpoint(tmp_path) is None


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    model, optimizer = trained(1, width=5)
    with pytest.raises(RunError, match=r"another model: .*0\.bias"):
        Checkpoints(tmp_path, keep=1).load_latest(model=model, optimizer=optimizer)


def test_weights_in_another_format_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    model, optimizer = trained(1)
    model.bfloat16()
    with pytest.raises(RunError, match=r"weights in torch\.float32"):
        Checkpoints(tmp_path, keep=1).load_latest(model=model, optimizer=optimizer)


def test_files_beside_it_are_copied_and_covered(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    model, optimizer = trained(1)
    folder = Checkpoints(tmp_path / "c", keep=1).save(1, model=model, optimizer=optimizer, cursor={}, files=[tokenizer])
    assert (folder / "tokenizer.json").read_text() == "{}"
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(RunError, match=r"tokenizer\.json"):
        read_meta(folder)


def test_a_checkpoint_names_no_file_outside_itself(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    meta = json.loads((folder / "meta.json").read_text())
    shutil.copy(folder / "model.safetensors", tmp_path / "outside")
    meta["sha256"]["../outside"] = meta["sha256"]["model.safetensors"]
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(RunError):
        read_meta(folder)
