"""fp16 in several layouts: as close to fp32 as its digits allow, and an overflow of one rank is a step that none takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from programs import build, plan_of
from reference import MODELS, STEPS, filled, spec_of
from safetensors.torch import load_file
from test_mutations import Fault, with_fault
from watched import corpus, lines, run, watched_spec

from llmc.compiler.planner.layout import Layout

CLOSE = 2e-3
"""fp16 has 11 binary digits: 5e-4 of a number."""
DP2 = filled(Layout(dp_shard=2, zero=3))
LAYOUTS = {
    "dp 2": filled(Layout(dp_replicate=2, zero=0)),
    "zero 3 x 2": DP2,
    "tp 2 x pp 2": filled(Layout(tp=2, pp=2, zero=0)),
    "tp 2 + sp x cp 2": filled(Layout(tp=2, sequence_parallel=True, cp=2, cp_kind="ring", zero=3)),
}


def fp16(layout: Layout, folder: Path) -> Path:
    spec = spec_of(MODELS["llama"], precision="fp16")
    return build(spec, folder, plan=plan_of(spec, layout=layout))


def train(pool: Pool, folder: Path, reference: Path, *, steps: int, world_size: int = 2, **args: Any) -> list[Any]:
    """What each rank found."""
    given = {"folder": str(folder), "reference": str(reference), "steps": steps, **args}
    return pool.run("train_narrow", world_size=world_size, **given)


def differences(found: list[list[float]], reference: Path) -> dict[str, float]:
    """The largest ones from fp32, as shares."""
    expected = load_file(reference / "reference.safetensors")
    kinds = zip(("loss", "grad_norm"), list(zip(*found, strict=True))[:2], strict=True)
    return {
        kind: max(abs(one - other.item()) / other.item() for one, other in zip(values, expected[kind], strict=False))
        for kind, values in kinds
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_fp16_is_close_to_fp32(name: str, pool: Pool, reference_of: Callable[[str], Path], tmp_path: Path) -> None:
    layout, reference = LAYOUTS[name], reference_of("llama")
    steps = STEPS if name in ("dp 2", "zero 3 x 2", "tp 2 x pp 2") else 5
    ranks = train(pool, fp16(layout, tmp_path), reference, steps=steps, world_size=layout.devices)
    for found in ranks:
        assert found == ranks[0]
        away = differences(found, reference)
        assert away["loss"] < CLOSE, away
        assert away["grad_norm"] < 10 * CLOSE, away


def test_an_overflow_is_skipped_by_all_and_halves_the_scale(
    pool: Pool, reference_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of all ranks under a scale that is much too large, and later of one rank alone."""
    folder = fp16(DP2, tmp_path)
    ranks = train(pool, folder, reference_of("llama"), steps=16, scale=2.0**24, spoiled_step=14)
    assert ranks[0] == ranks[1]
    losses, norms, scales = zip(*ranks[0], strict=True)
    overflows = [not math.isfinite(norm) for norm in norms]
    assert overflows[:2] == [True, True]
    assert not any(overflows[10:14])
    assert overflows[14]
    before = 2.0**24
    for is_over, scale in zip(overflows, scales, strict=True):
        assert scale == (before / 2 if is_over else before)
        before = scale
    assert losses == pytest.approx([losses[0]] * len(losses), rel=0.05)


NORM = "    SCALE.unscale(model)\n    sums = torch.stack((total, sum_of_squares(model, place.cuts)))"
FAULTS = (
    Fault("gradients not unscaled", "train.py", "SCALE.unscale(model)", "pass", ""),
    Fault("loss not scaled", "train.py", "(loss * SCALE.value).backward()", "loss.backward()", ""),
    Fault("unscaled after the norm", "train.py", NORM, "\n".join(reversed(NORM.split("\n"))), ""),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_faults_show_in_the_norm(fault: Fault, pool: Pool, reference_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = with_fault(fault, fp16(DP2, tmp_path / "whole"), tmp_path / "broken")
    ranks = train(pool, folder, reference_of("llama"), steps=2)
    assert max(differences(found, reference_of("llama"))["grad_norm"] for found in ranks) > 0.1


def test_a_finite_check_of_each_rank_alone_shows(
    pool: Pool, reference_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """The rank whose gradients are sound takes the step that the other leaves out."""
    old = "loss, grad_norm = sums[0], sums[1].sqrt()"
    fault = Fault("own", "train.py", old, "loss, grad_norm = sums[0], sum_of_squares(model, place.cuts).sqrt()", "")
    folder = with_fault(fault, fp16(DP2, tmp_path / "whole"), tmp_path / "broken")
    first, second = train(pool, folder, reference_of("llama"), steps=2, spoiled_step=1)
    assert math.isfinite(first[1][1])
    assert not math.isfinite(second[1][1])


def test_the_scale_goes_on_in_another_layout(pool: Pool, tmp_path: Path) -> None:
    """A run of two shards is stopped after step 6 and goes on as stages that tp cuts, and as itself."""
    scaling = {"start": 2.0**24, "double_every_steps": 3}
    spec = watched_spec(precision="fp16", loss_scale=scaling)
    data = corpus(tmp_path / "data")
    shards = build(spec, tmp_path / "shards", plan=plan_of(spec, layout=Layout(dp_shard=2, zero=3, micro_batch=2)))
    stages = Layout(tp=2, sequence_parallel=True, micro_batch=2, grad_accumulation=2)
    cut = build(spec, tmp_path / "cut", plan=plan_of(spec, layout=stages))

    def go(program: Path, run_dir: str, *flags: str) -> None:
        where = {"folder": str(program), "run_dir": str(tmp_path / run_dir), "data": str(data), "flags": flags}
        pool.run("run", world_size=2, **where, poison={}, pauses_s=[])

    go(shards, "whole")
    go(shards, "again", "--max-steps", "6")
    go(shards, "again", "--resume")
    whole = lines(tmp_path / "whole" / "metrics.jsonl")
    assert lines(tmp_path / "again" / "metrics.jsonl") == whole
    go(shards, "moved", "--max-steps", "6")
    go(cut, "moved", "--resume", "--max-steps", "9")
    alone = build(spec, tmp_path / "one", plan=plan_of(spec, layout=Layout(micro_batch=4)))
    run(alone, tmp_path / "moved", data, "--resume", poison={})
    moved = lines(tmp_path / "moved" / "metrics.jsonl")
    assert moved[:6] == whole[:6]
    assert [line["skipped_steps"] for line in moved] == sorted(line["skipped_steps"] for line in moved)
    assert moved[6]["loss_scale"] / moved[5]["loss_scale"] in (0.5, 1.0, 2.0)
    assert moved[5]["loss_scale"] < scaling["start"] / 2
    assert whole[-1]["skipped_steps"] > 2
    assert moved[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=0.05)
