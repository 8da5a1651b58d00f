"""Recorded steps: the same numbers as calls one by one, for inputs that change, and nothing recorded that would be missed."""

from __future__ import annotations

from types import ModuleType

import kernel_samples as samples
import pytest
import torch
from kernel_workshop import Workshop
from numerics import random
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmc.runtimes.kernels import replay
from llmc.runtimes.kernels.native import CHOICE


def kernels(workshop: Workshop) -> tuple[ModuleType, ModuleType]:
    norm = workshop.make(samples.add_rms_norm("fp32", hidden_size=16, has_backward=False))
    return workshop.make(samples.decode_attention("fp32")), norm


def chain(norm: ModuleType, x: Tensor, y: Tensor) -> Tensor:
    """Two kernels, of which the second reads what the first wrote, through a view."""
    total, normed = norm.add_rms_norm(x, y, WEIGHT)
    return norm.add_rms_norm(total, normed.view(-1, 16), WEIGHT)[1]


WEIGHT = random(16, seed=9)


@torch.no_grad()
def test_a_replayed_step_gives_what_its_calls_give(workshop: Workshop) -> None:
    attention, norm = kernels(workshop)
    replay, calls = attention.new_replay(), 0

    def step(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return chain(norm, x, y)

    for rows in (3, 5, 3):  # a recording for each shape
        for seed in range(4):
            x, y = random(rows, 16, seed=seed), random(rows, 16, seed=10 + seed)
            found = replay(step, x, y)
            assert torch.equal(found, chain(norm, x, y))
            later = replay(step, x + 1, y)
            assert not torch.equal(found, later)  # and the first result is still what it was
            assert torch.equal(found, chain(norm, x, y))
    assert calls == 2


@torch.no_grad()
def test_a_step_that_does_something_else_is_called_as_it_is(workshop: Workshop) -> None:
    attention, norm = kernels(workshop)
    replay = attention.new_replay()

    def step(x: Tensor, y: Tensor) -> Tensor:
        return chain(norm, x, y) + x.mean()

    for seed in range(3):
        x, y = random(3, 16, seed=seed), random(3, 16, seed=10 + seed)
        assert torch.equal(replay(step, x, y), step(x, y))


@torch.no_grad()
def test_without_compiled_kernels_nothing_is_recorded(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "eager")
    attention, norm = kernels(workshop)
    replay = attention.new_replay()
    for seed in range(3):
        x, y = random(3, 16, seed=seed), random(3, 16, seed=10 + seed)
        assert torch.equal(replay(lambda x, y: chain(norm, x, y), x, y), chain(norm, x, y))


def test_recording_does_not_import_the_compiler_of_torch() -> None:
    """torch wraps what a mode does with ops by something that imports it, for seconds, when the first op comes."""

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, *_: object) -> None: ...

    assert not hasattr(replay._Watch.__torch_dispatch__, "__wrapped__")
    assert hasattr(Mode.__torch_dispatch__, "__wrapped__"), "torch has changed: see _Watch"
