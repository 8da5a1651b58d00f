"""`llmc run train --launcher`: the launch file and the command that gets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Llmc = Callable[..., Any]

SPEC = """
name: tiny
model: {family: llama, hidden_size: 32, num_layers: 1, num_heads: 2, num_kv_heads: 1, intermediate_size: 64, vocab_size: 300, max_seq_len: 64}
hardware: {accelerator: cpu, nodes: 1, per_node: 1}
data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}
train: {objective: causal_lm, steps: 2, seq_len: 32, global_batch: 2, precision: fp32}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def called(spec: Path, launcher: str, *args: str, stand_in: str) -> list[str]:
    """The words that the launcher's command, here a script of that name, is called with."""
    tools = spec.parent / "tools"
    tools.mkdir()
    (tools / stand_in).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    (tools / stand_in).chmod(0o755)
    command = [sys.executable, "-m", "llmc.cli.main", "run", "train", str(spec), "--launcher", launcher, *args]
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=spec.parent)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_slurm_gets_the_batch_script_and_the_programs_folder(spec: Path) -> None:
    words = called(spec, "slurm", "--set", "deploy.target=slurm", "--max-steps", "1", stand_in="sbatch")
    folder = spec.parent / "build/tiny"
    assert words == [f"--export=ALL,PROGRAM={folder}", "build/tiny/launch/train.sbatch", "--max-steps", "1"]


def test_kubernetes_gets_the_object(spec: Path) -> None:
    options = ("--set", "deploy={target: kubernetes, image: registry.example/tiny}")
    words = called(spec, "kubernetes", *options, stand_in="kubectl")
    assert words == ["apply", "-f", "build/tiny/launch/train.yaml"]


def test_a_spec_without_the_target_says_what_to_add(llmc: Llmc, spec: Path) -> None:
    ran = llmc("run", "train", spec, "--launcher", "slurm")
    assert ran.status == 2
    assert "--set deploy.target=slurm" in ran.err


def test_an_unknown_launcher_lists_the_known_ones(llmc: Llmc, spec: Path) -> None:
    ran = llmc("run", "train", spec, "--launcher", "slrum")
    assert ran.status == 2
    assert "no launcher `slrum`; known: `slurm`" in ran.err


def test_options_of_the_program_cannot_reach_an_object(llmc: Llmc, spec: Path) -> None:
    options = ("--set", "deploy={target: kubernetes, image: registry.example/tiny}", "--launcher", "kubernetes")
    ran = llmc("run", "train", spec, *options, "--max-steps", "1")
    assert ran.status == 2
    assert "takes no options of the program: --max-steps 1" in ran.err
