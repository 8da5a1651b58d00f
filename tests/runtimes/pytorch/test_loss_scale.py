"""The scale of the loss by itself."""

from __future__ import annotations

import math

import pytest
import torch

from llmc.runtimes.pytorch.loss_scale import LEAST, LossScale
from llmc.runtimes.reference.loss import headroom


def test_it_halves_after_an_overflow_and_doubles_after_sound_steps_in_a_row() -> None:
    scale = LossScale(start=8.0, double_every=2)
    norms = [1.0, math.inf, 1.0, math.nan, 1.0, 1.0, 1.0, 1.0]
    taken = [scale.accepts(loss=2.0, grad_norm=norm) for norm in norms]
    assert taken == [math.isfinite(norm) for norm in norms]
    assert scale.figures() == {"loss_scale": 8.0, "skipped_steps": 2}


def test_what_overflows_under_the_least_scale_is_left_to_the_watch() -> None:
    scale = LossScale(start=2.0, double_every=2)
    assert not scale.accepts(loss=2.0, grad_norm=math.inf)
    assert scale.value == LEAST
    assert scale.accepts(loss=2.0, grad_norm=math.inf)
    assert scale.accepts(loss=math.nan, grad_norm=math.nan)
    assert (scale.value, scale.sound_steps) == (LEAST, 0)


def test_its_state_goes_through_a_checkpoint() -> None:
    scale, other = LossScale(start=4.0, double_every=3), LossScale(start=1024.0, double_every=3)
    for norm in (math.inf, 1.0, 1.0):
        scale.accepts(loss=1.0, grad_norm=norm)
    other.restore({"epoch": 1} | scale.state())
    assert other.state() == scale.state()
    assert other.value == 2.0
    other.restore({})
    assert other.value == 2.0


def test_unscaling_by_a_power_of_two_changes_no_digit() -> None:
    model = torch.nn.Linear(3, 2)
    wanted = [torch.randn_like(each) for each in model.parameters()]
    for each, gradient in zip(model.parameters(), wanted, strict=True):
        each.grad = gradient * 65536.0
    LossScale(start=65536.0, double_every=1).unscale(model)
    found = [each.grad for each in model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True) if one is not None)


@pytest.mark.parametrize(("tokens", "room"), [(1, 1.0), (4096, 2.0**-6), (5000, 2.0**-7)])
def test_headroom_is_a_power_of_two_near_the_root(tokens: int, room: float) -> None:
    assert headroom(tokens, torch.float16) == room
    assert headroom(tokens, torch.bfloat16) == 1.0
