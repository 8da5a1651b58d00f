"""Weights in 8 and 4 bits: how they are rounded, how they are kept, and the products of the C++ kernel against float64."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from platform import machine
from types import ModuleType
from typing import Any

import kernel_samples as samples
import pytest
import torch
from kernel_samples import DTYPES, TORCH
from kernel_workshop import Workshop
from numerics import assert_accurate, random
from test_bf16_linear import in_short_parts
from torch._subclasses.fake_tensor import FakeTensorMode

from llmc.compiler.kernels.kernel import DType
from llmc.runtimes.kernels import compile as compiling
from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.pytorch import weights
from llmc.runtimes.pytorch.packed import PackedLinear, fill_randomly
from llmc.runtimes.pytorch.weights import load_weights, save_weights
from llmc.runtimes.reference.weight_only import FOUR_BITS, dequantise, quantise, rounded_to_bytes, weight_only_linear

FORMATS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8, "group": 64},
    "int4": {"bits": 4, "group": 64},
    "int4-wide-groups": {"bits": 4, "group": 128},
    "int4-with-offsets": {"bits": 4, "group": 32, "has_offset": True},
    "int8-by-int8": {"bits": 8, "group": 64, "rounds_inputs": True},
    "int4-by-int8": {"bits": 4, "group": 64, "rounds_inputs": True},
    "int4-with-offsets-by-int8": {"bits": 4, "group": 32, "has_offset": True, "rounds_inputs": True},
}
SIZES = [(64, 48), (37, 19), (200, 130), (8, 1)]
"""K inputs and N outputs: whole groups and panels, parts of both, more than one block of panels, next to nothing."""
formats = pytest.mark.parametrize("name", FORMATS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def layer_of(module: ModuleType, depth: int, size: int, *, dtype: DType = "fp32", has_bias: bool = True) -> Any:
    """A layer with a weight and a bias that are filled in."""
    bits = next(bits for bits in (4, 8) if hasattr(module, f"Int{bits}Linear"))
    layer = getattr(module, f"Int{bits}Linear")(depth, size, bias=has_bias)
    layer.fill(random(size, depth, seed=1))
    if has_bias:
        layer.bias.data = random(size, seed=2, dtype=TORCH[dtype])
    return layer


@formats
@dtypes
@torch.no_grad()
def test_products_agree_with_float64(workshop: Workshop, name: str, dtype: DType) -> None:
    module = workshop.make(samples.weight_only_linear(dtype, **FORMATS[name]))
    for depth, size in SIZES:
        layer = layer_of(module, depth, size, dtype=dtype)
        kept = layer.unpacked()
        eager = partial(_eager, kept, group=layer.group, rounds_inputs=FORMATS[name].get("rounds_inputs", False))
        for rows in (1, 2, 5, 13, 33, 100):
            inputs = random(rows, depth, dtype=TORCH[dtype]), layer.bias
            assert_accurate(partial(_product, layer), eager, inputs)


@pytest.mark.parametrize("name", ["int8", "int4", "int4-with-offsets"])
@dtypes
@torch.no_grad()
def test_many_inputs_come_in_parts(workshop: Workshop, name: str, dtype: DType) -> None:
    """Which end within a group."""
    module = workshop.make(samples.weight_only_linear(dtype, **FORMATS[name]), edit=in_short_parts)
    layer = layer_of(module, 200, 150, dtype=dtype)
    inputs = random(100, 200, dtype=TORCH[dtype]), layer.bias
    assert_accurate(partial(_product, layer), partial(_eager, layer.unpacked(), group=layer.group), inputs)


def _product(layer: Any, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return layer(x)


def _eager(kept: Any, x: torch.Tensor, bias: torch.Tensor, **options: Any) -> torch.Tensor:
    return weight_only_linear(x, kept, bias, **options)


@formats
@dtypes
@torch.no_grad()
def test_numbers_of_a_row_do_not_depend_on_where_it_stands(workshop: Workshop, name: str, dtype: DType) -> None:
    """As `shapes: fixed` promises, where a request is in another place of its batch at every step. The halves of each sum cancel:
    what is left is what rounding in this very order leaves."""
    layer = layer_of(workshop.make(samples.weight_only_linear(dtype, **FORMATS[name])), 256, 130, dtype=dtype)
    half = random(130, 128, seed=1)
    layer.fill(torch.cat((half, -half), dim=1))
    for rows in (2, 3, 5, 13, 32):
        x = random(rows, 128, dtype=TORCH[dtype]).repeat(1, 2)
        for shift in range(1, rows):
            assert torch.equal(layer(x.roll(shift, 0)), layer(x).roll(shift, 0))


@pytest.mark.parametrize("name", ["int8-by-int8", "int4-by-int8", "int4-with-offsets-by-int8"])
@torch.no_grad()
def test_integers_are_the_same_without_the_instructions_for_them(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    view, x = samples.weight_only_linear("bf16", **FORMATS[name]), random(21, 200, dtype=torch.bfloat16)
    here = layer_of(workshop.make(view), 200, 130, dtype="bf16")(x)
    without_avx512(monkeypatch)
    assert torch.equal(layer_of(workshop.make(view), 200, 130, dtype="bf16")(x), here)


@pytest.mark.parametrize("name", ["int8", "int4", "int4-with-offsets"])
def test_products_without_avx512_agree_with_float64(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without_avx512(monkeypatch)
    test_products_agree_with_float64(workshop, name, "bf16")


def without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_cpu_flags", lambda: ["-march=x86-64-v3"] if machine() == "x86_64" else [])


@torch.no_grad()
def test_inputs_lose_half_a_step_of_their_group() -> None:
    """An input that is far larger than its neighbours costs those of its own group digits, and no others."""
    x = random(3, 100)
    x[1, 70] = 1000.0
    off = (rounded_to_bytes(x) - x).abs()
    groups = torch.nn.functional.pad(x, (0, 28)).view(3, 4, 32).abs().amax(-1) / 127
    assert (off <= 0.51 * groups.repeat_interleave(32, dim=1)[:, :100]).all()
    assert off[1, 64:96].max() > 0.5 > 0.02 > off[1, :64].max()


@torch.no_grad()
def test_a_layer_without_bias_and_more_dims(workshop: Workshop) -> None:
    module = workshop.make(samples.weight_only_linear("fp32", **FORMATS["int4"]))
    layer = layer_of(module, 40, 24, has_bias=False)
    x = random(3, 2, 5, 40)[:, 1]  # not in order
    weight = dequantise(layer.unpacked(), group=layer.group)
    torch.testing.assert_close(layer(x), x @ weight.T, atol=1e-5, rtol=1e-5)


@formats
def test_what_is_kept_is_what_was_rounded(workshop: Workshop, name: str) -> None:
    module = workshop.make(samples.weight_only_linear("fp32", **FORMATS[name]))
    layer, weight = layer_of(module, 37, 19), random(19, 37, seed=1)
    kept = layer.unpacked()
    expected = quantise(weight, bits=layer.bits, group=layer.group, has_offset=layer.has_offset)
    for found, wanted in zip(kept, expected, strict=True):
        assert found is wanted is None or (found is not None and wanted is not None and torch.equal(found, wanted))
    tokens = torch.tensor([[0, 18, 5], [16, 0, 15]])
    assert torch.equal(layer.rows(tokens), dequantise(expected, group=layer.group)[tokens])


@pytest.mark.parametrize(("bits", "has_offset", "steps"), [(8, False, 0.51), (4, True, 0.54)])
def test_rounding_is_within_half_a_step(bits: int, has_offset: bool, steps: float) -> None:
    """A bf16 offset lies a little off."""
    weight = random(64, 100)
    kept = quantise(weight, bits=bits, group=32, has_offset=has_offset)
    scales = kept.scales.float() if kept.units is None else kept.scales * kept.units.float()[:, None]
    step = scales.repeat_interleave(32, dim=1)[:, :100]
    off = (dequantise(kept, group=32) - weight).abs() / step
    assert off.max() <= steps
    assert off.mean() < 0.3


def test_scales_of_four_bits_are_chosen_for_what_columns_are_multiplied_with() -> None:
    """Three columns of a hundred have large inputs, one has none; the last group is a short one."""
    weight, x = random(64, 100), random(200, 100, seed=1)
    x[:, [5, 50, 90]] *= 10
    x[:, 20] = 0
    found = [
        dequantise(quantise(weight, bits=4, group=64, inputs=each), group=64) for each in (None, x.square().mean(0))
    ]
    blind, chosen = (float((x @ (each - weight).T).square().mean()) for each in found)
    assert chosen < 0.5 * blind
    assert (found[0] - weight).square().mean() < (found[1] - weight).square().mean()


def test_codes_of_four_bits_are_the_nearest_of_sixteen_numbers() -> None:
    weight = random(64, 100)
    kept = quantise(weight, bits=4, group=32)
    scales = dequantise(kept._replace(codes=torch.ones_like(kept.codes)), group=32)
    nearest = (weight[..., None] - scales[..., None] * torch.tensor(FOUR_BITS)).abs().amin(-1)
    torch.testing.assert_close((dequantise(kept, group=32) - weight).abs(), nearest, rtol=1e-3, atol=1e-5)


def test_kernels_and_their_truth_have_the_same_sixteen_numbers() -> None:
    assert samples.weight_only_linear("bf16", bits=4).numbers == FOUR_BITS


@pytest.mark.parametrize(("group", "most"), [(32, 0.8), (64, 0.95)])
def test_four_bits_err_less_than_even_steps(group: int, most: float) -> None:
    """As in llama.cpp's Q4_0, whose scale is the largest number of 32 over -8."""
    weight = random(256, 256)
    groups = weight.view(-1, 32)
    reach = groups.gather(1, groups.abs().argmax(1, keepdim=True)) / -8
    plain = ((groups / reach).round().clamp(-8, 7) * reach - groups).square().mean()
    error = (dequantise(quantise(weight, bits=4, group=group), group=group) - weight).square().mean()
    assert error < most * plain


