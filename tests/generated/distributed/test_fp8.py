"""fp8 in several layouts: rounds as on one device, sends what its plan says, and a layer left out of it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from programs import TINY, build, plan_of
from reference import filled, run_alone, spec_of
from safetensors.torch import load_file
from test_mutations import LAYOUT, Fault, build_with_claims, claims_that_fail, with_fault

from llmc.compiler.planner.layout import Layout
from llmc.spec.base import place
from llmc.spec.hardware import Hardware

STEPS = 5
ROUNDED = 1e-6
"""What is left where all numbers that fp8 rounds together are on one rank."""
CUT = 2e-3
"""Where tp cuts them: a part of a row has a scale of its own."""
LAYOUTS = {
    "zero 3 x 2": (filled(Layout(dp_shard=2, zero=3)), ROUNDED),
    "cp 2": (filled(Layout(cp=2, cp_kind="ring", zero=1)), ROUNDED),
    "tp 2 + sp": (filled(Layout(tp=2, sequence_parallel=True)), CUT),
    "tp 2 x pp 2": (filled(Layout(tp=2, pp=2, zero=0)), CUT),
}
GPU = {
    "accelerator": TINY["hardware"]["accelerator"]
    | {"name": "gpu", "kind": "gpu", "peak_tflops": {"fp8": 2.0, "bf16": 1.0}}
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_alone(spec_of({}, precision="fp8"), folder)
    return folder


def away(pool: Pool, folder: Path, reference: Path, *, ranks: int) -> list[float]:
    """How far the loss of each step is from that of one device."""
    given = {"folder": str(folder), "reference": str(reference), "steps": STEPS}
    found: list[Any] = pool.run("train_narrow", world_size=ranks, **given)
    expected = load_file(reference / "reference.safetensors")["loss"]
    return [abs(step[0] - loss.item()) / loss.item() for step, loss in zip(found[0], expected, strict=False)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_round_as_one_device_does(name: str, pool: Pool, reference: Path, tmp_path: Path) -> None:
    """In the first step; later ones start from weights whose gradients were sums over other tokens."""
    layout, close = LAYOUTS[name]
    spec = spec_of({}, precision="fp8")
    folder = build(spec, tmp_path, plan=plan_of(spec, layout=layout))
    first, *later = away(pool, folder, reference, ranks=layout.devices)
    assert first < close
    assert max(later) < CUT


def test_a_layer_that_is_not_in_fp8_shows(pool: Pool, reference: Path, tmp_path: Path) -> None:
    layout, close = LAYOUTS["zero 3 x 2"]
    spec = spec_of({}, precision="fp8")
    fault = Fault("wide", "model.py", "self.down = Fp8Linear(", "self.down = nn.Linear(", "")
    whole = build(spec, tmp_path / "whole", plan=plan_of(spec, layout=layout))
    assert away(pool, with_fault(fault, whole, tmp_path / "wide"), reference, ranks=2)[0] > 5 * close


SENT = {
    "dp 2 x tp 2 + sp": LAYOUT,
    "tp 2 x pp 2": LAYOUTS["tp 2 x pp 2"][0],  # by autocast, from fp32 weights
    "tp 2 + sp": LAYOUTS["tp 2 + sp"][0],
}


@pytest.mark.parametrize(
    ("precision", "name"),
    [("fp8", "dp 2 x tp 2 + sp"), ("fp16", "dp 2 x tp 2 + sp"), ("fp16", "tp 2 x pp 2"), ("fp8", "tp 2 + sp")],
)
def test_plans_know_what_narrow_programs_send_and_hold(precision: str, name: str, tmp_path: Path) -> None:
    spec = spec_of({}, precision=precision).model_copy(update={"hardware": Hardware.model_validate(GPU)})
    place(spec)
    assert claims_that_fail(build_with_claims(spec, tmp_path, layout=SENT[name])) == []
