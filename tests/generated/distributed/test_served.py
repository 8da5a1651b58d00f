"""Servers whose model tp cuts: every rank gives the answers of the program for one device, from the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from pool import Pool
from programs import TINY, build, imported, plan_of, tiny_spec
from served import greedy, runner_of

from llmc.compiler.cost.serving import Engine, EngineShape
from llmc.compiler.frontend.model import build_graph
from llmc.compiler.topology.machine import machine_of
from llmc.runtimes.pytorch.weights import load_weights, save_weights

DEVICES = {"accelerator": TINY["hardware"]["accelerator"] | {"per_node": 4}}
PROMPTS = [[1, 2, 3], [300, 7], list(range(20, 60)), [299]]
ODD = {"vocab_size": 301}
"""tp does not divide it: the last rank's last rows are padding."""
CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "fewer key/value heads than ranks": (ODD, {"tp": 4}),
    "tied, with biases": (ARCHITECTURES["qwen2"] | ODD, {"tp": 2}),
    "norms of heads": (ARCHITECTURES["qwen3"], {"tp": 2}),
    "caps and windows": (ARCHITECTURES["gemma2"] | ODD, {"tp": 2}),
    "sinks": (ARCHITECTURES["sinks"], {"tp": 2}),
    "learned positions": (ARCHITECTURES["gpt2"] | ODD, {"tp": 2}),
    "parallel blocks": (ARCHITECTURES["gpt-j"], {"tp": 2}),
    "one key/value head": (ARCHITECTURES["falcon"], {"tp": 2}),
    "experts": (ARCHITECTURES["mixtral"] | ODD, {"tp": 2}),
    "shared experts": (ARCHITECTURES["qwen2-moe"], {"tp": 2}),
    "experts with biases": (ARCHITECTURES["gpt-oss"], {"tp": 2}),
    "latent attention": (ARCHITECTURES["deepseek-v3"] | ODD, {"tp": 4}),
    "experts spread": (ARCHITECTURES["mixtral"] | ODD, {"tp": 2, "ep": 2}),
    "experts spread and cut": (ARCHITECTURES["gpt-oss"], {"tp": 4, "ep": 2}),
    "shared experts beside spread ones": (ARCHITECTURES["qwen2-moe"], {"tp": 2, "ep": 2}),
    "groups of experts on ranks of their own": (ARCHITECTURES["deepseek-v3"] | ODD, {"tp": 4, "ep": 4}),
    "stages": (ODD, {"pp": 2}),
    "stages of one layer, tied": (ARCHITECTURES["gemma2"] | ODD, {"pp": 3}),
    "stages that add positions": (ARCHITECTURES["gpt2"], {"pp": 2}),
    "stages that tp cuts": (ARCHITECTURES["qwen2"] | ODD, {"pp": 2, "tp": 2}),
    "stages with experts spread": (ARCHITECTURES["deepseek-v3"] | ODD, {"pp": 2, "tp": 2, "ep": 2}),
}


def served(model: dict[str, Any], folder: Path, *, serve: dict[str, Any] | None = None, **degrees: int) -> Path:
    spec = tiny_spec(without=("train", "data"), model=model, hardware=DEVICES, serve=TINY["serve"] | (serve or {}))
    return build(spec, folder, plan=plan_of(spec, **degrees))


def save_random(folder: Path, weights: Path) -> Any:
    """The weights of a model for one device, with nothing that is zero or one by habit; the model."""
    with imported(folder, "model") as (module,):
        model, generator = module.Model(), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
        save_weights(model, weights)
        return model.double().eval()


@pytest.mark.parametrize("case", CASES)
def test_greedy_answers_are_those_of_one_device(case: str, pool: Pool, tmp_path: Path) -> None:
    changes, degrees = CASES[case]
    alone, cut = served(changes, tmp_path / "alone"), served(changes, tmp_path / "cut", **degrees)
    model = save_random(alone, tmp_path / "weights")
    load_weights(model, tmp_path / "weights")
    with imported(alone, "serve") as (program,):
        expected, logits = greedy(runner_of(program, model), PROMPTS, num_new=16)
    size = degrees.get("tp", 1) * degrees.get("pp", 1)
    for answers, found in pool.run(
        "answer",
        world_size=size,
        folder=str(cut),
        weights=str(tmp_path / "weights"),
        prompts=PROMPTS,
        num_new=16,
    ):
        assert answers == expected
        torch.testing.assert_close(torch.tensor(found), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt-j", "qwen2-moe"])
def test_a_step_sends_what_the_plan_prices(name: str, pool: Pool, tmp_path: Path) -> None:
    """Of each layer two sums, one of the embedding, and the logits that are asked for."""
    alone, cut = served(ARCHITECTURES[name], tmp_path / "alone"), served(ARCHITECTURES[name], tmp_path / "cut", tp=2)
    save_random(alone, tmp_path / "weights")
    spec = tiny_spec(without=("train", "data"), model=ARCHITECTURES[name], hardware=DEVICES)
    shape = EngineShape(tp=2, pp=1, ep=1, weights="bf16", kv_dtype="bf16")
    ops = Engine(build_graph(spec), machine_of(spec.hardware), shape).ops
    priced = 1 + sum(block.count * block.num_reductions for block in ops.blocks)
    works = [[[[0], 0, [1, 2, 3], False]], [[[0], 3, [4], True], [[1], 0, [5], True]]]
    for rank in pool.run(
        "sent_in_steps", world_size=2, folder=str(cut), weights=str(tmp_path / "weights"), works=works
    ):
        assert rank[0] == [["all_reduce", 3 * 64]] * priced
        assert rank[1] == [*[["all_reduce", 2 * 64]] * priced, ["all_gather_single", 2 * 512]]


@pytest.mark.parametrize("degrees", [{"tp": 2}, {"pp": 2}])
def test_with_fixed_shapes_a_request_gets_the_same_bits_alone_and_in_company(
    degrees: dict[str, int], pool: Pool, tmp_path: Path
) -> None:
    served({}, tmp_path / "alone")
    save_random(tmp_path / "alone", tmp_path / "weights")
    cut = served({}, tmp_path / "cut", serve={"shapes": "fixed"}, **degrees)
    for same in pool.run("answer_in_company", world_size=2, folder=str(cut), weights=str(tmp_path / "weights")):
        assert len(same) == 16
        assert all(same)