@pytest.mark.parametrize(("bits", "most"), [(8, 0.0), (4, 0.05)])
def test_zeros_and_single_numbers_stay_what_they_are(bits: int, most: float) -> None:
    """None of the sixteen numbers is zero: beside a larger number four bits have the smallest of them instead."""
    weight = torch.zeros(3, 40)
    weight[1, 3], weight[2, 39] = -2.0, 0.5
    found = dequantise(quantise(weight, bits=bits, group=32), group=32)
    assert (found[0] == 0).all()
    assert float(found[weight == 0].abs().max()) <= most
    torch.testing.assert_close(found[weight != 0], weight[weight != 0], rtol=8e-3, atol=0)


def test_a_group_far_smaller_than_its_neighbours_keeps_its_digits() -> None:
    """Its scale would be rounded to none of the row's units."""
    weight = random(16, 64)
    weight[:, 32:] *= 2e-3
    found = dequantise(quantise(weight, bits=4, group=32), group=32)
    error = (found - weight)[:, 32:].square().mean() / weight[:, 32:].square().mean()
    assert error < 0.1


def test_a_constant_with_an_offset_stays_what_it_is() -> None:
    kept = quantise(torch.full((2, 32), 0.75), bits=4, group=32, has_offset=True)
    assert torch.equal(dequantise(kept, group=32), torch.full((2, 32), 0.75))


