"""docs/plan.md: its commands run when the site is built, and its picture is there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def shown(root: Path) -> str:
    hooks = runpy.run_path(str(root / "docs/hooks.py"))
    return hooks["on_page_markdown"]((root / "docs/plan.md").read_text(encoding="utf-8"))


def test_every_command_of_the_page_is_shown_with_its_output(shown: str, root: Path):
    commands = re.findall(r"^```llmc\n\$ (.*)\n```$", (root / "docs/plan.md").read_text(), flags=re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        block = shown.partition(f"```text\n$ {command}\n")[2].partition("\n```")[0]
        assert block.splitlines(), command
        assert max(map(len, block.splitlines())) <= 100


def test_a_page_without_commands_stays_as_it_is(root: Path):
    hooks = runpy.run_path(str(root / "docs/hooks.py"))
    text = (root / "docs/getting-started.md").read_text(encoding="utf-8")
    assert hooks["on_page_markdown"](text) == text


def test_a_command_that_fails_stops_the_site(root: Path):
    hooks = runpy.run_path(str(root / "docs/hooks.py"))
    with pytest.raises(ValueError, match="ended with 1"):
        hooks["on_page_markdown"]("```llmc\n$ llmc plan nowhere.yaml\n```")


def test_the_picture_is_small(root: Path):
    picture = root / "docs/images/plan-page.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000
