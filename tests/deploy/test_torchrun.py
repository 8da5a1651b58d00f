"""The generated torchrun script: one node, two nodes that meet on loopback, and a rank that dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from starts import starts, steps
from trees import STEPS, cpus, training, write_launch

DEPLOY = {"target": "torchrun", "python": sys.executable, "environment": {"OWN_VALUE": "a 'b' $HOME"}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(program: Path, folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        ["bash", str(program / "launch/torchrun.sh"), *arguments],
        cwd=folder,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(output)
    assert process.returncode == 0, output
    return output


def test_one_node_runs_from_another_folder_and_goes_on(tmp_path: Path) -> None:
    program = write_launch(*training(DEPLOY, cpus(2)), tmp_path / "program")
    (tmp_path / "work").mkdir()
    finish(start(program, tmp_path / "work", "--max-steps", "5"))
    run_dir = tmp_path / "work/runs/tiny"
    assert steps(run_dir) == list(range(1, 6))
    finish(start(program, tmp_path / "work"))
    assert steps(run_dir) == list(range(1, STEPS + 1))
    ranks = starts(run_dir)
    assert sorted((each["rank"], each["first"]) for each in ranks) == [(0, 0), (0, 5), (1, 0), (1, 5)]
    environment = ranks[0]["environment"]
    assert environment["OWN_VALUE"] == "a 'b' $HOME"
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert int(environment["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)


def test_two_nodes_meet_on_loopback_and_outlive_a_killed_rank(tmp_path: Path) -> None:
    program = write_launch(*training(DEPLOY, cpus(1, nodes=2)), tmp_path)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_ADDR": "127.0.0.1"}
    nodes = [start(program, tmp_path, "--fail-at", "7", **meeting) for _ in range(2)]
    for node in nodes:
        finish(node)
    run_dir = tmp_path / "runs/tiny"
    assert steps(run_dir) == list(range(1, STEPS + 1))
    found = [(each["world"], each["first"]) for each in starts(run_dir)]
    assert sorted(found) == [(2, 0), (2, 0), (2, 6), (2, 6)]


def test_many_nodes_ask_where_to_meet(tmp_path: Path) -> None:
    program = write_launch(*training(DEPLOY, cpus(1, nodes=2)), tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "MASTER_ADDR"}
    found = subprocess.run(
        ["bash", str(program / "launch/torchrun.sh")], env=environment, capture_output=True, text=True, timeout=20
    )
    assert found.returncode != 0
    assert "the same on every node" in found.stderr
