"""A training program for two ranks, built from a spec, and runs of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from starts import steps

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build

SPEC = """
name: tiny
model: {family: llama, hidden_size: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, intermediate_size: 64, vocab_size: 300, max_seq_len: 32}
hardware: {accelerator: {like: cpu, per_node: 2}, nodes: 1}
data: {sources: [{path: text.txt}], tokenizer: {train: bpe}}
train: {objective: causal_lm, steps: 12, seq_len: 32, global_batch: 4, precision: fp32, checkpoint: {every_steps: 2, keep: 2}}
parallel: {dp_shard: 2, zero: 3, micro_batch: 2}
"""
STEPS = 12


def built(folder: Path, target: str, **fields: str) -> Path:
    """The program, with launch files of a target."""
    options = [f"deploy.target={target}", *(f"deploy.{name}={value}" for name, value in fields.items())]
    result = build(folder / "spec.yaml", folder / target, options)
    assert result.tree is not None, result.diagnostics
    write_tree(result.tree, folder / target)
    return folder / target


def prepare(folder: Path) -> None:
    """The spec, its text, and a run whose corpus is prepared and which has done two steps."""
    words = Path(shutil.__file__).read_text(encoding="utf-8")
    (folder / "text.txt").write_text(words * 3, encoding="utf-8")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    program = built(folder, "torchrun", python=sys.executable)
    command = ["bash", str(program / "launch/torchrun.sh"), "--max-steps", "2"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    assert steps(folder / "runs/tiny") == [1, 2]


def copy_of(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "work")
    return tmp_path / "work"


def is_whole(folder: Path) -> None:
    """Every step once, from the first to the last, and the last checkpoint."""
    assert steps(folder / "runs/tiny") == list(range(1, STEPS + 1))
    assert (folder / f"runs/tiny/checkpoints/step-{STEPS:08}").is_dir()
