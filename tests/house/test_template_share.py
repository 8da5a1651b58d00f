"""docs/extending.md: how much template text the programs of one training for three kinds of device have in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmc.compiler.emit.render import TEMPLATES, environment
from llmc.compiler.pipeline import build

SPEC = """
llmc: 1
name: shared
model: {{preset: llama-3.1-8b}}
hardware: {hardware}
data: {{sources: [{{source: python-stdlib}}], tokenizer: {{train: bpe}}}}
train: {{objective: causal_lm, steps: 100, seq_len: 4096, global_batch: 64}}
parallel: {{dp_shard: 8, tp: 2, sequence_parallel: true, zero: 3}}
"""
DEVICES = {
    "NVIDIA (PyTorch)": "{accelerator: h100-sxm-80g, nodes: 2, per_node: 8}",
    "Ascend (PyTorch)": "{accelerator: ascend-910b, nodes: 2, per_node: 8}",
    "TPU (torch-xla)": "{accelerator: tpu-v5p, topology: 2x2x4}",
}


def templates_of(hardware: str, folder: Path) -> set[str]:
    """Those that a program is rendered from, but for its kernels, which are in the language of each chip."""
    spec = folder / "spec.yaml"
    spec.write_text(SPEC.format(hardware=hardware), encoding="utf-8")
    cache = environment().cache
    assert cache is not None
    cache.clear()
    assert build(spec, folder / "build").tree is not None
    names = {str(name) for _, name in cache}
    assert len(names) < cache.capacity  # else the first have been forgotten
    return {name for name in names if not name.startswith("kernels/")}


def lines(names: set[str]) -> int:
    return sum((TEMPLATES / name).read_text(encoding="utf-8").count("\n") for name in names)


def test_the_page_tells_what_backends_have_in_common(root: Path, tmp_path: Path):
    page = (root / "docs/extending.md").read_text(encoding="utf-8")
    used = {name: templates_of(hardware, tmp_path) for name, hardware in DEVICES.items()}
    common = lines(set.intersection(*used.values()))
    for name, templates in used.items():
        [told] = re.findall(rf"\| {re.escape(name)} \| ([\d,]+) \| ([\d,]+) \| (\d+) % \|", page)
        of_all, shared, percent = (int(each.replace(",", "")) for each in told)
        assert of_all == pytest.approx(lines(templates), rel=0.05), name
        assert shared == pytest.approx(common, rel=0.05), name
        assert percent == pytest.approx(100 * common / lines(templates), abs=3), name
