"""Linear layers with weights in bf16: how these are kept, and the products of the C++ kernel against float64."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import kernel_samples as samples
import pytest
import torch
import torch.nn.functional as F
from kernel_workshop import Workshop
from numerics import assert_accurate, random
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from llmc.runtimes.kernels.native import CHOICE
from llmc.runtimes.pytorch.lossless import LosslessLinear
from llmc.runtimes.pytorch.packed import PanelLinear, fill_randomly
from llmc.runtimes.pytorch.weights import load_weights, save_weights

SIZES = [(64, 48), (37, 19), (200, 130), (8, 1)]
"""K inputs and N outputs: whole pairs and panels, parts of both, more than one block of panels, next to nothing."""
ROWS = (1, 2, 5, 13, 33, 100)
BF16 = torch.bfloat16
VIEW = replace(samples.weight_only_linear("bf16", bits=16, group=None), is_table=True)


def without_its_instruction(text: str) -> str:
    """The C++ for processors that have no products of bf16."""
    return f"#undef __AVX512BF16__\n{text}"


def without_vectors_of_bytes(text: str) -> str:
    return f"#undef __AVX512BW__\n{text}"


def layer_of(workshop: Workshop, depth: int, size: int, *, edit: Callable[[str], str] | None = None) -> Any:
    """A layer with a weight and a bias that are filled in."""
    layer = workshop.make(VIEW, edit=edit).Bf16Linear(depth, size, bias=True)
    layer.fill(random(size, depth, seed=1))
    layer.bias.data = random(size, seed=2, dtype=BF16)
    return layer


@pytest.mark.parametrize("edit", [None, without_its_instruction, without_vectors_of_bytes])
@torch.no_grad()
def test_products_agree_with_float64(workshop: Workshop, edit: Callable[[str], str] | None) -> None:
    for depth, size in SIZES:
        layer = layer_of(workshop, depth, size, edit=edit)
        for rows in ROWS:
            inputs = random(rows, depth, dtype=BF16), layer.whole(), layer.bias
            assert_accurate(partial(_product, layer), F.linear, inputs)


@torch.no_grad()
def test_many_rows_come_in_parts(workshop: Workshop) -> None:
    """Three blocks of panels, of which two threads would have one and two, and no bias: sums go right to where they belong."""

    def for_two_threads(text: str) -> str:
        assert "omp_get_max_threads()" in text
        return text.replace("omp_get_max_threads()", "2")

    layer = workshop.make(VIEW, edit=for_two_threads).Bf16Linear(40, 150)
    layer.fill(random(150, 40, seed=1))
    for rows in (200, 500):
        assert_accurate(partial(_product, layer), F.linear, (random(rows, 40, dtype=BF16), layer.whole(), None))


@torch.no_grad()
def test_many_inputs_come_in_parts(workshop: Workshop) -> None:
    """Of 56 inputs in place of thousands, the last of them shorter; zeros and small numbers have no codes in any of them."""
    layer = workshop.make(VIEW, edit=in_short_parts).Bf16Linear(200, 150, bias=True)
    weight = random(150, 200, seed=1)
    weight[:, ::3] *= 2.0**-30 * (1 << torch.arange(30).repeat(5))[:, None]
    layer.fill(weight)
    layer.bias.data = random(150, seed=2, dtype=BF16)
    assert len(layer.escapes) > 1000
    for rows in (70, 100):
        assert_accurate(partial(_product, layer), F.linear, (random(rows, 200, dtype=BF16), layer.whole(), layer.bias))


def in_short_parts(text: str) -> str:
    found = re.sub(r"constexpr int DEPTH = \d+;", "constexpr int DEPTH = 56;", text)
    assert found != text
    return found


def _product(layer: Any, x: Tensor, *_: Tensor) -> Tensor:
    return layer(x)


@torch.no_grad()
def test_numbers_of_a_row_do_not_depend_on_where_it_stands(workshop: Workshop) -> None:
    """As `shapes: fixed` promises, where a request is in another place of its batch at every step. The halves of each sum cancel:
    what is left is what rounding in this very order leaves."""
    layer, half = workshop.make(VIEW).Bf16Linear(202, 130), random(130, 101, seed=1)
    layer.fill(torch.cat((half, -half), dim=1))
    for rows in ROWS:
        x = random(rows, 101, dtype=BF16).repeat(1, 2)
        for shift in range(1, rows):
            assert torch.equal(layer(x.roll(shift, 0)), layer(x).roll(shift, 0))


@torch.no_grad()
def test_a_layer_without_bias_and_more_dims(workshop: Workshop) -> None:
    layer = workshop.make(VIEW).Bf16Linear(40, 24)
    layer.fill(random(24, 40, seed=1))
    x = random(3, 2, 5, 40, dtype=BF16)[:, 1]  # not in order
    torch.testing.assert_close(layer(x), F.linear(x, layer.whole()))


def test_what_is_kept_is_the_weight_in_bf16(workshop: Workshop) -> None:
    layer, weight = layer_of(workshop, 37, 19), random(19, 37, seed=1).to(BF16)
    assert torch.equal(layer.whole(), weight)
    tokens = torch.tensor([[0, 18, 5], [16, 0, 15]])
    assert torch.equal(layer.rows(tokens), weight[tokens])
    for outside in (-1, 19):
        with pytest.raises(IndexError, match=r"of a vocabulary of 19"):
            layer.rows(torch.tensor([3, outside]))


@pytest.mark.parametrize("edit", [None, without_its_instruction, without_vectors_of_bytes])
@torch.no_grad()
def test_every_bit_is_kept(workshop: Workshop, edit: Callable[[str], str] | None) -> None:
    """All patterns of 16 bits, most of which have no code; in products those that are numbers no product overflows with."""
    weight = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(BF16).view(512, 128)
    layer = workshop.make(VIEW, edit=edit).Bf16Linear(128, 512)
    layer.fill(weight)
    assert len(layer.escapes) > 2**15
    assert torch.equal(layer.whole().view(torch.int16), weight.view(torch.int16))
    assert torch.equal(LosslessLinear.whole(layer).view(torch.int16), weight.view(torch.int16))
    wide = (weight.float().abs() < 2.0**100) & (weight.float().abs() > 2.0**-100)
    layer.fill(weight.where(wide, -0.0))
    for rows in (3, 70):
        inputs = random(rows, 128, dtype=BF16), layer.whole(), None
        assert_accurate(partial(_product, layer), F.linear, inputs)


@torch.no_grad()
def test_trained_weights_take_twelve_bits(workshop: Workshop) -> None:
    layer = workshop.make(VIEW).Bf16Linear(256, 512)
    layer.fill(0.02 * random(512, 256))
    assert 12 < 8 * layer.num_bytes / (512 * 256) < 12.1


@torch.no_grad()
def test_the_eager_twin_says_the_same(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(5, 37, dtype=BF16)
    compiled = layer_of(workshop, 37, 19)(x)
    monkeypatch.setenv(CHOICE, "eager")
    torch.testing.assert_close(compiled, layer_of(workshop, 37, 19)(x))


def test_a_custom_op_for_those_who_trace(workshop: Workshop) -> None:
    module = workshop.make(VIEW)
    layer = module.Bf16Linear(40, 24)
    layer.fill(random(24, 40))
    args = (random(3, 40, dtype=BF16), layer.units, layer.table, layer.escapes, layer.bounds, None, 24)
    torch.library.opcheck(module.bf16_linear, args, test_utils=("test_schema", "test_faketensor"))
    with torch.no_grad():
        assert torch.equal(module.bf16_linear(*args), layer(args[0]))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(torch.empty(2, 7, 40, dtype=BF16)).shape == (2, 7, 24)


def test_a_weight_of_other_sizes_is_refused(workshop: Workshop) -> None:
    with pytest.raises(AssertionError, match="other sizes"):
        layer_of(workshop, 64, 48)(random(2, 32, dtype=BF16))


def test_weights_are_put_in_order_as_they_are_loaded(workshop: Workshop, tmp_path: Path) -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(37, 19), torch.nn.LayerNorm(19))
    save_weights(plain, tmp_path)
    model = torch.nn.Sequential(workshop.make(VIEW).Bf16Linear(37, 19, bias=True), torch.nn.LayerNorm(19)).to(BF16)
    load_weights(model, tmp_path)
    layer = model[0]
    assert isinstance(layer, PanelLinear)
    assert torch.equal(layer.whole(), plain[0].weight.to(BF16))
    assert layer.num_bytes == 32 * 40 * 1.5 + 16 + 3 * 4 + layer.escapes.nbytes  # whole panels and units
    assert layer.weight.is_meta


def test_random_weights_have_the_deviation_asked_for(workshop: Workshop) -> None:
    layer = layer_of(workshop, 256, 128)
    fill_randomly(torch.nn.Sequential(layer), deviation=0.02)
    assert 0.019 < float(layer.whole().float().std()) < 0.021
