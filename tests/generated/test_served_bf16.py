"""Servers on CPUs in bf16: with their kernels they compute what the plain program computes with the same weights."""

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
from programs import TINY, build, imported, tiny_spec, tree_of
from test_few_bits import SHAPED, decoded, saved, wanted
from torch import nn

from llmc.runtimes.kernels.checks.rule import within
from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.pytorch.packed import packed_weights
from llmc.runtimes.pytorch.weights import load_weights, save_weights
from llmc.runtimes.serving.work import Chunk

SERVE = TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}}
BF16 = torch.bfloat16


pytestmark = pytest.mark.usefixtures("compiled_kernels")


@contextmanager
def program(folder: Path, name: str, **serve: Any) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The modules `model` and `serve`."""
    spec = tiny_spec(without=("train", "data"), model=copy.deepcopy(ARCHITECTURES[name]), serve=SERVE | serve)
    with imported(build(spec, folder), "model", "serve") as (model, server):
        yield model, server


def plain_and_exact(folder: Path, name: str) -> tuple[nn.Module, nn.Module]:
    """A program of PyTorch's ops in bf16 and in fp32, with the same weights, which are in folder/weights."""
    plain = saved(folder, name).to(BF16)
    save_weights(plain, folder / "weights")
    return plain, copy.deepcopy(plain).float()


@pytest.mark.parametrize("name", SHAPED)
@torch.no_grad()
def test_logits_are_as_near_to_exact_ones_as_those_of_plain_pytorch(name: str, tmp_path: Path) -> None:
    (plain, exact), tokens = plain_and_exact(tmp_path, name), torch.randint(0, 512, (2, 24))
    theirs, truth = plain.logits(plain(tokens)), exact.logits(exact(tokens))
    with program(tmp_path / "served", name) as (module, _):
        model = module.Model().to(BF16)
        load_weights(model, tmp_path / "weights")
        assert len(packed_weights(model)) >= 3 * 4
        for what, mine, (plain_ones, exact_ones) in (
            ("forward", model.logits(model(tokens)), (theirs, truth)),
            ("decode", decoded(module, model, tokens, dtype=BF16), (wanted(theirs), wanted(truth))),
        ):
            found = within(mine, plain=plain_ones, exact=exact_ones, eps=torch.finfo(BF16).eps, what=what)
            assert found.holds, found


@torch.no_grad()
def test_a_machine_without_a_compiler_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "eager")
    test_logits_are_as_near_to_exact_ones_as_those_of_plain_pytorch("llama", tmp_path)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@torch.no_grad()
def test_greedy_answers_are_those_of_exact_logits(name: str, tmp_path: Path) -> None:
    """Where two tokens are nearer than bf16 tells apart, either is an answer; elsewhere it is the best one."""
    (_, exact), tokens = plain_and_exact(tmp_path, name), torch.randint(0, 512, (1, 8))
    num_clear = 0
    with program(tmp_path / "served", name) as (module, server):
        model = module.Model().to(BF16)
        load_weights(model, tmp_path / "weights")
        runner = server.Runner(model, module.KVCache(64, server.BLOCK_TOKENS, BF16))
        blocks = list(range(8))
        logits = runner.step([Chunk(blocks, 0, tokens[0].tolist(), True)])
        for _ in range(24):
            wanted = exact.logits(exact(tokens))[0, -1]
            first, second = wanted.topk(2).values.tolist()
            chosen = int(logits[0].argmax())
            noise = 2 * float((logits[0] - wanted).abs().max())
            assert noise < 0.1 * float(wanted.abs().max())
            assert chosen == int(wanted.argmax()) or first - float(wanted[chosen]) < noise
            num_clear += first - second > noise
            logits = runner.step([Chunk(blocks, tokens.shape[1], [chosen], True)])
            tokens = torch.cat((tokens, torch.tensor([[chosen]])), dim=1)
    assert num_clear >= 6


