"""The kernels of servers on CPUs beside their linear layers: against float64, as custom ops, and without a compiler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kernel_samples as samples
import pytest
import torch
from kernel_samples import DTYPES, TORCH
from kernel_workshop import Workshop
from numerics import random
from torch._subclasses.fake_tensor import FakeTensorMode

from llmc.compiler.kernels.described import sizes_of
from llmc.compiler.kernels.kernel import DType, Kernel
from llmc.runtimes.kernels.checks.cases import cases_of
from llmc.runtimes.kernels.checks.rule import compare
from llmc.runtimes.kernels.native import CHOICE

ATTENTION: dict[str, Mapping[str, Any]] = {
    "grouped": {},
    "one-key-head": {"num_heads": 7, "num_kv_heads": 1, "head_dim": 48},
    "wide-heads-in-a-window": {"num_heads": 2, "num_kv_heads": 2, "head_dim": 128, "window": 20},
    "no-rotation": {"has_rope": False},
    "int8": {"has_int8_cache": True},
    "int8-wide-heads-in-a-window": {
        "num_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 128,
        "window": 20,
        "has_int8_cache": True,
    },
    "int8-one-key-head": {"num_heads": 7, "num_kv_heads": 1, "head_dim": 48, "has_rope": False, "has_int8_cache": True},
}
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def check(workshop: Workshop, view: Kernel, *rows: int) -> None:
    module = workshop.make(view)
    found = 0
    for case in cases_of(sizes_of(view), module, rows=rows):
        for each in compare(case.function, case.eager, case.inputs, eps=case.eps):
            assert each.holds, f"{case.name}, {each.what}: error {each.error:.1e}, allowed {each.allowed:.1e}"
            found += 1
    assert found >= len(rows)


@dtypes
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_of_running_answers(workshop: Workshop, dtype: DType, name: str) -> None:
    check(workshop, samples.decode_attention(dtype, **ATTENTION[name]), 1, 15, 17, 300, 600)


@dtypes
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_of_prompts(workshop: Workshop, dtype: DType, name: str) -> None:
    check(workshop, samples.prefill_attention(dtype, **ATTENTION[name]), 1, 15, 130, 300)


@dtypes
@pytest.mark.parametrize("hidden_size", [7, 64])
def test_sum_and_norm(workshop: Workshop, dtype: DType, hidden_size: int) -> None:
    check(workshop, samples.add_rms_norm(dtype, hidden_size=hidden_size, has_backward=False), 1, 5, 13)


@dtypes
@pytest.mark.parametrize("name", ["swiglu", "geglu_tanh"])
def test_gated_activation(workshop: Workshop, dtype: DType, name: str) -> None:
    check(workshop, samples.gated_linear(dtype, eager=name, size=37, has_backward=False), 1, 5, 13)


def tokens(count: int = 2, capacity: int = 8) -> tuple[torch.Tensor, ...]:
    """What decode_attention of the default sample takes."""
    angles = torch.arange(count)[:, None] * torch.ones(16)
    read = torch.arange(count * capacity).view(count, capacity)
    cache = random(count * capacity, 2, 32, seed=1), random(count * capacity, 2, 32, seed=2)
    lengths = torch.full((count,), capacity // 2)
    return (random(count, 1, 8 * 32), angles.cos(), angles.sin(), *cache, read[:, 3:4].contiguous(), read, lengths)


def pieces() -> tuple[torch.Tensor, ...]:
    """What prefill_attention takes: three tokens of one prompt and two of another, of which one token came before."""
    _, _, _, *cache, _, read, _ = tokens()
    positions = torch.tensor([0, 1, 2, 1, 2])
    angles = positions[None, :, None] * torch.ones(16)
    written = read[torch.tensor([0, 0, 0, 1, 1]), positions]
    turns = angles.cos(), angles.sin()
    return (random(1, 5, 8 * 32), *turns, *cache, written, read, positions, torch.tensor([0, 3, 5]))


def test_custom_ops_for_those_who_trace(workshop: Workshop) -> None:
    attention = workshop.make(samples.decode_attention("fp32"))
    prompts = workshop.make(samples.prefill_attention("fp32"))
    norm = workshop.make(samples.add_rms_norm("fp32", hidden_size=16, has_backward=False))
    gate = workshop.make(samples.gated_linear("fp32", eager="swiglu", size=8, has_backward=False))
    x, weight = random(3, 16), random(16)
    for op, args in (
        (attention.attention, tokens()),
        (prompts.attention, pieces()),
        (norm.sum_and_norm, (x, x, weight)),
        (gate.gated, (x,)),
    ):
        torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert attention.decode_attention(torch.empty(2, 1, 8 * 32), *tokens()[1:]).shape == (2, 1, 4 * 32)
        assert prompts.prefill_attention(torch.empty(1, 5, 8 * 32), *pieces()[1:]).shape == (1, 5, 4 * 32)
        assert gate.swiglu(torch.empty(2, 5, 16)).shape == (2, 5, 8)
        assert [each.dtype for each in norm.add_rms_norm(None, torch.empty(2, 16), weight)] == [torch.float32] * 2


@torch.no_grad()
def test_the_eager_twins_say_the_same(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for choice in (None, "eager"):
        if choice is not None:
            monkeypatch.setenv(CHOICE, choice)
        attention = workshop.make(samples.decode_attention("fp32"))
        prompts = workshop.make(samples.prefill_attention("fp32"))
        norm = workshop.make(samples.add_rms_norm("fp32", hidden_size=16, has_backward=False))
        gate = workshop.make(samples.gated_linear("fp32", eager="swiglu", size=8, has_backward=False))
        x = random(3, 16)
        args, prompt = tokens(), pieces()
        answers = (attention.decode_attention(*args), *args[3:5], prompts.prefill_attention(*prompt), *prompt[3:5])
        found.append((*answers, *norm.add_rms_norm(x, x, x[0]), gate.swiglu(x)))
    for compiled, eager in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-5)


def test_sums_are_made_of_what_was_generated_for(workshop: Workshop) -> None:
    kernel = workshop.make(samples.add_rms_norm("fp32", hidden_size=16, has_backward=False))
    with pytest.raises(AssertionError):
        kernel.add_rms_norm(None, random(3, 15), random(15))
    assert TORCH["fp32"] == torch.float32


@pytest.mark.parametrize("bounds", [(0, 3), (0, 3, 6), (0, 3, 4)])
def test_pieces_are_all_tokens(workshop: Workshop, bounds: tuple[int, ...]) -> None:
    prompts = workshop.make(samples.prefill_attention("fp32"))
    with pytest.raises(AssertionError, match="pieces are all there is"):
        prompts.prefill_attention(*pieces()[:-1], torch.tensor(bounds))
