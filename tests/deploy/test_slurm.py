"""The generated batch job on a real Slurm of one node: to the end, after a failure, after its time limit, after `scontrol requeue`."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Slurm, slurm, tool
from starts import starts, steps
from trees import STEPS, cpus, training, write_launch

NEEDED = ("munged", "slurmctld-wlm", "slurmd-wlm", "srun", "sbatch")
pytestmark = [
    pytest.mark.skipif(
        any(tool(name) is None and tool(name.removesuffix("-wlm")) is None for name in NEEDED),
        reason="Slurm is not here: make tools unpacks Debian's packages into .venv/tools",
    ),
    pytest.mark.slow,
]
RANKS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="llmc-") as folder, slurm(Path(folder), cpus=RANKS) as found:
        yield found


def program(folder: Path, **changes: Any) -> Path:
    deploy = {"target": "slurm", "python": sys.executable, "environment": {"OWN_VALUE": "a 'b' $HOME"}, **changes}
    return write_launch(*training(deploy, cpus(RANKS)), folder)


def submit(cluster: Slurm, folder: Path, *arguments: str) -> str:
    return cluster.call("sbatch", "--parsable", "launch/train.sbatch", *arguments, cwd=folder).strip()


def log(folder: Path, job: str) -> str:
    return (folder / f"tiny-{job}.log").read_text(encoding="utf-8")


def wait_for_step(run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not (run_dir / "metrics.jsonl").exists() or (steps(run_dir) or [0])[-1] < step:
        assert time.monotonic() < deadline, "no step"
        time.sleep(0.1)


def test_a_job_runs_to_its_end(cluster: Slurm, tmp_path: Path) -> None:
    job = submit(cluster, program(tmp_path, partition="debug", time_limit_h=1.0))
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", log(tmp_path, job)
    run_dir = tmp_path / "runs/tiny"
    assert steps(run_dir) == list(range(1, STEPS + 1))
    found = starts(run_dir)
    assert sorted((each["rank"], each["local"], each["world"]) for each in found) == [(0, "0", 2), (1, "1", 2)]
    assert found[0]["environment"]["OWN_VALUE"] == "a 'b' $HOME"
    assert found[0]["environment"]["OMP_NUM_THREADS"] == "1"


def test_a_failed_job_is_queued_again_and_goes_on(cluster: Slurm, tmp_path: Path) -> None:
    job = submit(cluster, program(tmp_path), "--fail-at", "6")
    run_dir = tmp_path / "runs/tiny"
    wait_for_step(run_dir, 5)
    ends_after_requeue(cluster, tmp_path, job)
    assert steps(run_dir) == list(range(1, STEPS + 1))
    assert sorted(each["first"] for each in starts(run_dir)) == [0, 0, 5, 5]


def test_a_requeue_by_hand_loses_at_most_the_step_at_hand(cluster: Slurm, tmp_path: Path) -> None:
    job = submit(cluster, program(tmp_path), "--step-s", "0.2")
    run_dir = tmp_path / "runs/tiny"
    wait_for_step(run_dir, 4)
    cluster.call("scontrol", "requeue", job)
    ends_after_requeue(cluster, tmp_path, job)
    assert steps(run_dir) == list(range(1, STEPS + 1))
    assert starts(run_dir)[-1]["first"] >= 4


def test_before_the_time_limit_ranks_are_told_to_stop_and_the_job_is_queued_again(
    cluster: Slurm, tmp_path: Path
) -> None:
    """The limit is shortened to less than the signal's notice once the run has begun: Slurm signals at its next look, 30 s later at most."""
    job = submit(cluster, program(tmp_path, time_limit_h=1.0, signal_s=300.0), "--step-s", "2")
    run_dir = tmp_path / "runs/tiny"
    wait_for_step(run_dir, 2)
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    assert cluster.wait(job, "PENDING", "COMPLETED", "FAILED", "TIMEOUT") == "PENDING", log(tmp_path, job)
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    ends_after_requeue(cluster, tmp_path, job)
    assert steps(run_dir) == list(range(1, STEPS + 1))  # no step twice: the ranks ended theirs
    firsts = [each["first"] for each in starts(run_dir)]
    assert 2 <= max(firsts) < STEPS
    assert "srun ended with status 0" in log(tmp_path, job)


def test_a_job_that_fails_at_once_is_given_up(cluster: Slurm, tmp_path: Path) -> None:
    folder = program(tmp_path, max_restarts=0)
    (folder / "train.py").write_text("raise SystemExit(3)", encoding="utf-8")
    job = submit(cluster, folder)
    assert cluster.wait(job, "COMPLETED", "FAILED") == "FAILED"
    # 143 where the other rank was ended before it could say 3 itself
    assert re.search(r"srun ended with status (3|143) after step 0", log(folder, job))


def ends_after_requeue(cluster: Slurm, folder: Path, job: str) -> None:
    """Wait for the end, without the time for which Slurm holds a job that was queued again."""
    deadline = time.monotonic() + 120
    while (state := cluster.state(job)) not in ("COMPLETED", "FAILED", "TIMEOUT"):
        assert time.monotonic() < deadline, f"{state}\n{log(folder, job)}\n{cluster.logs()}"
        if state == "PENDING":
            cluster.start_now(job)
        time.sleep(0.5)
    assert state == "COMPLETED", log(folder, job)
