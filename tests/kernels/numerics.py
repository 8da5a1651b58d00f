"""When a kernel counts as right: the numerics rule, canaries, and the kernels' small sizes.

The rule: every output is finite, and its largest error against float64, relative to the largest exact number, is at most
the greater of three times the error of plain PyTorch in the same dtypes and two eps of the dtype that the kernel works
in (the lowest among inputs and outputs: what a bf16 kernel keeps for its backward pass is bf16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

_GUARD, _CANARY = 64, 77.0

Outputs = Sequence[Tensor | None]


def assert_accurate(function: Callable[..., Any], eager: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """Compare the outputs of `function` and its gradients with those of `eager`, run in float64 and as it is."""
    with canaries() as are_alive:
        got = run(function, inputs)
    assert are_alive(), "wrote outside of an output"
    plain = run(eager, inputs)
    exact = run(eager, [_wide(each) for each in inputs])
    assert len(got) == len(exact)
    eps = max(
        torch.finfo(each.dtype).eps for each in (*inputs, *got) if isinstance(each, Tensor) and each.is_floating_point()
    )
    for number, (mine, theirs, truth) in enumerate(zip(got, plain, exact, strict=True)):
        assert_within(mine, plain=theirs, exact=truth, eps=eps, what=f"output {number}")


def assert_within(got: Tensor, *, plain: Tensor, exact: Tensor, eps: float, what: str) -> None:
    assert got.shape == exact.shape
    assert torch.isfinite(got).all(), f"{what} is not finite"
    allowed = max(3 * error(plain, exact), 2 * eps)
    assert error(got, exact) <= allowed, f"{what}: error {error(got, exact):.1e}, allowed {allowed:.1e}"


def error(got: Tensor, exact: Tensor) -> float:
    scale = exact.double().abs().max().clamp_min(1e-30)
    return float((got.double() - exact.double()).abs().max() / scale)


def run(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    """Outputs, then the gradients of all floating inputs for fixed gradients of the outputs."""
    leaves = [_leaf(each) for each in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = [_fixed_like(output, seed=number) for number, output in enumerate(outputs)]
    torch.autograd.backward(outputs, grads)
    found = [leaf.grad for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    return [*(output.detach() for output in outputs), *found]


@contextmanager
def canaries() -> Iterator[Callable[[], bool]]:
    """Within, torch.empty and torch.empty_like give tensors between guard numbers; the function tells if all are whole."""
    guarded: list[tuple[Tensor, int]] = []
    real_empty = torch.empty

    def empty(*size: Any, dtype: torch.dtype = torch.float32, **_: Any) -> Tensor:
        shape = torch.Size(size[0]) if size and not isinstance(size[0], int) else torch.Size(size)
        count = shape.numel()
        whole = real_empty(count + 2 * _GUARD, dtype=dtype).fill_(_CANARY)
        guarded.append((whole, count))
        return whole[_GUARD : _GUARD + count].view(shape)

    def are_alive() -> bool:
        return all(
            bool((whole[:_GUARD] == _CANARY).all() and (whole[_GUARD + count :] == _CANARY).all())
            for whole, count in guarded
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch, "empty_like", lambda other, **_: empty(other.shape, dtype=other.dtype))
        yield are_alive
    assert guarded, "nothing was guarded"


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def _fixed_like(output: Tensor, *, seed: int) -> Tensor:
    """The same numbers in every dtype: those that bf16 can hold."""
    numbers = random(*output.shape, dtype=torch.bfloat16, seed=100 + seed) if output.dim() else torch.ones(())
    return numbers.to(output.dtype)


def _leaf(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().clone().requires_grad_()


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
