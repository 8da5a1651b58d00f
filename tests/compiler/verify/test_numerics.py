"""What ranks are compared with: the program for one device, on batches that make it the same computation."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "generated"))

from architectures import ARCHITECTURES
from programs import build, plan_of, tiny_spec

from llmc.compiler.planner.layout import Layout
from llmc.compiler.verify.numerics import alone_of, check_numerics

LAYOUT = Layout(dp_shard=2, zero=3, ep=2, micro_batch=2, grad_accumulation=2)


def test_routers_that_balance_a_micro_batch_are_compared_on_the_same_micro_batches() -> None:
    spec = tiny_spec(model=ARCHITECTURES["mixtral"])
    assert alone_of(spec, LAYOUT) == Layout(micro_batch=2, grad_accumulation=4)
    assert alone_of(tiny_spec(), LAYOUT) == Layout(micro_batch=8)


def test_the_bias_that_balances_experts_is_followed(tmp_path: Path) -> None:
    spec = tiny_spec(without=("serve",), model=ARCHITECTURES["deepseek-v3"])
    plan = plan_of(spec, layout=LAYOUT)
    claims = list(check_numerics(spec, plan, built=build(spec, tmp_path, plan=plan)))
    assert [claim.found for claim in claims] == ["yes"] * 3, claims