@torch.no_grad()
def test_the_eager_twin_says_the_same(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    view = samples.weight_only_linear("bf16", **FORMATS["int8"])
    x = random(5, 37, dtype=torch.bfloat16)
    compiled = layer_of(workshop.make(view), 37, 19, dtype="bf16")(x)
    monkeypatch.setenv(CHOICE, "eager")
    eager = layer_of(workshop.make(view), 37, 19, dtype="bf16")(x)
    torch.testing.assert_close(compiled, eager, atol=0.06, rtol=0.02)


@torch.no_grad()
def test_without_a_compiler_the_price_is_told(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    module = workshop.make(samples.weight_only_linear("bf16", **FORMATS["int4"]))
    assert "each weight read from 4 bits, written and read again in 16, at every step" in capsys.readouterr().err
    assert layer_of(module, 37, 19, dtype="bf16")(random(2, 37, dtype=torch.bfloat16)).shape == (2, 19)


@formats
def test_a_custom_op_for_those_who_trace(workshop: Workshop, name: str) -> None:
    module = workshop.make(samples.weight_only_linear("bf16", **FORMATS[name]))
    layer = layer_of(module, 40, 24, dtype="bf16")
    args = (random(3, 40, dtype=torch.bfloat16), layer.codes, layer.scales, layer.offsets, layer.bias.detach(), 24)
    op = getattr(module, f"int{layer.bits}_linear")
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
    with torch.no_grad():
        assert torch.equal(op(*args), layer(args[0]))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(torch.empty(2, 7, 40, dtype=torch.bfloat16)).shape == (2, 7, 24)


def test_a_weight_of_other_sizes_is_refused(workshop: Workshop) -> None:
    module = workshop.make(samples.weight_only_linear("fp32", **FORMATS["int8"]))
    with pytest.raises(AssertionError, match="other sizes"):
        layer_of(module, 64, 48)(random(2, 32))


def test_weights_are_rounded_as_they_are_loaded(workshop: Workshop, tmp_path: Path) -> None:
    module = workshop.make(samples.weight_only_linear("fp32", **FORMATS["int8"]))
    plain = torch.nn.Sequential(torch.nn.Linear(37, 19), torch.nn.LayerNorm(19))
    save_weights(plain, tmp_path)
    model = torch.nn.Sequential(module.Int8Linear(37, 19, bias=True), torch.nn.LayerNorm(19)).to(torch.float32)
    load_weights(model, tmp_path)
    x = random(3, 37)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), atol=0.05, rtol=0.05)
    layer = model[0]
    assert isinstance(layer, PackedLinear)
    assert layer.codes.nbytes + layer.scales.nbytes < 32 * 40 * 1.2  # whole panels and words, bytes and scales
    assert layer.weight.is_meta


