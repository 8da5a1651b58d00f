"""Each kernel and its gradients against float64, in fp32 and bf16, at odd sizes (numerics.py has the rule)."""

from __future__ import annotations

from functools import partial
from typing import Any

import kernel_samples as samples
import pytest
import torch
import torch.nn.functional as F
from kernel_samples import DTYPES, TORCH
from kernel_workshop import Workshop
from numerics import assert_accurate, error, random, run
from torch import Tensor

from llmc.compiler.kernels.kernel import DType
from llmc.runtimes.reference import activation
from llmc.runtimes.reference.attention import causal_attention
from llmc.runtimes.reference.embedding import embed
from llmc.runtimes.reference.loss import linear_cross_entropy
from llmc.runtimes.reference.norm import add_rms_norm

dtypes = pytest.mark.parametrize("dtype", DTYPES)


@dtypes
@pytest.mark.parametrize("hidden_size", [7, 64, 100])
@pytest.mark.parametrize("unit_offset", [False, True])
def test_add_rms_norm(workshop: Workshop, dtype: DType, hidden_size: int, unit_offset: bool) -> None:
    kernel = workshop.make(samples.add_rms_norm(dtype, hidden_size=hidden_size, unit_offset=unit_offset))
    eager = partial(add_rms_norm, eps=1e-5, unit_offset=unit_offset)
    x, branch = random(2, 5, hidden_size, seed=1), random(2, 5, hidden_size, seed=2).to(TORCH[dtype])
    weight = random(hidden_size, seed=3)
    weight[0] = 0.0  # what is divided by it in some implementations
    assert_accurate(kernel.add_rms_norm, eager, (x, branch, weight))
    assert_accurate(partial(kernel.add_rms_norm, None), partial(eager, None), (branch, weight))


@dtypes
def test_add_rms_norm_whose_stream_has_no_reader(workshop: Workshop, dtype: DType) -> None:
    kernel = workshop.make(samples.add_rms_norm(dtype, hidden_size=64))
    x, branch = random(3, 64, seed=1), random(3, 64, seed=2).to(TORCH[dtype])
    eager = partial(add_rms_norm, eps=1e-5)
    assert_accurate(
        lambda *args: kernel.add_rms_norm(*args)[1], lambda *args: eager(*args)[1], (x, branch, random(64, seed=3))
    )


@dtypes
@pytest.mark.parametrize("name", ["swiglu", "geglu_tanh"])
@pytest.mark.parametrize(("size", "has_bias"), [(5, True), (96, False)])
def test_gated_linear(workshop: Workshop, dtype: DType, name: str, size: int, has_bias: bool) -> None:
    view = samples.gated_linear(dtype, eager=name, size=size, has_bias=has_bias)
    kernel, activate = getattr(workshop.make(view), view.name), getattr(activation, name)
    gate_up, weight = random(2, 3, 2 * size, seed=1, scale=3.0), random(11, size, seed=2)
    bias = (random(11, seed=3, dtype=TORCH[dtype]),) if has_bias else ()
    inputs = gate_up.to(TORCH[dtype]), weight.to(TORCH[dtype]), *bias
    assert_accurate(kernel, lambda gate_up, *rest: F.linear(activate(gate_up), *rest), inputs)


@pytest.mark.parametrize("name", ["swiglu", "geglu_tanh"])
def test_gated_linear_far_from_zero(workshop: Workshop, name: str) -> None:
    view = samples.gated_linear("fp32", eager=name, size=4)
    kernel = getattr(workshop.make(view), view.name)
    gate_up = torch.tensor([[-1e4, -100.0, 100.0, 1e4, 1.0, 1.0, 1.0, 1.0]])
    out, *grads = run(kernel, (gate_up, torch.eye(4)))
    assert torch.allclose(out, torch.tensor([[0.0, 0.0, 100.0, 1e4]]))
    assert all(torch.isfinite(grad).all() for grad in grads)


@dtypes
@pytest.mark.parametrize("num_tokens", [1, 150])
@pytest.mark.parametrize(("size", "depth"), [(16, 80), (208, 48), (128, 32)])
def test_linear(workshop: Workshop, dtype: DType, num_tokens: int, size: int, depth: int) -> None:
    kernel = workshop.make(samples.linear(dtype))
    kernel.pays = lambda rows: True
    x, weight, bias = random(1, num_tokens, depth, seed=1), random(size, depth, seed=2), random(size, seed=3)
    inputs = x.to(TORCH[dtype]), weight.to(TORCH[dtype]), bias.to(TORCH[dtype])
    assert_accurate(kernel.linear, F.linear, inputs[:2])
    assert_accurate(kernel.linear, F.linear, inputs)


@dtypes
@pytest.mark.parametrize("num_tokens", [30, 150])
def test_gradient_of_a_weight_is_added_up_in_fp32(workshop: Workshop, dtype: DType, num_tokens: int) -> None:
    kernel = workshop.make(samples.linear(dtype))
    kernel.pays = lambda rows: True
    d_y, x = (random(num_tokens, size, seed=size, dtype=TORCH[dtype]) for size in (208, 80))
    total, exact = random(208, 80, seed=3), d_y.double().T @ x.double()
    found = kernel.add_to_weight(total.clone(), d_y, x).double() - total.double()
    assert error(found, exact) < 5e-6


