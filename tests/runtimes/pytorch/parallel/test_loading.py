"""A rank reads the parts of the files that it has, and nothing else of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.pytorch.parallel import loading
from llmc.runtimes.pytorch.parallel.cuts import Columns, Cuts, Rows, Sections, Whole
from llmc.runtimes.pytorch.parallel.loading import fill_randomly, load_cut_weights
from llmc.runtimes.pytorch.parallel.mesh import Axis
from llmc.runtimes.pytorch.parallel.storage import save_pieces
from llmc.runtimes.pytorch.weights import SHARDS, SINGLE

CUTS = {"embed.weight": Rows(9), "qkv.weight": Sections((8, 2, 2), copies=(1, 2, 2)), "out.weight": Columns()}
"""Nine rows over four ranks: the last has none of its own. Two rows of keys: two ranks have each."""
RANKS = 4


class Part(nn.Module):
    def __init__(self, *, rows: int, qkv: int, columns: int) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Embedding(rows, 8), nn.Linear(8, qkv, bias=False)
        self.out, self.norm = nn.Linear(columns, 8, bias=False), nn.RMSNorm(8)


def of_rank(rank: int) -> tuple[Part, Cuts]:
    tp = Axis(group=None, rank=rank, size=RANKS)  # type: ignore[arg-type]
    return Part(rows=3, qkv=2 + 1 + 1, columns=2), Cuts(CUTS, rest=Whole(), tp=tp)


def whole_tensors() -> dict[str, Tensor]:
    shapes = {"embed.weight": (9, 8), "qkv.weight": (12, 8), "out.weight": (8, 8), "norm.weight": (8,)}
    return {
        name: torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) + 1000 * number
        for number, (name, shape) in enumerate(shapes.items())
    }


def saved_plainly(folder: Path) -> None:
    save_file(whole_tensors(), folder / SINGLE)


def saved_by_several(folder: Path) -> None:
    """A checkpoint of training with several devices, where queries, keys and values are apart."""
    cuts = Cuts({"qkv.weight": Sections((8, 2, 2), copies=(1, 1, 1))}, rest=Whole())
    pieces = [piece for name, tensor in whole_tensors().items() for piece in cuts.pieces(name, tensor)]
    save_pieces(pieces, folder / SHARDS, group=None, no_dist=True)


@pytest.mark.parametrize("save", [saved_plainly, saved_by_several])
@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_has_its_part_of_each_tensor(rank: int, save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path)
    model, cuts = of_rank(rank)
    load_cut_weights(model, tmp_path, cuts)
    whole = whole_tensors()
    held = whole["embed.weight"][3 * rank : 3 * rank + 3]
    assert torch.equal(model.embed.weight[: len(held)], held)
    keys = rank // 2
    rows = [2 * rank, 2 * rank + 1, 8 + keys, 10 + keys]
    assert torch.equal(model.qkv.weight, whole["qkv.weight"][rows])
    assert torch.equal(model.out.weight, whole["out.weight"][:, 2 * rank : 2 * rank + 2])
    assert torch.equal(model.norm.weight, whole["norm.weight"])


def test_nothing_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_plainly(tmp_path)
    model, cuts = of_rank(1)
    read = 0

    class Slice:
        def __init__(self, found: Any) -> None:
            self.found = found

        def get_shape(self) -> list[int]:
            return self.found.get_shape()

        def __getitem__(self, box: Any) -> Tensor:
            nonlocal read
            read += self.found[box].numel()
            return self.found[box]

    class File:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.file = original(*args, **options)

        def __enter__(self) -> File:
            self.opened = self.file.__enter__()
            return self

        def __exit__(self, *args: Any) -> None:
            self.file.__exit__(*args)

        def keys(self) -> list[str]:
            return self.opened.keys()

        def get_slice(self, name: str) -> Slice:
            return Slice(self.opened.get_slice(name))

    original = loading.safe_open
    monkeypatch.setattr(loading, "safe_open", File)
    load_cut_weights(model, tmp_path, cuts)
    assert read == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv.weight": torch.zeros(13, 8)}, r"qkv.weight has shape \[13, 8\] in .*, the model has \[12, 8\]"),
        ({"other": torch.zeros(1)}, r"weights of another model: 1 unknown \(other\)"),
        ({"norm.weight": None}, r"weights of another model: 1 missing \(norm.weight\)"),
    ],
)
def test_weights_of_another_model_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in (whole_tensors() | change).items() if tensor is not None}
    save_file(tensors, tmp_path / SINGLE)
    model, cuts = of_rank(0)
    with pytest.raises(RunError, match=message):
        load_cut_weights(model, tmp_path, cuts)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    saved_plainly(tmp_path)
    content = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(content[: len(content) // 2])
    model, cuts = of_rank(0)
    with pytest.raises(RunError, match="cannot be read"):
        load_cut_weights(model, tmp_path, cuts)


def test_random_weights_are_those_of_one_model() -> None:
    """Ranks that share keys draw the same, and others something else."""
    models = []
    for rank in range(RANKS):
        model, cuts = of_rank(rank)
        fill_randomly(model, cuts, seed=3)
        models.append(model)
    keys = [model.qkv.weight[2:3] for model in models]
    assert torch.equal(keys[0], keys[1])
    assert torch.equal(keys[2], keys[3])
    assert not torch.equal(keys[1], keys[2])
    assert not torch.equal(models[0].out.weight, models[1].out.weight)
