"""Compiling and loading: once for each content, and never a reason for a program not to run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import kernel_samples as samples
import pytest
import torch
import torch.nn.functional as F
from kernel_workshop import Workshop
from numerics import random
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from llmc.runtimes.kernels import compile as compiling
from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.reference.activation import swiglu


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llmc" / "kernels"


def make_swiglu(workshop: Workshop, *, comment: str = "") -> ModuleType:
    view = samples.gated_linear("fp32", eager="swiglu", size=8)
    return workshop.make(view, edit=lambda text: text + comment)


WEIGHT = random(5, 8, seed=1)


def eager(x: Tensor) -> Tensor:
    return F.linear(swiglu(x), WEIGHT)


def test_a_kernel_is_compiled_once_for_each_content(workshop: Workshop, cache: Path) -> None:
    make_swiglu(workshop)
    first = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    make_swiglu(workshop)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == first
    make_swiglu(workshop, comment="// another\n")
    assert len(list(cache.iterdir())) == 2
    assert all(file.suffix == ".so" for file in cache.iterdir())


def test_another_compiler_or_header_is_another_content(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    make_swiglu(workshop)
    source = next(workshop.folder.rglob("*.cpp"))
    key = compiling._key(source, compiler="g++")
    monkeypatch.setattr(compiling, "_version", lambda compiler: "g++ 99")
    assert compiling._key(source, compiler="g++") != key


def test_without_a_compiler_the_eager_twin_runs_and_the_price_is_named(
    workshop: Workshop, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernel = make_swiglu(workshop)
    x = random(3, 16)
    assert torch.equal(kernel.swiglu_linear(x, WEIGHT), eager(x))
    warning = capsys.readouterr().err
    assert warning.startswith("warning: no C++ compiler on this machine")
    assert "times as long" in warning
    assert not cache.exists()


def test_a_compiler_that_fails_is_quoted(workshop: Workshop, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = make_swiglu(workshop, comment="#error out of luck\n")
    x = random(3, 16)
    assert torch.equal(kernel.swiglu_linear(x, WEIGHT), eager(x))
    assert "out of luck" in capsys.readouterr().err
    assert not list(cache.glob("*.so"))


def test_without_a_place_for_libraries_the_eager_twin_runs(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container that is read-only."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    kernel = make_swiglu(workshop)
    x = random(3, 16)
    assert torch.equal(kernel.swiglu_linear(x, WEIGHT), eager(x))
    assert "warning: no place for compiled kernels" in capsys.readouterr().err


def test_the_user_may_ask_for_plain_pytorch(
    workshop: Workshop, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CHOICE, "eager")
    kernel = make_swiglu(workshop)
    x = random(3, 16)
    assert torch.equal(kernel.swiglu_linear(x, WEIGHT), eager(x))
    assert capsys.readouterr().err == ""
    assert not cache.exists()


def test_another_dtype_takes_the_eager_twin(workshop: Workshop) -> None:
    kernel = make_swiglu(workshop)
    x, weight = random(3, 16, dtype=torch.float64), WEIGHT.double()
    assert torch.equal(kernel.swiglu_linear(x, weight), F.linear(swiglu(x), weight))


def test_fake_tensors_have_no_memory_to_work_on(workshop: Workshop) -> None:
    kernel = make_swiglu(workshop)
    with FakeTensorMode():
        x, weight = torch.empty(3, 16, requires_grad=True), torch.empty(5, 8, requires_grad=True)
        out = kernel.swiglu_linear(x, weight)
        out.sum().backward()
    assert out.shape == (3, 5)
    assert x.grad is not None
    assert x.grad.shape == (3, 16)


def test_a_kernel_refuses_memory_that_is_not_in_order(workshop: Workshop) -> None:
    kernel = make_swiglu(workshop)
    x = random(16, 3).T
    with pytest.raises(AssertionError, match="in order"):
        kernel.native.call("forward", x, torch.empty(3, 8), 3)
    assert torch.allclose(kernel.swiglu_linear(x, WEIGHT), eager(x))  # which copies it first
