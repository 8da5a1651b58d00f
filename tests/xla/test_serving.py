"""A server on a TPU compiles the graphs that it says and none after, and answers as the server on a CPU does."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import torch
from programs import TINY, TPU, build, imported, plan_of, tiny_spec
from safetensors.torch import save_file

from llmc.runtimes.pytorch.weights import named_tensors

ANSWERS = Path(__file__).with_name("answers.py")


def test_random_traffic_compiles_the_planned_graphs_and_gets_the_same_tokens(
    xla: Callable[..., str], tmp_path: Path
) -> None:
    serve = TINY["serve"] | {"shapes": "fixed"}
    model = {"head_dim": 128}  # whole vectors, so that answers have a kernel, in whose place its twin runs here
    alone = tiny_spec(without=("train", "data"), serve=serve, model=model)
    on_tpu = tiny_spec(without=("train", "data"), serve=serve, model=model, hardware=TPU | {"topology": "1x1"})
    build(on_tpu, tmp_path / "tpu", plan=plan_of(on_tpu))
    assert "decode_attention(" in (tmp_path / "tpu" / "model.py").read_text(encoding="utf-8")
    with imported(build(alone, tmp_path / "cpu", plan=plan_of(alone)), "serve") as (program,):
        torch.manual_seed(0)
        model = program.Model()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # answers differ from prompt to prompt
        save_file(dict(named_tensors(model)), tmp_path / "tpu" / "weights.safetensors")
        cache = program.KVCache(program.NUM_BLOCKS, program.BLOCK_TOKENS, torch.float32)
        expected = runpy.run_path(str(ANSWERS))["answers"](program, program.Runner(model, cache))
    assert len({tuple(answer) for answer in expected}) > 20
    xla(ANSWERS, tmp_path / "tpu", devices=1)
    found = json.loads((tmp_path / "tpu" / "answers.json").read_text(encoding="utf-8"))
    before, warm, after = found["compiled"]
    assert warm - before == found["planned"] == 5
    assert after == warm
    assert found["answers"] == expected
