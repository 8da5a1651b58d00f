"""`llmc backtest`: scores as text and as JSON, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmc.cli.main import main

ROWS = Path(__file__).parents[2] / "benchmarks/measurements/train.csv"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """The first three rows of the committed file."""
    path = tmp_path / "few.csv"
    path.write_text("".join(ROWS.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    return path


def test_the_report_names_the_source_and_counts_the_rows(few: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["backtest", str(few)]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 rows priced" in out
    assert "mosaicml/llm-foundry" in out


def test_json_has_scores_and_every_prediction(few: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["backtest", str(few), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["step_time"]["rows"] == 3
    assert [each["id"] for each in answer["predictions"]] == ["mosaic-001", "mosaic-002", "mosaic-003"]


def test_a_file_that_holds_no_measurements_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "notes.csv"
    path.write_text("hello\n")
    assert main(["backtest", str(path)]) == 2
    assert "no column" in capsys.readouterr().err
