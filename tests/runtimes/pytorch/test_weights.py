"""Weights come and go by name; whatever does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.pytorch.weights import load_weights, save_weights


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    written, read = model(1), model(2)
    save_weights(written, tmp_path)
    load_weights(read, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(written.parameters(), read.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_values_are_cast_to_the_model(tmp_path: Path) -> None:
    written, read = model(1), model(2)
    save_weights(written, tmp_path, dtype=torch.bfloat16)
    assert load_file(tmp_path / "model.safetensors")["0.weight"].dtype == torch.bfloat16
    load_weights(read, tmp_path)
    assert torch.equal(read[0].weight, written[0].weight.bfloat16().float())  # type: ignore[union-attr]


def split(folder: Path, **index: str) -> None:
    """Two files and an index, as large checkpoints come."""
    tensors = dict(model(1).named_parameters())
    save_file({"0.weight": tensors["0.weight"].detach()}, folder / "a.safetensors")
    save_file({key: tensors[key].detach() for key in ("0.bias", "1.weight")}, folder / "b.safetensors")
    files = {"0.weight": "a.safetensors", "0.bias": "b.safetensors", "1.weight": "b.safetensors"} | index
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    split(tmp_path)
    read = model(2)
    load_weights(read, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model(1).parameters(), read.parameters(), strict=True))


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd"])
def test_an_index_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    split(tmp_path, **{"0.weight": name})
    with pytest.raises(RunError, match="not a file beside it"):
        load_weights(model(), tmp_path)


def test_what_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(4, 3), "2.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"2 missing \(0.bias, 1.weight\) 1 unknown \(2.weight\)"):
        load_weights(model(), tmp_path)


def test_a_wrong_shape_is_told_with_both(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"0.weight has shape \[3, 4\] .* the model has \[4, 3\]"):
        load_weights(model(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage that is long enough to be read as a header"])
def test_a_torn_file_is_an_error_with_words(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="cannot be read"):
        load_weights(model(), tmp_path)


def test_an_empty_folder_is_an_error_with_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither"):
        load_weights(model(), tmp_path)
