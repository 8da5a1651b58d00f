"""What a piece of a prompt takes on a TPU beside weights and cache: the plan's figure against that of the compiler."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.compiler.cost.serving import RUNTIME_BYTES
from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build
from llmc.compiler.verify.environments import ROOT

SPEC = """\
llmc: 1
name: one-layer
model: {preset: llama-3-8b, num_layers: 1}
hardware: {accelerator: tpu-v5e, topology: 1x1}
serve:
  max_seq_len: 2048
  shapes: fixed
  layout: {tp: 1, replicas: 1, max_batch: 8, prefill_chunk: 512}
"""


@pytest.mark.slow
def test_scores_of_a_prompt_are_counted(xla: Callable[..., str], tpu_compiler: Path, tmp_path: Path) -> None:
    """32 heads x 512 x 2,048 x 12 bytes, and less than a fifth of it more."""
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    result = build(tmp_path / "spec.yaml", tmp_path / "program")
    assert result.tree is not None, result.diagnostics
    write_tree(result.tree, result.out_dir)
    xla(Path(__file__).with_name("stage_prompt.py"), result.out_dir, devices=1)
    graph, script = result.out_dir / "prompt.mlir", ROOT / "runtimes" / "xla" / "compile_for_tpu.py"
    command = [tpu_compiler, script, graph, "v5e:2x2", "1", tmp_path / "program.hlo", "--donate-all", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["memory"]["temp"]
    assert result.entry.plan.serve is not None
    planned = result.entry.plan.serve.predicted.memory_gib.buffers * (1 << 30) - RUNTIME_BYTES
    assert found > 32 * 512 * 2048 * 12
    assert found <= planned <= 1.2 * found
