"""A generated program one of whose ranks stops in mid-run: it is named, and torchrun starts all of them again to the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import build, plan_of
from watched import STEPS, corpus, lines, watched_spec

from llmc.compiler.planner.layout import Layout

STOPPING = """
import os, runpy, signal, sys, time
from pathlib import Path

sys.path.insert(0, {program!r})
import model

loss, calls, marker = model.Model.loss, [], Path({marker!r})

def stopping(self, *args):
    calls.append(1)
    if len(calls) == 5 and os.environ["RANK"] == "1" and not marker.exists():
        marker.touch()
        while not (marker.parent / "run/checkpoints/step-00000003").exists():  # it is written beside training
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGSTOP)
    return loss(self, *args)

model.Model.loss = stopping
runpy.run_path({program!r} + "/train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_stopped_rank_is_named_and_the_run_ends_all_the_same(tmp_path: Path) -> None:
    spec = watched_spec(hang_s=6.0)
    program = build(spec, tmp_path / "program", plan=plan_of(spec, layout=Layout(dp_shard=2, zero=3, micro_batch=2)))
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING.format(program=str(program), marker=str(tmp_path / "stopped")))
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--max-restarts=1", "--shutdown-timeout=1", str(script), "--data", str(corpus(tmp_path / "data"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(
        [*torchrun, *options, "--run-dir", str(tmp_path / "run"), "--threads", "1", "--resume"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "error: no step has ended for 6 s; in step 5 all wait for rank 1" in done.stderr
    assert "resuming after step 3" in done.stderr
    folder = tmp_path / "run/hangs/1-step-00000005"
    text = (folder / "report.txt").read_text()
    assert "rank 0 (" in text
    assert "rank 1 has not come to it" in text
    assert "train.py" in (folder / "rank-0.txt").read_text()
    assert json.loads((folder / "rank-0.json").read_text())["step"] == 5
    assert [line["step"] for line in lines(tmp_path / "run/metrics.jsonl")] == list(range(1, STEPS + 1))