@pytest.mark.parametrize("after_s", [0.0, 60.0])
def test_loading_says_how_far_it_is_where_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], after_s: float
) -> None:
    monkeypatch.setattr(weights, "QUIET_S", after_s)
    model = torch.nn.Linear(37, 19)
    save_weights(model, tmp_path)
    load_weights(model, tmp_path)
    assert capsys.readouterr().err.startswith("load weights: done in") == (after_s == 0)


@torch.no_grad()
def test_a_draft_is_nearly_as_good_as_what_a_search_finds(workshop: Workshop) -> None:
    layer = layer_of(workshop.make(samples.weight_only_linear("fp32", **FORMATS["int4"])), 128, 32)
    weight = random(32, 128)
    layer.fill(weight, is_draft=True)
    draft = layer.whole() - weight
    layer.fill(weight)
    found = layer.whole() - weight
    assert 0.8 < found.square().mean() / draft.square().mean() < 0.95


def test_random_weights_have_the_deviation_asked_for(workshop: Workshop) -> None:
    for name in ("int8", "int4", "int4-with-offsets"):
        module = workshop.make(samples.weight_only_linear("fp32", **FORMATS[name]))
        layer = layer_of(module, 256, 128)
        fill_randomly(torch.nn.Sequential(layer), deviation=0.02)
        found = dequantise(layer.unpacked(), group=layer.group)
        assert 0.018 < float(found.std()) < 0.022
        assert abs(float(found.mean())) < 0.003  # of sixteen codes eight are below zero, seven above
