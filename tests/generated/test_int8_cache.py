"""Servers whose keys and values are kept in int8: near to exact ones, and the same whatever the company."""

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
from test_few_bits import saved

from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.pytorch.weights import load_weights
from llmc.runtimes.reference.int8_cache import from_int8, to_int8
from llmc.runtimes.serving.work import Chunk

BF16 = torch.bfloat16
PIECES = [(0, 5), (5, 9), *((at, at + 1) for at in range(9, 24))]
"""Of prompts, in two steps, and of answers, one token after the other."""


pytestmark = pytest.mark.usefixtures("compiled_kernels")


@contextmanager
def program(folder: Path, name: str, weights: str, **serve: Any) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The modules `model` and `serve`."""
    served = TINY["serve"] | {"weights": {"dtype": weights}, "kv_cache": {"dtype": "int8"}} | serve
    spec = tiny_spec(without=("train", "data"), model=copy.deepcopy(ARCHITECTURES[name]), serve=served)
    with imported(build(spec, folder), "model", "serve") as (model, server):
        yield model, server


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("llama", "fp32"),
        ("gemma2", "fp32"),
        ("llama", "bf16"),
        ("gpt2", "bf16"),
        ("mistral", "int8"),
        ("qwen3", "fp32"),
    ],
)
@torch.no_grad()
def test_logits_are_near_to_exact_ones(name: str, weights: str, tmp_path: Path) -> None:
    """With kernels and with PyTorch's ops: rounding keys and values costs next to nothing, and it does cost something."""
    plain, tokens = saved(tmp_path, name), torch.randint(0, 512, (2, 24))
    exact = plain.logits(plain(tokens)).log_softmax(-1)
    with program(tmp_path / "served", name, weights) as (module, _):
        model = module.Model().to(torch.float32 if weights == "fp32" else BF16)
        load_weights(model, tmp_path / "weights")
        cache = module.KVCache(num_blocks=32, block_tokens=4, dtype=torch.int8)
        hidden = hidden_after(model, tokens, PIECES, cache=cache, blocks=torch.arange(32).view(2, 16))
        logits = model.logits(hidden).float()
        assert cache.keys.dtype == cache.values.dtype == torch.int8
        assert bool(cache.key_scales[:, :24].any())
    exact = exact[:, [end - 1 for _, end in PIECES]]
    divergence = (exact.exp() * (exact - logits.log_softmax(-1))).sum(-1)
    assert 0 < float(divergence.mean()) < 2e-3


@torch.no_grad()
def test_a_machine_without_a_compiler_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "eager")
    test_logits_are_near_to_exact_ones("llama", "bf16", tmp_path)


@torch.no_grad()
def test_with_fixed_shapes_a_request_gets_the_same_bits_in_any_company(tmp_path: Path) -> None:
    """Its answer too, token by token, and with a prompt whose first blocks somebody else computed."""
    saved(tmp_path, "llama")
    serve = {"shapes": "fixed", "kv_cache": {"dtype": "int8", "prefix_cache": True}}
    with program(tmp_path / "served", "llama", "bf16", **serve) as (module, server):
        model = module.Model().to(BF16)
        load_weights(model, tmp_path / "weights")
        runner = server.Runner(model, module.KVCache(64, server.BLOCK_TOKENS, torch.int8))
        prompt, length = list(range(40, 80)), server.BLOCK_TOKENS
        first = runner.step([Chunk([2, 3, 4], 0, prompt, True)])
        shared = runner.step([Chunk([2, 5, 6], length, prompt[length:], True)])
        assert torch.equal(first, shared)
        others = [Chunk([at], 0, prompt[: 3 * at], False) for at in (3, 4)]
        runner.step([Chunk([9 + at], 0, chunk.tokens, False) for at, chunk in enumerate(others)])
        token = int(first[0].argmax())
        for at in range(len(prompt), len(prompt) + 6):
            alone = runner.step([Chunk([2, 5, 6], at, [token], True)])[0]
            company = [Chunk([9 + other], at - 30, [at], True) for other in range(2)]
            together = runner.step([company[0], Chunk([2, 5, 6], at, [token], True), company[1]])[1]
            assert torch.equal(alone, together)
            token = int(alone.argmax())


def test_codes_are_those_of_the_rounded_scale() -> None:
    x = torch.randn(64, 3, 32) * torch.logspace(-3, 3, 64)[:, None, None]
    codes, scales = to_int8(x)
    found = from_int8(codes, scales, dtype=torch.float32)
    assert float(((found - x).abs() / scales.float()[..., None]).max()) <= 0.501
    assert int(codes.abs().max()) <= 127
    assert int(codes.abs().amax(-1).min()) >= 126
    zeros = to_int8(torch.zeros(2, 4))
    assert torch.equal(from_int8(*zeros, dtype=BF16), torch.zeros(2, 4, dtype=BF16))
