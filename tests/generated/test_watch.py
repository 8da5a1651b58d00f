"""A step whose loss is no number or a spike is not taken, and the run does what its spec says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from programs import build, plan_of
from prometheus_client.parser import text_string_to_metric_families
from watched import BATCH, STEPS, corpus, lines, run, watched_spec

from llmc.compiler.lower.refuse import refuse_program
from llmc.compiler.planner.layout import Layout
from llmc.runtimes.common.errors import RunError
from llmc.runtimes.pytorch.loss_watch import LossWatch

BAD_STEP = 8
POISONED = (BAD_STEP - 1) * BATCH + 1
"""A sample of that step."""
SPIKES = {"spike_ratio": 3.0, "window_steps": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("data"))


def built(folder: Path, **divergence: Any) -> Path:
    spec = watched_spec(divergence=divergence)
    return build(spec, folder, plan=plan_of(spec, layout=Layout(micro_batch=2, grad_accumulation=2)))


def decisions(run_dir: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "why"} for line in lines(run_dir / "watch.jsonl")]


def exported(run_dir: Path) -> dict[str, float]:
    families = text_string_to_metric_families((run_dir / "metrics.prom").read_text())
    return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize("factor", [math.nan, 50.0])
def test_skip_leaves_the_batch_out_and_sees_all_others_once(factor: float, data: Path, tmp_path: Path) -> None:
    program = built(tmp_path / "program", policy="skip", **SPIKES)
    taken = run(program, tmp_path / "run", data, poison={POISONED: factor})
    assert taken == list(range(STEPS * BATCH))
    assert decisions(tmp_path / "run") == [{"step": BAD_STEP, "left_out": BAD_STEP, "policy": "skip"}]
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    assert math.isfinite(metrics[-1]["loss"])
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert exported(tmp_path / "run")["llmc_train_batches_left_out_total"] == 1
    assert exported(tmp_path / "run")["llmc_train_step"] == STEPS


def test_roll_back_returns_to_the_checkpoint_and_goes_on_behind_the_batch(data: Path, tmp_path: Path) -> None:
    program = built(tmp_path / "program", policy="roll_back", **SPIKES)
    taken = run(program, tmp_path / "run", data, poison={POISONED: math.nan})
    assert taken == list(range((STEPS + BAD_STEP - 6) * BATCH))  # the steps since that of the checkpoint are done again
    assert decisions(tmp_path / "run") == [{"step": 7, "left_out": BAD_STEP, "policy": "roll_back", "back_to": 6}]
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert exported(tmp_path / "run")["llmc_train_roll_backs_total"] == 1


def test_lower_rate_halves_it_for_some_steps(data: Path, tmp_path: Path) -> None:
    program = built(tmp_path / "program", policy="lower_rate", lr_ratio=0.5, lr_steps=2, **SPIKES)
    run(program, tmp_path / "run", data, poison={POISONED: math.inf})
    factors = [line["lr_factor"] for line in lines(tmp_path / "run" / "metrics.jsonl")]
    assert factors == [*(1.0 for _ in range(BAD_STEP)), 0.5, 0.5, 1.0, 1.0]
    assert exported(tmp_path / "run")["llmc_train_lr_factor"] == 1.0


@pytest.mark.parametrize("policy", ["skip", "roll_back", "lower_rate"])
def test_a_resumed_run_decides_as_one_that_was_not_stopped(policy: str, data: Path, tmp_path: Path) -> None:
    """Stopped after the bad step and the next checkpoint; a second spike comes after it."""
    program = built(tmp_path / "program", policy=policy, **SPIKES)
    poison = {POISONED: math.nan, POISONED + 3 * BATCH: 50.0}
    run(program, tmp_path / "whole", data, poison=poison)
    run(program, tmp_path / "run", data, "--max-steps", "9", poison=poison)
    run(program, tmp_path / "run", data, "--resume", poison=poison)
    for name in ("metrics.jsonl", "watch.jsonl"):
        assert lines(tmp_path / "run" / name) == lines(tmp_path / "whole" / name)
    assert len(lines(tmp_path / "run" / "watch.jsonl")) == 2


def test_a_run_that_only_diverges_ends(data: Path, tmp_path: Path) -> None:
    program = built(tmp_path / "program", policy="skip", most_in_a_row=2)
    with pytest.raises(RunError, match="3 steps in a row were not taken"):
        run(program, tmp_path / "run", data, poison=dict.fromkeys(range(BATCH * STEPS), math.nan))
    assert len(decisions(tmp_path / "run")) == 2


def test_a_loss_is_a_spike_beside_the_median_of_sound_ones() -> None:
    watch = LossWatch("skip", spike_ratio=2.0, window_steps=3, most_in_a_row=9)
    given = {4.0: True, 30.0: True, 3.0: True, 8.1: False, 7.9: True, math.nan: False, 15.9: False, 15.7: True}
    assert {loss: watch.accepts(loss=loss, grad_norm=1.0) for loss in given} == given
    assert not watch.accepts(loss=1.0, grad_norm=math.inf)


@pytest.mark.parametrize(
    ("watch", "layout", "message"),
    [
        ({"hang_s": 300.0}, Layout(micro_batch=4), "the plan has one device"),
        ({"stragglers_every_steps": 5}, Layout(micro_batch=4), "the plan has one device"),
        ({"hang_s": 1.1}, Layout(dp_shard=2, zero=3, micro_batch=2), "a step may take 1.2 s"),
    ],
)
def test_a_watch_that_could_not_keep_its_word_is_refused(watch: dict, layout: Layout, message: str) -> None:
    spec = watched_spec(**watch)
    (refused,) = refuse_program(spec, plan_of(spec, layout=layout))
    assert message in refused.message
    assert refused.path == ("train", 0, "watch", *watch)
