"""A server on TPUs compiles the graphs that it says and none after, and answers as the server on a CPU does."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import TINY, TPU, build, imported, plan_of, tiny_spec
from safetensors.torch import save_file

from llmc.runtimes.pytorch.weights import named_tensors
from llmc.spec.document import Spec

ANSWERS = Path(__file__).with_name("answers.py")
MODEL = {"num_layers": 2, "head_dim": 128, "num_heads": 8, "num_kv_heads": 4, "vocab_size": 509}
"""Heads of whole vectors, so that answers have a kernel, in whose place its twin runs here; a vocabulary that chips do not divide."""


def served(**changes: Any) -> Spec:
    return tiny_spec(without=("train", "data"), serve=TINY["serve"] | {"shapes": "fixed"}, model=MODEL, **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """Weights, and what the program for a CPU answers with them."""
    folder, spec = tmp_path_factory.mktemp("cpu"), served()
    with imported(build(spec, folder / "program", plan=plan_of(spec)), "serve") as (program,):
        torch.manual_seed(0)
        model = program.Model()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # answers differ from prompt to prompt
        save_file(dict(named_tensors(model)), folder / "weights.safetensors")
        cache = program.KVCache(program.NUM_BLOCKS, program.BLOCK_TOKENS, torch.float32)
        expected = runpy.run_path(str(ANSWERS))["answers"](program, program.Runner(model, cache))
    assert len({tuple(answer) for answer in expected}) > 20
    return folder / "weights.safetensors", expected


@pytest.mark.parametrize(("tp", "topology"), [(1, "1x1"), (2, "1x2"), (4, "2x2")])
def test_random_traffic_compiles_the_planned_graphs_and_gets_the_same_tokens(
    tp: int,
    topology: str,
    xla: Callable[..., str],
    alone: tuple[Path, list[list[int]]],
    tmp_path: Path,
) -> None:
    weights, expected = alone
    spec = served(hardware=TPU | {"topology": topology})
    build(spec, tmp_path, plan=plan_of(spec, tp=tp))
    assert "decode_attention(" in (tmp_path / "model.py").read_text(encoding="utf-8")
    (tmp_path / "weights.safetensors").symlink_to(weights)
    xla(ANSWERS, tmp_path, devices=tp)
    found = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    before, warm, after = found["compiled"]
    assert warm - before == found["planned"] == 5
    assert after == warm
    assert found["answers"] == expected
    rows = [4 // tp, 32 * 16, 128]  # of a chip's heads, in blocks of tokens
    heads = [(8 + 2 * 4) // tp * 128, 64]
    assert found["held"] == ([[each] * tp for each in (rows, rows, heads)] if tp > 1 else [])
