"""When a kernel counts as right: the numerics rule, and canaries around what it writes.

The rule: every output is finite, and its largest error against float64, relative to the largest exact number, is at most
the greater of three times the error of plain PyTorch in the same dtypes and two eps of the dtype that the kernel works
in (the lowest among inputs and outputs: what a bf16 kernel keeps for its backward pass is bf16).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import memory

_GUARD, _CANARY = 64, 77.0


@dataclass(frozen=True)
class Found:
    """One output, or the gradient of one input, against float64."""

    what: str
    error: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.error <= self.allowed


def compare(
    function: Callable[..., Any], eager: Callable[..., Any], inputs: Sequence[Any], *, eps: float | None = None
) -> list[Found]:
    """The outputs of `function` and its gradients against those of `eager`, run in float64 and as it is.

    `eps` is for what works in more digits than its narrowest input has.
    """
    with canaries() as are_inside:
        got = run(function, inputs)
    is_inside = are_inside()
    plain = run(eager, inputs)
    exact = run(eager, [_wide(each) for each in inputs])
    assert len(got) == len(exact)
    numbers = [each for each in (*inputs, *got) if isinstance(each, Tensor) and each.is_floating_point()]
    eps = max(torch.finfo(each.dtype).eps for each in numbers) if eps is None else eps
    found = [
        within(mine, plain=theirs, exact=truth, eps=eps, what=f"output {number}")
        for number, (mine, theirs, truth) in enumerate(zip(got, plain, exact, strict=True))
    ]
    return found if is_inside else [Found("wrote outside of an output", float("inf"), 0.0), *found]


def within(got: Tensor, *, plain: Tensor, exact: Tensor, eps: float, what: str) -> Found:
    allowed = max(3 * error(plain, exact), 2 * eps)
    if got.shape != exact.shape:
        return Found(f"{what} has the shape {tuple(got.shape)}", float("inf"), allowed)
    if not torch.isfinite(got).all():
        return Found(f"{what} is not finite", float("inf"), allowed)
    return Found(what, error(got, exact), allowed)


def error(got: Tensor, exact: Tensor) -> float:
    scale = exact.double().abs().max().clamp_min(1e-30)
    return float((got.double() - exact.double()).abs().max() / scale)


def run(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    """Outputs, then the gradients of all floating inputs for fixed gradients of the outputs."""
    leaves = [_leaf(each) for each in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if not any(output.requires_grad for output in outputs):
        return [*outputs]
    grads = [_fixed_like(output, seed=number) for number, output in enumerate(outputs)]
    torch.autograd.backward(outputs, grads)
    found = [leaf.grad for leaf in leaves if isinstance(leaf, Tensor) and leaf.grad is not None]
    return [*(output.detach() for output in outputs), *found]


@contextmanager
def canaries() -> Iterator[Callable[[], bool]]:
    """Within, torch.empty and torch.empty_like, also for kernels' outputs, give tensors between guard numbers; the function tells
    if all are whole."""
    guarded: list[tuple[Tensor, int]] = []
    real_empty, real_empty_like, least_bytes = torch.empty, torch.empty_like, memory.LEAST_BYTES

    def empty(*size: Any, dtype: torch.dtype = torch.float32, **_: Any) -> Tensor:
        shape = torch.Size(size[0]) if size and not isinstance(size[0], int) else torch.Size(size)
        count = shape.numel()
        whole = real_empty(count + 2 * _GUARD, dtype=dtype).fill_(_CANARY)
        guarded.append((whole, count))
        return whole[_GUARD : _GUARD + count].view(shape)

    def empty_like(other: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return empty(other.shape, dtype=dtype or other.dtype)

    def are_alive() -> bool:
        return all(
            bool((whole[:_GUARD] == _CANARY).all() and (whole[_GUARD + count :] == _CANARY).all())
            for whole, count in guarded
        )

    torch.empty, torch.empty_like, memory.LEAST_BYTES = empty, empty_like, sys.maxsize  # type: ignore[assignment]
    try:
        yield are_alive
    finally:
        torch.empty, torch.empty_like, memory.LEAST_BYTES = real_empty, real_empty_like, least_bytes  # type: ignore[assignment]


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
