"""docs/beside-torchtitan.md: the lines it counts on our side are those of the program that its spec builds (of runtimes, within 5 %)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build

RUNTIME = Path("runtimes/pytorch/parallel")


def lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_our_lines_are_counted_right(root: Path, tmp_path: Path):
    page = (root / "docs/beside-torchtitan.md").read_text(encoding="utf-8")
    spec = tmp_path / "spec.yaml"
    spec.write_text(page.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    tree = build(spec, tmp_path / "build").tree
    assert tree is not None
    write_tree(tree, tmp_path / "build")
    cells = [row.split("|") for row in page.splitlines() if re.match(r"\| [^*-].*\d \|", row)]
    told = {row[1].strip(): (row[2], int(row[3])) for row in cells}
    kernels = sum(lines(path) for path in (tmp_path / "build/kernels").glob("*.py"))
    programs = [lines(tmp_path / "build" / name) for name in ("model.py", "parallel.py", "train.py")]
    programs[0] += kernels
    assert [told[row][1] for row in ("the model", "what is spread, in which order", "a step, the loop")] == programs
    assert sum(int(each) for each in re.findall(r"`\w+\.py` (\d+)", told["the model"][0])) == kernels
    runtimes = 0
    for row in ("tensor and sequence parallelism", "the pipeline"):
        text, total = told[row]
        found = {name: int(count) for name, count in re.findall(r"`(\w+\.py)` (\d+)", text)}
        assert found == {name: pytest.approx(lines(root / RUNTIME / name), rel=0.05) for name in found}
        assert total == sum(found.values())
        runtimes += total
    assert f"| **{sum(programs)}** |" in page
    assert f"| **{sum(programs) + runtimes:,}** |" in page
    theirs = [sum(int(count.replace(",", "")) for count in re.findall(r"py` ([\d,]+)", row[4])) for row in cells]
    assert theirs == [int(row[5].replace(",", "")) for row in cells]
    assert f"| **{sum(theirs):,}** |" in page
    files = sum(len(re.findall(r"\.py`", row[4])) for row in cells)
    assert f"| **{files}** | **{sum(theirs):,}** |" in page
