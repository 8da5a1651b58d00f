"""Recorded steps: the same numbers as calls one by one, for inputs that change, and nothing recorded that would be missed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType

import kernel_samples as samples
import pytest
import torch
from kernel_workshop import Workshop
from numerics import random
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmc.runtimes.kernels import replay as replays
from llmc.runtimes.kernels import watch
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
    monkeypatch.setattr(replays, "LARGE_BYTES", 1)
    attention, norm = kernels(workshop)
    replay = attention.new_replay()
    for seed in range(3):
        x, y = random(3, 16, seed=seed), random(3, 16, seed=10 + seed)
        assert torch.equal(replay(lambda x, y: chain(norm, x, y), x, y), chain(norm, x, y))
        assert torch.equal(replay.once(partial(chain, norm), x, y), chain(norm, x, y))


def mixed(norm: ModuleType, x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Kernels, of which one reads what PyTorch made of the last one's sums and then forgot; memory that is used again."""
    for _ in range(3):
        x, y = norm.add_rms_norm(x, y, WEIGHT)
    assert at[-1] < len(x)  # of places, for which no kernel need have started
    x, y = norm.add_rms_norm(x[at], y[at] + 1, WEIGHT)
    return norm.add_rms_norm(x, y.view(-1, 16), WEIGHT)[1]


@torch.no_grad()
def test_kernels_that_start_together_give_what_they_give_one_by_one(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, norm = kernels(workshop)
    replay = attention.new_replay()
    at = torch.tensor([1, 4])
    for large_bytes in (1, 1 << 30):
        monkeypatch.setattr(replays, "LARGE_BYTES", large_bytes)
        for seed in range(20):
            x, y = random(5 + seed, 16, seed=seed), random(5 + seed, 16, seed=100 + seed)
            found = [replay.once(partial(mixed, norm), x, y, at) for _ in range(2)]
            assert torch.equal(found[0], mixed(norm, x, y, at))
            assert torch.equal(found[0], found[1])


@torch.no_grad()
def test_kernels_wait_for_the_last_and_share_memory(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "LARGE_BYTES", 1)
    attention, norm = kernels(workshop)
    started, addresses = [], set()
    replay = attention.new_replay()
    run = replay._run

    def count(address: int, calls: int) -> None:
        started.append(calls)
        run(address, calls)

    def step(x: Tensor, y: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as other:  # which starts its own
            assert other.submit(norm.add_rms_norm, x, y, WEIGHT).result()[1].equal(expected)
        for _ in range(50):
            assert not started
            x, y = norm.add_rms_norm(x, y, WEIGHT)
            addresses.update((x.data_ptr(), y.data_ptr()))
        return y

    replay._run = count
    x, y = random(7, 16, seed=1), random(7, 16, seed=2)
    expected = norm.add_rms_norm(x, y, WEIGHT)[1]
    found = replay.once(step, x, y)
    assert started == [50]
    assert len(addresses) == 4
    started[:] = []
    replay._run = None
    monkeypatch.setattr(replays, "LARGE_BYTES", 1 << 30)
    assert torch.equal(found, replay.once(step, x, y))


def test_recording_does_not_import_the_compiler_of_torch() -> None:
    """torch wraps what a mode does with ops by something that imports it, for seconds, when the first op comes."""

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, *_: object) -> None: ...

    assert not hasattr(watch.KernelWatch.__torch_dispatch__, "__wrapped__")
    assert hasattr(Mode.__torch_dispatch__, "__wrapped__"), "torch has changed: see KernelWatch"
