"""The serving backtest: rows and rules, figures of merit by hand, and how far off the model is on the published file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmc.compiler.backtest.rows import NotMeasurements
from llmc.compiler.backtest.serve_backtest import (
    PricedServe,
    ServeBacktest,
    backtest_serving,
    headlines,
    serving_as_json,
    summary_of,
)
from llmc.compiler.backtest.serve_price import serve_case_of
from llmc.compiler.backtest.serve_programs import serve_program_of
from llmc.compiler.backtest.serve_report import serving_report
from llmc.compiler.backtest.serve_rows import ServeRow, is_serving, read_serve_rows, serve_row_of

CELLS = {
    "id": "one",
    "source": "a paper",
    "engine": "vLLM",
    "model": "Llama-3.1-8B",
    "accelerator": "h100-sxm-80g",
    "accelerators": "2",
    "tp": "2",
    "weight_precision": "fp8",
    "input_tokens": "1000",
    "output_tokens": "100",
    "batch_or_concurrency": "8",
    "ttft_ms": "50",
    "tpot_ms": "5",
}


def row(**cells: str) -> ServeRow:
    return serve_row_of(CELLS | cells)


def test_a_row_has_base_units_and_real_lengths():
    found = row(notes="random-range-ratio 0.8 => mean ISL/OSL ~0.9x nominal", accelerator="ascend-910b (Atlas 800T A2)")
    assert (found.input_tokens, found.output_tokens, found.ttft_s, found.tpot_s) == (900, 90, 0.05, 0.005)
    assert found.accelerator == "ascend-910b"
    assert row(tp="24").tp == 2  # cores of a chip are one device


def test_files_of_one_run_each_are_one_source():
    one = row(source="IBM/LLM-performance-prediction@3c66483 results_llama-7b_gpu4_a100_u2.csv")
    other = row(source="IBM/LLM-performance-prediction@3c66483 results_EleutherAI__gpt-neox-20b_gpu1_h100_u1.csv")
    assert one.group == other.group == "IBM/LLM-performance-prediction@3c66483 | vLLM"


def test_rules_say_what_the_engine_keeps():
    assert serve_program_of(row()).kv == "fp8"  # of an fp8 checkpoint, where nothing is said
    assert serve_program_of(row(weight_precision="bf16")).kv == "bf16"
    assert serve_program_of(row(kv_precision="bf16")).kv == "bf16"
    assert serve_program_of(row(model="gpt-oss-120b")).weights_kept == "mxfp4"
    assert serve_program_of(row(model="MiniMax-M2.5")).block_scales
    assert serve_program_of(row(source="TensorRT-LLM 0.9 docs", engine="TensorRT-LLM")).static
    assert serve_program_of(row(engine="TGIS (IBM text-generation-inference fork)")).software == "eager"


def test_a_file_without_serving_columns_is_refused(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text("source,engine\nx,y\n", encoding="utf-8")
    assert not is_serving(path)
    with pytest.raises(NotMeasurements, match="has no column model"):
        read_serve_rows(path)


def test_rows_that_lack_something_say_what(tmp_path: Path):
    path = tmp_path / "rows.csv"
    rows = [CELLS, CELLS | {"id": "two", "model": "of-nobody"}, CELLS | {"id": "three", "batch_or_concurrency": ""}]
    lines = [",".join(CELLS)] + [",".join(each.values()) for each in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = backtest_serving(path)
    assert [each.row.id for each in result.priced] == ["one"]
    assert [(each.id, why) for each, why in result.unpriced] == [
        ("two", "the model of-nobody is not in the catalog"),
        ("three", "the row gives neither a batch nor a concurrency"),
    ]
    assert "two: the model of-nobody is not in the catalog" in serving_report(result)


def priced(tpot_s: float, **cells: str) -> PricedServe:
    return PricedServe(row(**cells), False, tpot_s, ttft_s=0.05, output_tokens_per_s=1.0, left_out={})


def test_a_group_is_scored_by_its_median():
    result = ServeBacktest(tuple(priced(tpot) for tpot in (0.0050, 0.0055, 0.0060, 0.0045, 0.0050)), ())
    [group] = result.groups("tpot")
    assert (group.rows, round(group.median, 6), round(group.bias, 6)) == (5, 0.1, 0.0)
    assert summary_of([group, replace(group, rows=4, median=9.0)]).mean_of_medians == pytest.approx(0.1)


def test_regret_is_what_the_pick_loses():
    """8 requests on 2 devices against 4 on 1: the pick serves 800 of 1,000 tokens/s a device."""
    wide = replace(priced(0.005, throughput_output_tok_s="1600"), output_tokens_per_s=2400.0)
    small = {"accelerators": "1", "tp": "1", "batch_or_concurrency": "4", "throughput_output_tok_s": "1000"}
    narrow = replace(priced(0.005, **small), output_tokens_per_s=1100.0)
    regret = ServeBacktest((wide, narrow), ()).regret()
    assert regret is not None
    assert (regret.questions, regret.ours, regret.smallest, regret.largest) == (
        1,
        pytest.approx(0.2),
        0.0,
        pytest.approx(0.2),
    )


def test_releases_of_an_engine_do_not_compete():
    old, new = (priced(0.005, engine_version=release, tp=tp) for release, tp in (("0.17", "2"), ("0.19", "1")))
    assert ServeBacktest((old, new), ()).regret() is None


def test_each_core_has_whole_heads():
    """Eight key/value heads over twelve chips of two cores are two on each chip, as 24 ranks have one."""
    neuron = {
        "engine": "Transformers NeuronX",
        "accelerator": "inferentia2",
        "accelerators": "12",
        "tp": "24",
        "model": "Mistral-7B",
    }
    ops = serve_case_of(row(**neuron)).engine.ops
    assert ops.machine.cores == 2
    assert {ops.kv_width(op) for block in ops.blocks for op in block.attention} == {2 * 2 * 128}


def test_more_devices_an_engine_are_replicas():
    one, four = serve_case_of(row(accelerators="2")), serve_case_of(row(accelerators="8", batch_or_concurrency="32"))
    assert four.replicas == 4
    assert four.service().tpot_p50_s == one.service().tpot_p50_s
    assert four.output_tokens_per_s(four.service()) == pytest.approx(4 * one.output_tokens_per_s(one.service()))


@pytest.fixture(scope="module")
def published(root: Path) -> ServeBacktest:
    return backtest_serving(root / "benchmarks/measurements/serve.csv")


def test_every_published_row_is_priced(published: ServeBacktest):
    assert len(published.priced) == 1639
    assert not published.unpriced


def test_the_model_is_as_far_off_as_the_page_says(published: ServeBacktest):
    """Bounds that a change must not cross unseen; the figures are in docs/backtest-serving.md."""
    found = {name: each.mean_of_medians for name, each in headlines(published).items()}
    assert found["TPOT"] <= 0.085
    assert found["TPOT, dense"] <= 0.07
    assert found["TPOT, experts"] <= 0.13
    assert found["tokens/s"] <= 0.10
    assert found["TTFT"] <= 0.27
    assert found["TTFT, 4 requests or fewer"] <= 0.15
    left_out = {name: each.left_out for name, each in headlines(published).items()}
    assert left_out["TPOT"] <= 0.15
    regret = published.regret()
    assert regret is not None
    assert regret.questions > 300
    assert regret.ours <= 0.02 < min(regret.smallest, regret.largest)


def test_as_json_has_the_same_figures(published: ServeBacktest):
    data = serving_as_json(published)
    assert data["rows"] == 1639
    assert data["summary"]["TPOT"]["mean_of_medians"] == headlines(published)["TPOT"].mean_of_medians
