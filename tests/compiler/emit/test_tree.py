"""The tree on disk: complete, comparable, and careful with edits made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import tiny_spec, tree_of

from llmc.compiler.emit.manifest import MANIFEST, locator
from llmc.compiler.emit.tree import Tree, differing, edited, write_tree
from llmc.compiler.pipeline import build
from llmc.spec.load import load_text


@pytest.fixture(scope="module")
def tree() -> Tree:
    return tree_of(tiny_spec())


def test_what_was_written_does_not_differ(tree: Tree, tmp_path: Path) -> None:
    assert set(differing(tree, tmp_path)) == set(tree.texts)
    assert set(write_tree(tree, tmp_path)) == set(tree.texts)
    assert differing(tree, tmp_path) == ()
    assert write_tree(tree, tmp_path) == ()
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(tree.texts)


def test_a_changed_spec_rewrites_and_removes_what_it_no_longer_has(tree: Tree, tmp_path: Path) -> None:
    write_tree(tree, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    served = tree_of(tiny_spec(without=("train", "data")))
    assert edited(served, tmp_path) == ()
    write_tree(served, tmp_path)
    assert differing(served, tmp_path) == ()
    assert not (tmp_path / "train.py").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_edit_is_noticed(tree: Tree, tmp_path: Path) -> None:
    write_tree(tree, tmp_path)
    (tmp_path / "train.py").write_text("print('mine')\n")
    assert edited(tree, tmp_path) == ("train.py",)
    assert edited(tree_of(tiny_spec(name="other")), tmp_path) == ("train.py",)
    assert differing(tree, tmp_path) == ("train.py",)


def test_a_deleted_file_is_not_an_edit(tree: Tree, tmp_path: Path) -> None:
    write_tree(tree, tmp_path)
    (tmp_path / "train.py").unlink()
    assert edited(tree, tmp_path) == ()
    assert differing(tree, tmp_path) == ("train.py",)


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": 3}', '{"files": {"../../victim": {"sha256": "0"}}}'])
def test_a_spoilt_manifest_leads_nowhere(manifest: str, tree: Tree, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("safe")
    out = tmp_path / "build" / "tiny"
    out.mkdir(parents=True)
    (out / MANIFEST).write_text(manifest)
    write_tree(tree, out)
    assert victim.read_text() == "safe"
    assert differing(tree, out) == ()


SPEC = """\
name: tiny
model:
  family: llama
  hidden_size: 64
  num_layers: 2
  num_heads: 4
  intermediate_size: 96
  vocab_size: 512
  max_seq_len: 128
hardware: {accelerator: cpu}
serve:
  max_seq_len: 128
"""


def test_the_manifest_points_at_the_lines_that_caused_each_block(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    result = build(tmp_path / "tiny.yaml", tmp_path / "build")
    assert result.tree is not None, result.diagnostics
    manifest = json.loads(result.tree.texts[MANIFEST])
    model = result.tree.texts["model.py"].splitlines()
    found = {}
    for block in manifest["files"]["model.py"]["blocks"]:
        first, _ = block["lines"]
        found.setdefault(block["key"], (block["at"], model[first - 1]))
    assert found["serve"] == ("tiny.yaml:11", "class Answers(NamedTuple):")
    assert found["model"][0] == "tiny.yaml:2"
    assert found["model.mlp"] == ("tiny.yaml:3", "class Mlp(nn.Module):")  # the family's choice


def test_places_are_relative_to_the_spec(tmp_path: Path) -> None:
    spec, sources = load_text(SPEC, name=str(tmp_path / "a" / "tiny.yaml"), overrides=["model.num_layers=3"])
    locate = locator(sources, spec_dir=tmp_path / "a")
    assert locate("model.hidden_size") == "tiny.yaml:4"
    assert locate("model.num_layers") == "--set:1"
    assert spec.model.num_layers == 3