@pytest.mark.parametrize("name", ["llama", "mistral"])
@torch.no_grad()
def test_steps_are_recorded_and_repeated(name: str, tmp_path: Path) -> None:
    plain_and_exact(tmp_path, name)
    with program(tmp_path / "served", name) as (module, _):
        model = module.Model().to(BF16)
        load_weights(model, tmp_path / "weights")
        cache = module.KVCache(64, 4, BF16)
        for at in range(3):
            tokens, positions = torch.randint(0, 512, (2, 1)), torch.full((2, 1), at)
            model.decode(tokens, positions, torch.arange(64).view(2, 32), cache)
        (recording,) = cache.replay._recorded.values()
        assert recording is not None
        assert len(recording.calls) == 3 * 8 + 1  # four linear layers, two norms, attention and gate; the last norm


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "post-norm", "mistral"])
@torch.no_grad()
def test_last_layer_feeds_forward_only_the_last_token_of_each_piece(name: str, tmp_path: Path) -> None:
    """All others have keys and values there, by which answers go on."""
    plain_and_exact(tmp_path, name)
    with program(tmp_path / "served", name) as (module, server):
        model, shapes = module.Model().to(BF16), []
        load_weights(model, tmp_path / "weights")
        for layer in model.layers:
            layer.mlp.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[:2])))
        cache, prompts = module.KVCache(64, server.BLOCK_TOKENS, BF16), ([5, 6, 7], [8, 9])
        found = server.Runner(model, cache).step([Chunk([at], 0, tokens, True) for at, tokens in enumerate(prompts)])
        assert shapes == [(1, 5)] * (len(shapes) - 1) + [(1, 2)]
        assert int(cache.keys[-1].flatten(1).any(1).sum()) == 5
        for logits, tokens in zip(found, prompts, strict=True):
            expected = model.logits(model(torch.tensor([tokens])))[0, -1].float()
            assert float((logits - expected).abs().max()) < 0.03 * float(expected.abs().max())


@pytest.mark.parametrize("length", [10, 40, 70])
@torch.no_grad()
def test_a_padded_prompt_has_the_logits_of_its_last_token(length: int, tmp_path: Path) -> None:
    """With fixed shapes the last token is repeated up to one of few lengths, at its own position."""
    plain_and_exact(tmp_path, "llama")
    with program(tmp_path / "served", "llama", shapes="fixed") as (module, server):
        model = module.Model().to(BF16)
        load_weights(model, tmp_path / "weights")
        assert length not in server.PREFILL_LENGTHS
        runner, tokens = (
            server.Runner(model, module.KVCache(64, server.BLOCK_TOKENS, BF16)),
            list(range(40, 40 + length)),
        )
        blocks = list(range(-(-length // server.BLOCK_TOKENS)))
        for begin in range(0, length, max(server.PREFILL_LENGTHS)):
            piece = tokens[begin : begin + max(server.PREFILL_LENGTHS)]
            logits = runner.step([Chunk(blocks, begin, piece, True)])
        expected = model.logits(model(torch.tensor([tokens])))[0, -1].float()
        assert float((logits[0] - expected).abs().max()) < 0.03 * float(expected.abs().max())


@torch.no_grad()
def test_with_fixed_shapes_a_request_gets_the_same_bits_in_any_place(tmp_path: Path) -> None:
    plain_and_exact(tmp_path, "llama")
    with program(tmp_path / "served", "llama", shapes="fixed") as (module, server):
        model = module.Model().to(BF16)
        load_weights(model, tmp_path / "weights")
        runner = server.Runner(model, module.KVCache(64, server.BLOCK_TOKENS, BF16))
        prompt = list(range(40, 50))
        runner.step([Chunk([at], 0, prompt, False) for at in (2, 3, 4, 5)])
        own, others = Chunk([2], 10, [7], True), [Chunk([at], 10, [at], True) for at in (3, 4, 5)]
        alone = runner.step([own])[0]
        for place in range(server.MAX_BATCH):
            work = [*others[:place], own, *others[place:]][: server.MAX_BATCH]
            assert torch.equal(runner.step(work)[place], alone)


def test_weights_take_twelve_bits_each(tmp_path: Path) -> None:
    with program(tmp_path, "llama") as (module, _):
        layers = packed_weights(module.Model())
    told = sum(each.num_bytes for each in layers.values())
    assert told == pytest.approx(sum(1.5 * each.weight.numel() for each in layers.values()), rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"serve": SERVE | {"kv_cache": {"dtype": "fp32"}}},
        {"serve": SERVE | {"weights": {"dtype": "fp32"}}},
        {"without": ()},
        {"model": ARCHITECTURES["mixtral"]},
        {"model": ARCHITECTURES["deepseek-v2"]},
    ],
    ids=["another-cache", "fp32", "trains-too", "experts", "latent-attention"],
)
def test_other_servers_keep_the_ops_of_pytorch(changes: dict[str, Any]) -> None:
    tree = tree_of(tiny_spec(**{"without": ("train", "data"), "serve": SERVE} | changes))
    assert not [path for path in tree.texts if "bf16_linear" in path or "decode_attention" in path]
