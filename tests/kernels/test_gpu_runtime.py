"""Programs with Triton kernels where there is no GPU: what runs in their place, what is told, what fake tensors see."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gpu_samples as samples
import pytest
import torch
from kernel_workshop import Workshop
from numerics import random
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from llmc.compiler.kernels.add_norm import AddNorm
from llmc.compiler.kernels.causal_attention import CausalAttention
from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.reference.activation import swiglu
from llmc.runtimes.reference.norm import add_rms_norm


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return Workshop(tmp_path)


def test_tensors_of_a_cpu_take_the_eager_twin(workshop: Workshop) -> None:
    kernel = workshop.make(samples.gated("bf16", eager="swiglu", size=8)).swiglu
    gate_up = random(3, 16, dtype=torch.bfloat16)
    assert torch.equal(kernel(gate_up), swiglu(gate_up))


def test_a_gpu_without_triton_runs_the_eager_twin_and_the_price_is_named(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kernel = workshop.make(samples.gated("bf16", eager="swiglu", size=8)).swiglu
    warning = capsys.readouterr().err
    assert warning.startswith("warning: no Triton on this machine: swiglu runs in plain PyTorch")
    assert "32 more bytes through memory a token" in warning  # the active gate, 8 numbers of 2 bytes, written and read
    assert kernel(random(3, 16, dtype=torch.bfloat16)).shape == (3, 8)


def test_the_user_may_ask_for_plain_pytorch_also_of_fake_tensors(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHOICE, "eager")
    module = workshop.make(samples.gated("bf16", eager="swiglu", size=8))
    with FakeTensorMode():
        assert not module.gpu.takes(torch.empty(3, 16, dtype=torch.bfloat16), dtype=torch.bfloat16)


def kept_bytes(function: Any, *inputs: torch.Tensor) -> int:
    """Of what autograd keeps, each storage once, the inputs' own not counted."""
    kept: dict[int, int] = {}
    own = {id(each.untyped_storage()) for each in inputs}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = function(*inputs)
    assert outputs is not None
    return sum(size for storage, size in kept.items() if storage not in own)


@pytest.mark.parametrize("stream", ["fp32", "bf16"])
def test_what_a_norm_keeps_is_what_its_description_says(workshop: Workshop, stream: Any) -> None:
    view: AddNorm = samples.add_norm("bf16", hidden_size=64, stream_dtype=stream)
    kernel = workshop.make(view).add_rms_norm
    with FakeTensorMode():
        x = torch.empty(10, 64, dtype=torch.float32 if stream == "fp32" else torch.bfloat16, requires_grad=True)
        branch = torch.empty(10, 64, dtype=torch.bfloat16, requires_grad=True)
        assert kept_bytes(kernel, x, branch, torch.empty(64, requires_grad=True)) == 10 * view.saved_bytes
        total, h = kernel(x, branch, torch.empty(64))
    plain_total, plain_h = add_rms_norm(
        torch.zeros(10, 64, dtype=x.dtype),
        torch.zeros(10, 64, dtype=torch.bfloat16),
        torch.ones(64),
        eps=1e-5,
        stream=x.dtype,
    )
    assert (total.dtype, h.dtype) == (plain_total.dtype, plain_h.dtype)


@pytest.mark.parametrize("num_tokens", [100, 200])
def test_attention_keeps_memory_proportional_to_its_tokens(workshop: Workshop, num_tokens: int) -> None:
    view: CausalAttention = samples.causal_attention("bf16")
    kernel = workshop.make(view).causal_attention
    with FakeTensorMode():
        qkv = torch.empty(2, num_tokens, view.width, dtype=torch.bfloat16, requires_grad=True)
        angles = torch.empty(num_tokens, 16), torch.empty(num_tokens, 16)
        assert kept_bytes(kernel, qkv, *angles) == 2 * num_tokens * view.saved_bytes
        out = kernel(qkv, *angles)
        out.sum().backward()
    assert out.shape == (2, num_tokens, 4 * 32)
    assert qkv.grad is not None
    assert qkv.grad.shape == qkv.shape


def test_sizes_are_asserted(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel was not generated for is refused before it starts."""
    pytest.importorskip("triton")
    monkeypatch.setattr("llmc.runtimes.kernels.gpu.is_interpreted", lambda: True)
    module = workshop.make(samples.gated("bf16", eager="swiglu", size=8))
    with pytest.raises(AssertionError, match="rows of 16"):
        module.gpu.call("forward", random(3, 12, dtype=torch.bfloat16), torch.empty(3, 6, dtype=torch.bfloat16))
