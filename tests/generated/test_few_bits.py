"""Servers whose weights are kept in few bits: they compute what the plain program computes with the rounded weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from programs import TINY, build, imported, tiny_spec
from served import hidden_after
from torch import Tensor, nn

from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.pytorch.inputs import measure_inputs
from llmc.runtimes.pytorch.packed import packed_weights
from llmc.runtimes.pytorch.weights import load_weights, save_weights
from llmc.runtimes.reference.weight_only import dequantise, quantise

FORMATS: dict[str, dict[str, Any]] = {
    "int8": {"dtype": "int8"},
    "int4": {"dtype": "int4"},
    "int4-with-offsets": {"dtype": "int4", "symmetric": False, "group": 64},
}
SHAPED = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2", "bloom", "mistral")
"""Biases, tied and scaled heads, windows, caps, other activations, norms of heads, blocks and positions."""


pytestmark = pytest.mark.usefixtures("compiled_kernels")


@contextmanager
def program(folder: Path, name: str, weights: dict[str, Any]) -> Iterator[ModuleType]:
    serve = TINY["serve"] | {"weights": weights}
    spec = tiny_spec(without=("train", "data"), model=copy.deepcopy(ARCHITECTURES[name]), serve=serve)
    with imported(build(spec, folder), "model") as (module,):
        yield module


def saved(folder: Path, name: str) -> nn.Module:
    """A plain model with random weights, which are in folder/weights as well."""
    with program(folder / "plain", name, {"dtype": "fp32"}) as module:
        model = module.Model()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
        save_weights(model, folder / "weights")
        return model


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", SHAPED)
@torch.no_grad()
def test_logits_are_those_of_the_rounded_weights(name: str, format: str, tmp_path: Path) -> None:
    plain, tokens = saved(tmp_path, name), torch.randint(0, 512, (2, 24))
    with program(tmp_path / "packed", name, FORMATS[format]) as module:
        model = module.Model()
        load_weights(model, tmp_path / "weights")
        parameters = dict(plain.named_parameters())
        assert len(packed_weights(model)) >= 3 * 4
        for key, layer in packed_weights(model).items():
            parameters[key].copy_(dequantise(layer.unpacked(), group=layer.group))
        expected = plain.logits(plain(tokens))
        torch.testing.assert_close(model.logits(model(tokens)), expected, atol=2e-4, rtol=0)
        torch.testing.assert_close(decoded(module, model, tokens), wanted(expected), atol=2e-4, rtol=0)


@torch.no_grad()
def test_a_machine_without_a_compiler_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "eager")
    test_logits_are_those_of_the_rounded_weights("llama", "int4-with-offsets", tmp_path)


@pytest.mark.parametrize("weights", ["int8", "int4"])
@torch.no_grad()
def test_rounded_activations_are_those_of_a_machine_without_a_compiler(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs in the last digit may be rounded to the code beside: a step of a group, of which a sum has many."""
    saved(tmp_path, "qwen2")
    tokens, found = torch.randint(0, 512, (2, 24)), []
    for choice in ("", "eager"):
        monkeypatch.setenv(CHOICE, choice)
        with program(tmp_path / (choice or "kernels"), "qwen2", {"dtype": weights, "activations": "int8"}) as module:
            model = module.Model()
            load_weights(model, tmp_path / "weights")
            found.append(model.logits(model(tokens)))
            assert_close_on_average(decoded(module, model, tokens), wanted(found[-1]))
    kernels, eager = found
    assert_close_on_average(kernels, eager)
    with program(tmp_path / "plain-activations", "qwen2", {"dtype": weights}) as module:
        model = module.Model()
        load_weights(model, tmp_path / "weights")
        off = (kernels - model.logits(model(tokens))).abs()
    assert 0.001 < off.mean() < 0.05


