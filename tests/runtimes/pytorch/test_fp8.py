"""Products in fp8 against float64, and the eager twin against PyTorch's own product, which CPUs have too."""

from __future__ import annotations

import pytest
import torch

from llmc.runtimes.pytorch import fp8
from llmc.runtimes.pytorch.fp8 import Fp8Linear, linear_fp8, product, quantized

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FORMATS = {E4M3: 2.0**-4, E5M2: 2.0**-3, torch.float8_e4m3fnuz: 2.0**-4, torch.float8_e5m2fnuz: 2.0**-3}
"""Of each, the most that rounding moves a number, as a share of it."""
SIZES = (64, 48, 96)


def rows(number: int, length: int, *, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-6, 3, number)[:, None]
    return (torch.randn(number, length, generator=generator) * sizes).to(dtype)


@pytest.mark.parametrize("code", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_number_is_rounded_once_by_what_the_format_allows(code: torch.dtype, dtype: torch.dtype) -> None:
    x = rows(32, 64, seed=1, dtype=dtype)
    codes, scale = quantized(x, code)
    assert torch.equal(torch.frexp(scale)[0], torch.full_like(scale, 0.5))  # powers of two
    back = codes.double() * scale
    least = scale.double() * torch.finfo(code).smallest_normal
    assert ((back - x.double()).abs() <= FORMATS[code] * torch.maximum(x.double().abs(), least)).all()
    largest = codes.float().abs().amax(-1)
    assert (largest > torch.finfo(code).max / 2.2).all()


def test_rows_without_numbers_and_rows_that_are_none() -> None:
    x = torch.zeros(3, 16)
    x[1, 2], x[2, 3] = torch.inf, torch.nan
    codes, scale = quantized(x, E4M3)
    assert torch.equal(codes[0].float() * scale[0], torch.zeros(16))
    assert not (codes[1:].float() * scale[1:]).isfinite().any()


@pytest.mark.parametrize("formats", [(E4M3, E4M3), (E5M2, E4M3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_twin_gives_what_pytorch_gives(
    formats: tuple[torch.dtype, torch.dtype], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = rows(32, 64, seed=1, dtype=dtype), rows(48, 64, seed=2, dtype=dtype)
    twin = product(left, right, *formats)
    monkeypatch.setattr(fp8, "multiplies_fp8", lambda device: True)
    found = product(left, right, *formats)
    assert found.dtype == twin.dtype == dtype
    size = left.float().norm(dim=1)[:, None] * right.float().norm(dim=1)
    assert ((found - twin).abs() <= 2 * torch.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_output_and_gradients_are_those_of_float64(dtype: torch.dtype, has_bias: bool) -> None:
    """Each factor is off by its format's rounding at most; the error of a sum grows with the norms of its factors."""
    inputs, outputs, tokens = SIZES
    generator = torch.Generator().manual_seed(0)
    layer = Fp8Linear(inputs, outputs, bias=has_bias, dtype=dtype)
    x = torch.randn(2, tokens // 2, inputs, generator=generator).to(dtype).requires_grad_()
    g = (torch.randn(2, tokens // 2, outputs, generator=generator) * 1e-5).to(dtype)
    y = layer(x)
    y.backward(g)
    wide, weight = x.detach().double().flatten(0, 1), layer.weight.detach().double()
    wide_g = g.double().flatten(0, 1)
    expected = {
        "output": (y, wide @ weight.T + (layer.bias.double() if has_bias else 0.0), wide, weight, E4M3),
        "to input": (x.grad, wide_g @ weight, wide_g, weight.T, E5M2),
        "to weight": (layer.weight.grad, wide_g.T @ wide, wide_g.T, wide.T, E5M2),
    }
    for name, (found, value, left, right, code) in expected.items():
        assert found is not None
        assert found.dtype == dtype
        size = left.norm(dim=1)[:, None] * right.norm(dim=1)
        away = (found.detach().double().flatten(0, -2) - value).abs()
        assert (away <= (FORMATS[code] + FORMATS[E4M3] + 4 * torch.finfo(dtype).eps) * size).all(), name
        assert away.norm() < 0.08 * value.norm(), name
        assert away.norm() > 0.01 * value.norm(), name  # it is fp8
    if has_bias:
        assert layer.bias.grad is not None
        torch.testing.assert_close(layer.bias.grad.double(), wide_g.sum(0), rtol=0.02, atol=1e-6)


def test_what_a_token_gets_does_not_depend_on_its_company() -> None:
    x, weight = rows(32, 64, seed=1), rows(48, 64, seed=2)
    whole = linear_fp8(x, weight)
    parts = torch.cat([linear_fp8(x[:7], weight), linear_fp8(x[7:], weight)])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0.0)


def test_autocast_keeps_its_format_for_the_backward_pass() -> None:
    x, weight = torch.randn(4, 32, requires_grad=True), torch.randn(16, 32, requires_grad=True)
    kept: list[torch.dtype] = []
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.dtype) or each, lambda each: each),
    ):
        y = linear_fp8(x, weight)
    assert y.dtype == torch.bfloat16
    assert kept == [torch.bfloat16, torch.float32]  # the input as it was cast, the master weight
    y.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert (x.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)


def test_a_processor_has_the_twin_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMC_KERNELS", raising=False)
    fp8.multiplies_fp8.cache_clear()
    assert not fp8.multiplies_fp8(torch.device("cpu"))
    assert "rounded as fp8 rounds" in capsys.readouterr().err
    assert fp8.formats(torch.device("cpu")) == (E4M3, E5M2)
