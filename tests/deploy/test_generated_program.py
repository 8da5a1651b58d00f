"""A generated training program for two ranks under its generated launch files, for real: torchrun, Slurm with a requeue (Ray: test_ray.py)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from real_program import built, copy_of, is_whole
from slurm_cluster import slurm, tool
from starts import steps

pytestmark = pytest.mark.slow


def test_torchrun_goes_on_with_a_run(prepared: Path, tmp_path: Path) -> None:
    folder = copy_of(prepared, tmp_path)
    command = ["bash", str(folder / "torchrun/launch/torchrun.sh")]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert found.returncode == 0, found.stderr[-4000:]
    is_whole(folder)


@pytest.mark.skipif(tool("slurmctld-wlm") is None, reason="Slurm is not here: make tools unpacks Debian's packages")
def test_slurm_runs_it_to_the_end_over_a_requeue(prepared: Path, tmp_path: Path) -> None:
    folder = copy_of(prepared, tmp_path)
    program = built(folder, "slurm", python=sys.executable)
    with tempfile.TemporaryDirectory(prefix="llmc-") as where, slurm(Path(where), cpus=2) as cluster:
        submit = ("--parsable", f"--export=ALL,PROGRAM={program}", str(program / "launch/train.sbatch"))
        job = cluster.call("sbatch", *submit, cwd=folder).strip()
        deadline = time.monotonic() + 300
        while steps(folder / "runs/tiny")[-1] < 5:
            assert time.monotonic() < deadline, cluster.logs()
            time.sleep(0.2)
        cluster.call("scontrol", "requeue", job)
        while (state := cluster.state(job)) not in ("COMPLETED", "FAILED"):
            assert time.monotonic() < deadline, cluster.logs()
            if state == "PENDING":
                cluster.start_now(job)
            time.sleep(0.5)
        assert state == "COMPLETED", (folder / f"tiny-{job}.log").read_text(encoding="utf-8")[-4000:]
    is_whole(folder)