@pytest.mark.parametrize("size", [96, 100])
def test_linear_is_that_of_pytorch_for_other_sizes(workshop: Workshop, size: int) -> None:
    kernel = workshop.make(samples.linear("bf16"))
    kernel.pays = lambda rows: rows > 10
    calls: list[str] = []
    kernel.native.call = lambda product, *args: calls.append(product)
    for num_tokens in (10, 20):
        x, weight = random(num_tokens, 64, dtype=torch.bfloat16), random(size, 64, dtype=torch.bfloat16)
        kernel.linear(x.requires_grad_(), weight.requires_grad_()).sum().backward()
    assert calls == (["output", "to_input", "to_weight"] if size == 96 else [])


@dtypes
@pytest.mark.parametrize("num_tokens", [1, 7, 64, 65, 150])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_kv_heads": 4, "head_dim": 16, "window": 20},
        {"num_heads": 3, "num_kv_heads": 1, "head_dim": 48, "has_rope": False},
        {"num_heads": 2, "num_kv_heads": 1, "head_dim": 128, "window": 70},
    ],
    ids=["grouped", "window", "single-head-no-rope", "wide"],
)
def test_causal_attention(workshop: Workshop, dtype: DType, num_tokens: int, sizes: dict[str, Any]) -> None:
    view = samples.causal_attention(dtype, **sizes)
    kernel = workshop.make(view).causal_attention
    row = (view.num_heads + 2 * view.num_kv_heads) * view.head_dim
    qkv = random(2, num_tokens, row, dtype=TORCH[dtype], scale=1.5)
    angles = torch.arange(num_tokens)[:, None] * 100.0 ** -torch.linspace(0, 1, view.head_dim // 2)
    turns = (angles.cos(), angles.sin()) if view.has_rope else None

    def eager(qkv: Tensor) -> Tensor:
        heads = {"num_heads": view.num_heads, "num_kv_heads": view.num_kv_heads}
        turned = None if turns is None else tuple(each.to(_at_least_fp32(qkv)) for each in turns)
        return causal_attention(qkv, turned, **heads, scale=view.scale, window=view.window)  # pyright: ignore[reportArgumentType]

    assert_accurate(lambda qkv: kernel(qkv, *(turns or ())), eager, (qkv,))


def _at_least_fp32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


@dtypes
@pytest.mark.parametrize("num_tokens", [1, 64, 150])
@pytest.mark.parametrize(
    "choices",
    [{}, {"z_loss": 1e-2}, {"has_bias": True}, {"softcap": 3.0, "language": "pytorch", "z_loss": 1e-2}],
    ids=["plain", "z-loss", "bias", "softcap"],
)
def test_linear_cross_entropy(workshop: Workshop, dtype: DType, num_tokens: int, choices: dict[str, Any]) -> None:
    view = samples.linear_cross_entropy(dtype, **choices)
    kernel = workshop.make(view).linear_cross_entropy
    hidden, weight = random(num_tokens, 48, seed=1), random(1003, 48, seed=2, scale=0.3)
    targets = torch.randint(0, 1003, (num_tokens,), generator=torch.Generator().manual_seed(3))
    bias = (random(1003, seed=4).to(TORCH[dtype]),) if view.has_bias else ()
    eager = partial(linear_cross_entropy, z_loss=view.z_loss, softcap=view.softcap)
    assert_accurate(kernel, eager, (hidden.to(TORCH[dtype]), weight.to(TORCH[dtype]), targets, *bias))


def test_linear_cross_entropy_scales_its_gradients_once(workshop: Workshop) -> None:
    kernel = workshop.make(samples.linear_cross_entropy("fp32")).linear_cross_entropy
    inputs = random(5, 48, seed=1), random(1003, 48, seed=2), torch.arange(5)
    plain, scaled = run(kernel, inputs), run(lambda *args: kernel(*args) / 8, inputs)
    assert error(scaled[1] * 8, plain[1]) == 0.0
    assert error(scaled[2] * 8, plain[2]) == 0.0
    loss = kernel(inputs[0].requires_grad_(), *inputs[1:])
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="earlier backward pass"):
        loss.backward()


def test_linear_cross_entropy_without_gradients_leaves_no_trace(workshop: Workshop) -> None:
    kernel = workshop.make(samples.linear_cross_entropy("fp32")).linear_cross_entropy
    hidden, weight, targets = random(150, 48, seed=1), random(1003, 48, seed=2), torch.arange(150)
    loss = kernel(hidden, weight, targets)
    assert loss.grad_fn is None
    assert torch.allclose(loss, linear_cross_entropy(hidden, weight, targets))


def test_embed(workshop: Workshop) -> None:
    kernel = workshop.make(samples.embed(vocab_size=11, hidden_size=8)).embed
    tokens = torch.randint(0, 9, (3, 7), generator=torch.Generator().manual_seed(1))
    inputs = tokens, random(11, 8, dtype=torch.bfloat16)
    rows, grad = run(kernel, inputs)
    exact_rows, exact_grad = run(embed, (tokens, inputs[1].double()))
    assert error(rows, exact_rows) == 0.0
    assert error(grad, exact_grad) <= torch.finfo(torch.bfloat16).eps


def test_embed_counts_every_occurrence_of_a_frequent_token(workshop: Workshop) -> None:
    kernel = workshop.make(samples.embed(vocab_size=2, hidden_size=1)).embed
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    kernel(torch.zeros(4, 1024, dtype=torch.int64), weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [4096.0, 0.0]  # a sum in bf16 would end at 256
