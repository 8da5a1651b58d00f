"""Wrong specs and the exact words for each: tests/golden/diagnostics/NAME.yaml and NAME.txt beside it.

A line `# set: key=value` at the top of a spec is a `--set` option. `make goldens` rewrites the texts; read the diff as prose.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from syrupy.location import PyTestLocation

from llmc.spec.diagnostics import Diagnostic
from llmc.spec.load import read_spec
from llmc.spec.rendering import render_all

FOLDER = Path(__file__).resolve().parents[1] / "golden/diagnostics"
SPECS = sorted(FOLDER.glob("*.yaml"))


class Text(SingleFileSnapshotExtension):
    """A snapshot as the text file that lies beside its spec."""

    _write_mode = WriteMode.TEXT
    file_extension = "txt"

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(FOLDER)

    @classmethod
    def get_snapshot_name(cls, *, test_location: PyTestLocation, index: object = 0) -> str:
        return str(index)


def diagnostics_of(path: Path) -> tuple[Diagnostic, ...]:
    text = path.read_text(encoding="utf-8")
    overrides = [line.removeprefix("# set: ") for line in text.splitlines() if line.startswith("# set: ")]
    return read_spec(path, overrides, name=path.name)[2]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_wrong_spec_gets_these_words(path: Path, snapshot: SnapshotAssertion):
    found = diagnostics_of(path)
    assert any(each.severity == "error" for each in found)
    assert render_all(found) + "\n" == snapshot(name=path.stem, extension_class=Text)


def test_every_code_of_loading_is_among_them():
    """So that no message goes unread. The three that need files of their own are shown by their own examples."""
    from llmc.spec.codes import all_codes

    shown = {each.code for path in SPECS for each in diagnostics_of(path)}
    needed = {id for id, code in all_codes().items() if code.stage == "load"}
    assert needed - shown <= {"S102", "S202", "S207", "S208"}
