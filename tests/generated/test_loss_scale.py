"""fp16 on one device: the scale of the loss moves, and overflows are no divergence."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import build, imported, plan_of
from prometheus_client.parser import text_string_to_metric_families
from watched import BATCH, STEPS, corpus, lines, run, watched_spec

from llmc.compiler.planner.layout import Layout

SKIPPED_FIRST = 4
HUGE: dict[str, Any] = {"start": 2.0**26, "double_every_steps": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("data"))


def built(folder: Path, **watch: Any) -> Path:
    spec = watched_spec(precision="fp16", loss_scale=HUGE, **watch)
    return build(spec, folder, plan=plan_of(spec, layout=Layout(micro_batch=2, grad_accumulation=2)))


def test_overflows_are_skipped_and_are_no_divergence(data: Path, tmp_path: Path) -> None:
    """A watch that allows one bad step in a row sees a loss that is no number, and none of the overflows before it."""
    program = built(tmp_path / "program", divergence={"policy": "skip", "spike_ratio": None, "most_in_a_row": 1})
    bad_step = 10
    taken = run(program, tmp_path / "run", data, poison={(bad_step - 1) * BATCH: math.nan})
    assert taken == list(range(STEPS * BATCH))
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    skipped = [line["skipped_steps"] for line in metrics]
    assert skipped[:SKIPPED_FIRST] == list(range(1, SKIPPED_FIRST + 1))  # more than the watch would allow
    assert skipped[-1] < STEPS - 3
    assert [line["left_out"] for line in lines(tmp_path / "run" / "watch.jsonl")] == [bad_step]
    for before, line in pairwise(metrics):
        is_over = line["skipped_steps"] > before["skipped_steps"]
        assert line["loss_scale"] == before["loss_scale"] / 2 if is_over else line["loss_scale"] >= before["loss_scale"]
    families = text_string_to_metric_families((tmp_path / "run" / "metrics.prom").read_text())
    exported = {sample.name: sample.value for family in families for sample in family.samples}
    assert exported["llmc_train_loss_scale"] == metrics[-1]["loss_scale"]
    assert exported["llmc_train_skipped_steps"] == skipped[-1]


@pytest.mark.parametrize("stopped_after", [3, 8])
def test_a_resumed_run_is_the_same_to_the_bit(stopped_after: int, data: Path, tmp_path: Path) -> None:
    """Also where it is stopped before the optimizer has taken a step."""
    program = built(tmp_path / "program")
    run(program, tmp_path / "whole", data, poison={})
    run(program, tmp_path / "run", data, "--max-steps", str(stopped_after), poison={})
    run(program, tmp_path / "run", data, "--resume", poison={})
    name = "metrics.jsonl"
    assert lines(tmp_path / "run" / name) == lines(tmp_path / "whole" / name)
    last = [sorted((tmp_path / each / "checkpoints").iterdir())[-1] for each in ("run", "whole")]
    for file in ("model.safetensors", "optimizer.safetensors", "meta.json"):
        assert (last[0] / file).read_bytes() == (last[1] / file).read_bytes()


def test_the_gradient_of_the_head_is_summed_over_tokens_that_fp16_has_no_room_for(tmp_path: Path) -> None:
    """A word that comes 12,000 times, beside hidden states of 8: its sum is beyond 65,504, and a scale of the loss cures it."""
    spec = watched_spec(precision="fp16")
    with imported(build(spec, tmp_path, plan=plan_of(spec)), "kernels.linear_cross_entropy") as (program,):
        tokens, share = 12_000, 2.0**-16
        weight = torch.zeros(300, 32, dtype=torch.float16, requires_grad=True)
        hidden = torch.full((tokens, 32), 8.0, dtype=torch.float16, requires_grad=True)
        loss = program.linear_cross_entropy(hidden, weight, torch.zeros(tokens, dtype=torch.int64))
        (loss * share).backward()
    assert weight.grad is not None
    expected = -(1 - 1 / 300) * 8.0 * tokens * share
    assert weight.grad[0].float() == pytest.approx(torch.full((32,), expected), rel=2e-3)