def assert_close_on_average(found: Tensor, expected: Tensor) -> None:
    off = (found - expected).abs()
    assert float(off.max()) < 0.1
    assert float(off.mean()) < 0.003


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@torch.no_grad()
def test_greedy_answers_in_eight_bits_follow_plain_logits(name: str, tmp_path: Path) -> None:
    plain, tokens = saved(tmp_path, name), torch.randint(0, 512, (1, 8))
    with program(tmp_path / "packed", name, FORMATS["int8"]) as module:
        model = module.Model()
        load_weights(model, tmp_path / "weights")
        for _ in range(16):
            logits, exact = decoded(module, model, tokens)[:, -1], plain.logits(plain(tokens))[:, -1]
            assert float((logits.log_softmax(-1) - exact.log_softmax(-1)).abs().max()) < 0.1
            chosen = logits.argmax(-1)
            assert float(exact.max() - exact[0, chosen[0]]) < 0.05  # the best, or as good as it
            tokens = torch.cat((tokens, chosen[None]), dim=1)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
@torch.no_grad()
def test_steps_are_recorded_where_layers_only_start_kernels(name: str, tmp_path: Path) -> None:
    """Llama's and Mistral's do; GPT-2's norms are PyTorch's."""
    saved(tmp_path, name)
    with program(tmp_path / "packed", name, FORMATS["int8"]) as module:
        model = module.Model()
        load_weights(model, tmp_path / "weights")
        cache = module.KVCache(num_blocks=64, block_tokens=4, dtype=torch.float32)
        if name == "gpt2":
            assert not hasattr(cache, "replay")
            return
        for at in range(3):
            tokens, positions = torch.randint(0, 512, (2, 1)), torch.full((2, 1), at)
            model.decode(tokens, positions, torch.arange(64).view(2, 32), cache)
        (recording,) = cache.replay._recorded.values()
        assert recording is not None
        assert len(recording.calls) == 3 * 8 + 1  # four linear layers, two norms, attention and gate; the last norm


@torch.no_grad()
def test_four_bits_go_by_what_layers_are_given(tmp_path: Path) -> None:
    """A norm makes one column large: scales of the layer behind it are chosen for that column."""
    plain = saved(tmp_path, "llama")
    large = dict(plain.named_parameters())["layers.1.mlp_norm.weight"]
    large[3] = 30.0
    save_weights(plain, tmp_path / "weights")
    with program(tmp_path / "packed", "llama", {"dtype": "int4"}) as module:
        model = module.Model()
        load_weights(model, tmp_path / "weights")
        inputs, layers = measure_inputs(model), packed_weights(model)
        assert inputs.keys() == layers.keys()
        assert all("forward" not in vars(layer) for layer in layers.values())
        behind = inputs[name := "layers.1.mlp.gate_up.weight"]
        assert behind.argmax() == 3
        assert behind[3] > 100 * behind.median()
        weight = dict(plain.named_parameters())[name]
        blind = dequantise(quantise(weight, bits=4, group=64), group=64)
        kept = dequantise(layers[name].unpacked(), group=64)
        lost = [float((behind * (each - weight).square()).mean()) for each in (kept, blind)]
        assert lost[0] < 0.5 * lost[1]


@pytest.mark.parametrize(("weights", "bits"), [("int8", 8.25), ("int4", 4.25)])
@torch.no_grad()
def test_weights_take_the_memory_that_the_plan_counts(weights: str, bits: float, tmp_path: Path) -> None:
    """In groups of 32, for whole panels of sixteen rows, and two bytes for the unit of a row."""
    with program(tmp_path, "llama", {"dtype": weights, "group": 32}) as module:
        layers = packed_weights(module.Model())
    size = sum(each.num_bytes for each in layers.values())
    counted = sum(each.weight.numel() for each in layers.values()) * bits / 8
    assert size == counted + 2 * sum(each.out_features for each in layers.values())


def decoded(module: ModuleType, model: Any, tokens: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits [B, T - 6, V]: after five and eight tokens, whose two pieces all sequences have together where the model can, and after
    each of the others."""
    cache = module.KVCache(num_blocks=32, block_tokens=4, dtype=dtype)
    pieces = [(0, 5), (5, 8), *((at, at + 1) for at in range(8, tokens.shape[1]))]
    return model.logits(
        hidden_after(model, tokens, pieces, cache=cache, blocks=torch.arange(32).view(2, 16)[: len(tokens)])
    )


def wanted(logits: Tensor) -> Tensor:
    """Of all tokens [B, T, V], what `decoded` returns."""
    return torch.cat((logits[:, 4:5], logits[:, 7:]), dim=1)
