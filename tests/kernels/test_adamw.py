"""AdamW over masters in two halves takes the steps of AdamW in fp32; nothing of a master is lost."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import kernel_samples as samples
import pytest
import torch
from kernel_workshop import Workshop
from numerics import random
from torch import Tensor, nn

from llmc.compiler.kernels.kernel import DType
from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.reference.adamw import join, split

GRADS: tuple[DType, ...] = ("bf16", "fp32")


def random_floats(count: int) -> Tensor:
    """Every kind of fp32 number: any bits, but for the largest exponents, which round to infinity or are not numbers."""
    bits = torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    numbers = bits.view(torch.float32)
    return numbers[numbers.abs() < 1e38]


def test_split_and_join_restore_every_bit() -> None:
    middles = torch.tensor([0x3F808000, 0x3F818000, -0x407F8000], dtype=torch.int32).view(torch.float32)
    masters = torch.cat((random_floats(100_000), middles, torch.tensor([0.0, -0.0, 1.0, -1.0])))
    weight, rest = split(masters)
    assert weight.dtype == torch.bfloat16
    assert rest.dtype == torch.int16
    assert torch.equal(join(weight, rest).view(torch.int32), masters.view(torch.int32))
    nearest = (masters.to(torch.bfloat16).float() - masters).abs()
    assert torch.equal((weight.float() - masters).abs(), nearest)


@pytest.mark.parametrize("grad_dtype", GRADS)
@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (64, 37)])
def test_steps_are_those_of_adamw_in_fp32(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, grad_dtype: DType, is_native: bool, shape: tuple[int, int]
) -> None:
    if not is_native:
        monkeypatch.setenv(CHOICE, "eager")
    kernel = workshop.make(samples.adamw(grad_dtype))
    ours = {"matrix": nn.Parameter(random(*shape, seed=1)), "vector": nn.Parameter(random(7, seed=2))}
    theirs = {name: nn.Parameter(parameter.detach().double()) for name, parameter in ours.items()}
    optimizer = kernel.AdamW(groups(ours), lr=1e-2, bf16=True)
    peer = torch.optim.AdamW(groups(theirs), lr=1e-2, betas=kernel.BETAS, eps=kernel.EPS)
    assert ours["matrix"].dtype == torch.bfloat16
    for step in range(20):
        grads = {name: random(*each.shape, dtype=torch.bfloat16, seed=10 + step) for name, each in ours.items()}
        give(optimizer, ours, grads)
        for name, parameter in theirs.items():
            parameter.grad = grads[name].double()
        norm = optimizer.grad_norm()
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)), rel=1e-5)
        optimizer.clip(norm, most=1.0)
        optimizer.step()
        optimizer.zero_grad()
        peer.step()
    matrix = join(ours["matrix"].data, optimizer.state[ours["matrix"]]["rest"])
    assert torch.allclose(matrix.double(), theirs["matrix"].data, atol=1e-6)
    assert torch.allclose(ours["vector"].double(), theirs["vector"], atol=1e-6)


def groups(parameters: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": [parameters["matrix"]], "weight_decay": 0.1},
        {"params": [parameters["vector"]], "weight_decay": 0.0},
    ]


def give(optimizer: Any, parameters: dict[str, nn.Parameter], grads: dict[str, Tensor]) -> None:
    """As a backward pass would."""
    for name, parameter in parameters.items():
        (parameter * grads[name].to(parameter.dtype)).sum().backward()
    assert (parameters["matrix"].grad is None) == hasattr(optimizer, "sums")


def test_small_steps_reach_the_master_weight(workshop: Workshop) -> None:
    """Each step is far below what bf16 can tell apart at 1, and a thousand of them are not."""
    kernel = workshop.make(samples.adamw())
    parameter = nn.Parameter(torch.ones(16, 16))
    optimizer = kernel.AdamW([{"params": [parameter]}], lr=1e-5, bf16=True)
    for _ in range(1000):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert torch.allclose(parameter.float(), torch.tensor(0.99), atol=2e-3)


def test_micro_batches_add_up_in_fp32(workshop: Workshop) -> None:
    kernel = workshop.make(samples.adamw("fp32"))
    parameter = nn.Parameter(torch.ones(1, 1))
    optimizer = kernel.AdamW([{"params": [parameter]}], lr=1e-3, bf16=True)
    for _ in range(1000):
        parameter.sum().backward()
    assert optimizer.grad_norm() == 1000.0  # a sum in bf16 would end at 256
    optimizer.step()
    optimizer.zero_grad()
    parameter.sum().backward()
    assert optimizer.grad_norm() == 1.0


def test_without_bf16_everything_stays_in_fp32(workshop: Workshop) -> None:
    kernel = workshop.make(samples.adamw())
    parameter = nn.Parameter(torch.ones(4, 4))
    optimizer = kernel.AdamW([{"params": [parameter]}], lr=0.1, bf16=False)
    parameter.sum().backward()
    optimizer.step()
    assert parameter.dtype == torch.float32
    assert torch.allclose(parameter, torch.tensor(0.9))
    assert "rest" not in optimizer.state[parameter]


def test_norm_is_the_same_for_any_number_of_threads(workshop: Workshop) -> None:
    kernel = workshop.make(samples.adamw())
    grad = random(301, 1009, dtype=torch.bfloat16)
    norms = [norm_of(kernel, grad, threads=threads) for threads in (1, 2, 3)]
    assert len(set(norms)) == 1
    assert math.sqrt(norms[0]) == pytest.approx(float(grad.double().norm()), rel=1e-6)


def norm_of(kernel: ModuleType, grad: Tensor, *, threads: int) -> float:
    torch.set_num_threads(threads)
    try:
        return kernel._sum_squares(grad)
    finally:
        torch.set_num_threads(1)
