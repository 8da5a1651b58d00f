"""Views hold finished values: constants worked out, windows that hide nothing dropped, signatures complete."""

from __future__ import annotations

import math
from typing import Any

import pytest
from architectures import ARCHITECTURES
from programs import TINY, plan_of, tiny_spec

from llmc.compiler.lower.model import lower_model
from llmc.compiler.lower.model_view import ModelView
from llmc.compiler.lower.numbers import count, gib, scientific
from llmc.compiler.lower.position import alibi_slopes
from llmc.compiler.lower.train import lower_train
from llmc.compiler.planner.layout import Layout


def view(*, without: tuple[str, ...] = (), **changes: Any) -> ModelView:
    return lower_model(
        tiny_spec(without=without, **changes), origin="x.yaml", num_parameters=1, recompute="none", kernels=()
    )


def test_slopes_of_a_power_of_two_are_geometric() -> None:
    assert alibi_slopes(8) == pytest.approx([2.0**-i for i in range(1, 9)])


def test_slopes_beyond_a_power_of_two_lie_between() -> None:
    """12 heads: those of 8, then every other of those of 16 (Press 2021, section 3)."""
    assert alibi_slopes(12) == pytest.approx([2.0**-i for i in range(1, 9)] + [2.0 ** -(i / 2) for i in (1, 3, 5, 7)])


def test_yarn_ramp_is_where_the_turns_say() -> None:
    """Pair i of 8 turns 32 / (2 pi theta**(i/8)) times in 32 tokens: fewer than 1 from the first pair on that the ramp ends at."""
    rope = view(model=ARCHITECTURES["yarn"]).position.rope
    assert rope is not None
    turns = [32 / (2 * math.pi * 10000 ** (i / 8)) for i in range(8)]
    assert all(times < 1 for times in turns[int(rope.ramp[1]) :])
    assert turns[int(rope.ramp[1]) - 1] >= 1
    assert rope.ramp[0] == 0.0  # even the fastest pair turns fewer than 32 times
    assert rope.magnitude == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(("longest", "kind"), [(32, "short"), (33, "long")])
def test_longrope_takes_the_divisors_of_the_longest_sequence(longest: int, kind: str) -> None:
    changes = {"model": ARCHITECTURES["longrope"], "serve": {"max_seq_len": longest}}
    rope = view(without=("train", "data"), **changes).position.rope
    assert rope is not None
    assert rope.factors_kind == kind
    assert rope.magnitude == pytest.approx(math.sqrt(1 + math.log(128 / 32) / math.log(32)))


@pytest.mark.parametrize(("window", "kept"), [(127, 127), (128, None), (4096, None)])
def test_a_window_that_hides_nothing_is_dropped_and_said_to_be(window: int, kept: int | None) -> None:
    found = view(model={"attention": {"kind": "gqa", "window": window}})
    assert found.attention.window == kept
    assert (kept is None) == any("holds every sequence" in line for line in found.summary)


SIGNATURES = {
    (
        "llama",
        True,
    ): "self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None",
    ("llama", False): "self, x: Tensor, cos: Tensor, sin: Tensor",
    ("gpt2", False): "self, x: Tensor",
    ("mistral", False): "self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor",
    ("bloom", False): "self, x: Tensor, bias: Tensor",
    ("sinks", False): "self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor",
    ("gemma3", False): "self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None",
}


@pytest.mark.parametrize(("name", "is_served"), SIGNATURES)
def test_layers_take_what_they_need(name: str, is_served: bool) -> None:
    without = () if is_served else ("serve",)
    fields = ARCHITECTURES[name]
    assert view(without=without, model=fields).layers.params == SIGNATURES[name, is_served]


def test_training_constants() -> None:
    train = TINY["train"] | {"tokens": 10_000, "steps": None, "schedule": {"name": "wsd", "decay_steps": 7}}
    spec = tiny_spec(train=train)
    plan = plan_of(spec, layout=Layout(micro_batch=2, grad_accumulation=4)).train
    assert plan is not None
    found = lower_train(spec, plan, origin="x.yaml", device="cpu", kernels=())
    assert (found.steps, found.tokens_per_step, found.global_batch) == (20, 512, 8)
    assert found.steps_reason == "10k tokens, rounded up to whole steps"
    assert (found.decay_steps, found.warmup_steps, found.lr_span) == (7, 0, 1.0)
    assert float(found.peak_flops_per_s) == 4e11  # 0.1 TFLOP/s at an MFU of 25 %


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (1000, "1k"),
        (13_112_832, "13.1M"),
        (8_000_000, "8M"),
        (8_030_261_248, "8.03B"),
        (405 * 10**9, "405B"),
        (15 * 10**12, "15T"),
    ],
)
def test_counts_read_well(value: int, text: str) -> None:
    assert count(value) == text


def test_other_numbers_read_well() -> None:
    assert gib(1.26 * 2**30) == "1.3 GiB"
    assert gib(48 * 2**20) == "48 MiB"
    assert scientific(4.0e11) == "4e11"
    assert scientific(69_690_000) == "6.969e7"
