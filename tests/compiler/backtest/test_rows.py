"""Rows of a measurement file: read with types, made into the spec that was published, priced or refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmc.compiler.backtest.as_spec import CannotPrice
from llmc.compiler.backtest.backtest import backtest
from llmc.compiler.backtest.price import case_of
from llmc.compiler.backtest.programs import program_of
from llmc.compiler.backtest.rows import NotMeasurements, read_rows, row_of

CELLS = {
    "id": "a",
    "source": "NVIDIA/Megatron-LM README",
    "model": "llama3-8b",
    "layers": "32",
    "hidden": "4096",
    "ffn": "14336",
    "heads": "32",
    "kv_heads": "8",
    "vocab": "128256",
    "seq_len": "8192",
    "accelerator": "h100-sxm-80g",
    "accelerators": "64",
    "per_node": "8",
    "precision": "bf16",
    "zero_stage": "1",
    "tp": "2",
    "sp": "yes",
    "pp": "4",
    "vpp": "2",
    "micro_batch": "1",
    "global_batch": "128",
    "tokens_per_s_per_accel": "9000",
}


def test_what_only_follows_is_filled_in():
    row = row_of(CELLS)
    assert row.dp == 8
    assert row.step_time_s == pytest.approx(128 * 8192 / 9000 / 64)
    assert row.sequence_parallel
    assert row.peak_mem_gib is None


def test_a_row_is_priced_with_the_layout_that_was_published():
    layout = case_of(row_of(CELLS)).layout
    assert (layout.dp_shard, layout.tp, layout.pp, layout.virtual_stages) == (8, 2, 4, 2)
    assert layout.schedule == "interleaved_1f1b"
    assert layout.grad_accumulation == 16
    assert layout.devices == 64


def test_dims_of_the_row_go_over_those_of_the_catalog():
    case = case_of(row_of(CELLS | {"layers": "4", "kv_heads": "16"}))
    assert case.work.graph.num_layers == 4
    assert case.work.graph.sizes["K"] == 16


def test_a_model_that_no_catalog_knows_is_built_from_its_dims():
    graph = case_of(row_of(CELLS | {"model": "somebodys-9b", "ffn": "16384"})).work.graph
    assert graph.sizes["F"] == 16384
    assert any(op.kind == "layer_norm" for op in graph.all_ops)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"accelerator": "abacus"}, "the accelerator abacus is not in the catalog"),
        ({"model": "unheard-of", "layers": ""}, "the model unheard-of is not in the catalog"),
        ({"accelerators": "60"}, "60 accelerators are no whole number of nodes of 8"),
    ],
)
def test_a_row_that_cannot_be_priced_says_why(cells: dict[str, str], why: str):
    with pytest.raises(CannotPrice, match=why):
        case_of(row_of(CELLS | cells))


def test_a_program_is_told_by_its_source_and_notes():
    row = row_of(CELLS)
    assert program_of(row).assume["attention"] == "flash3"
    assert program_of(replace(row, notes="deterministic mode")).assume["attention"] == "flash2"
    assert program_of(replace(row, source="BigScience, bigscience-workshop")).assume["overlap"] is False
    assert program_of(replace(row, source="somebody's blog")).assume == {}


def test_unfused_attention_keeps_its_scores():
    flash, unfused = (case_of(replace(row_of(CELLS), notes=notes)) for notes in ("", "UNFUSED attention"))
    assert unfused.memory_gib() > 1.5 * flash.memory_gib()
    assert unfused.step_s() > flash.step_s()


def test_a_file_without_the_columns_is_refused(tmp_path: Path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(NotMeasurements, match="no column source"):
        read_rows(path)


def test_a_cell_that_is_no_number_names_its_line(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text(f"{','.join(CELLS)}\n{','.join((CELLS | {'seq_len': 'long'}).values())}\n")
    with pytest.raises(NotMeasurements, match="line 2"):
        read_rows(path)


def test_rows_with_and_without_a_price_add_up(tmp_path: Path):
    path = tmp_path / "rows.csv"
    other = CELLS | {"id": "b", "accelerator": "abacus"}
    path.write_text("\n".join(",".join(line) for line in (CELLS, CELLS.values(), other.values())))
    result = backtest(path)
    assert [each.row.id for each in result.priced] == ["a"]
    assert [row.id for row, _ in result.unpriced] == ["b"]
