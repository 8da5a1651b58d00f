"""Several ranks leave the same batches out, also when they are resumed; the slowest of them is named."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from programs import build, plan_of
from prometheus_client.parser import text_string_to_metric_families
from watched import BATCH, STEPS, corpus, lines, watched_spec

from llmc.compiler.planner.layout import Layout

DP2 = Layout(dp_shard=2, zero=3, micro_batch=2)
BAD_STEP = 8
SPIKES = {"spike_ratio": 3.0, "window_steps": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("data"))


def start(pool: Pool, program: Path, run_dir: Path, data: Path, *flags: str, **args: Any) -> list[list[int]]:
    """The samples that each rank took."""
    given = {"poison": {}, "pauses_s": [], **args}
    return pool.run(
        "run", world_size=2, folder=str(program), run_dir=str(run_dir), data=str(data), flags=flags, **given
    )


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_ranks_leave_the_same_batches_out(policy: str, pool: Pool, data: Path, tmp_path: Path) -> None:
    """One rank alone sees the sample that is poisoned; the run is stopped, and goes on."""
    spec = watched_spec(divergence={"policy": policy, **SPIKES})
    program = build(spec, tmp_path / "program", plan=plan_of(spec, layout=DP2))
    poison = {(BAD_STEP - 1) * BATCH + 3: math.nan, (BAD_STEP + 2) * BATCH: 50.0}
    taken = start(pool, program, tmp_path / "whole", data, poison=poison)
    again = 2 + 3 if policy == "roll_back" else 0  # from steps 8 and 9 back to the checkpoint of step 6
    assert sorted(taken[0] + taken[1]) == list(range((STEPS + again) * BATCH))
    assert len(lines(tmp_path / "whole" / "watch.jsonl")) == 2
    start(pool, program, tmp_path / "run", data, "--max-steps", "9", poison=poison)
    start(pool, program, tmp_path / "run", data, "--resume", poison=poison)
    for name in ("metrics.jsonl", "watch.jsonl"):
        assert lines(tmp_path / "run" / name) == lines(tmp_path / "whole" / name)


def test_the_slowest_rank_is_named(pool: Pool, data: Path, tmp_path: Path) -> None:
    spec = watched_spec(stragglers_every_steps=4)
    program = build(spec, tmp_path / "program", plan=plan_of(spec, layout=DP2))
    start(pool, program, tmp_path / "run", data, pauses_s=[0.0, 0.3])
    reports = lines(tmp_path / "run" / "watch.jsonl")
    assert [(each["step"], each["rank"], each["host"]) for each in reports] == [
        (step, 1, socket.gethostname()) for step in (4, 8, 12)
    ]
    assert all(each["slowest_s"] > 0.3 and each["slowest_ratio"] > 1.2 for each in reports)
    families = text_string_to_metric_families((tmp_path / "run" / "metrics.prom").read_text())
    (sample,) = [each for family in families for each in family.samples if "slowest" in each.name]
    assert (sample.labels["rank"], sample.labels["host"]) == ("1", socket.gethostname())
    assert sample.value == reports[-1]["slowest_ratio"]
