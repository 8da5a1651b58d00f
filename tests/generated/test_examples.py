"""Every example becomes a program, or is told what of it is not lowered yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build

EXAMPLES_FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(EXAMPLES_FOLDER.glob("*.yaml"))
BUILT = {
    "tiny-code.yaml",
    "2-llama3-8b-64xh100.yaml",
    "3-llama3-405b-fixed.yaml",
    "4-mixtral-moe.yaml",
    "6-tpu.yaml",
    "7-ascend.yaml",
    "train-on-slices.yaml",
    "train-on-slurm.yaml",
    "serve-on-kubernetes.yaml",
    "serve-two-replicas.yaml",
    "serve-70b.yaml",
}
"""Those that are lowered today."""
PROGRAM = {"model.py", "plan.json", "manifest.json", "README.md"}
SECTIONS = {"train": {"train.py"}, "serve": {"serve.py"}}
LAUNCHED = {
    "train-on-slices.yaml": {"launch/queued_resource.sh", "launch/queued_resource.json"},
    "train-on-slurm.yaml": {"launch/train.sbatch"},
    "serve-on-kubernetes.yaml": {"launch/serve.yaml", "launch/autoscale.yaml", "launch/monitoring/dashboard.json"},
    "serve-two-replicas.yaml": {"router.py", "launch/compose.yaml", "launch/nginx.conf"},
    "serve-70b.yaml": {"launch/compose.yaml", "launch/nginx.conf"},
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_build_or_say_what_is_missing(path: Path, tmp_path: Path) -> None:
    result = build(path, tmp_path)
    codes = {each.code for each in result.diagnostics if each.severity == "error"}
    if path.name in BUILT:
        assert codes == set()
        assert result.tree is not None
        sections = [files for name, files in SECTIONS.items() if getattr(result.entry.spec, name) is not None]
        assert result.tree.texts.keys() >= PROGRAM.union(*sections, LAUNCHED.get(path.name, set()))
    else:
        assert codes == {"L301"}
        assert all(each.span is not None for each in result.diagnostics)


@pytest.mark.parametrize("more", [(), ("parallel.pp=1", "parallel.recompute=full")], ids=["as it is", "no pipeline"])
def test_the_mixture_of_experts_is_spread_over_eight_ranks(more: tuple[str, ...], tmp_path: Path) -> None:
    result = build(EXAMPLES_FOLDER / "4-mixtral-moe.yaml", tmp_path, more)
    assert [each.message for each in result.diagnostics if each.severity == "error"] == []
    assert result.tree is not None
    assert result.tree.texts.keys() >= {"model.py", "parallel.py", "train.py", "plan.json"}
    assert '"same_experts", "ep")' in result.tree.texts["parallel.py"]
    write_tree(result.tree, tmp_path)
    for command in (("check",), ("format", "--diff")):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_model_too_large_for_a_gpu_is_served_by_eight(tmp_path: Path) -> None:
    texts = build(EXAMPLES_FOLDER / "serve-70b.yaml", tmp_path).tree
    assert texts is not None
    assert "RANKS = 8" in texts.texts["serve.py"]
    assert "self.qkv = nn.Linear(8192, 1280, bias=False)" in texts.texts["model.py"]
    compose = texts.texts["launch/compose.yaml"]
    assert 'command: ["python", "serve.py"' in compose
    assert 'device_ids: ["0", "1", "2", "3", "4", "5", "6", "7"]' in compose


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7
