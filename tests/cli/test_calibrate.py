"""`llmc doctor --calibrate`: what it measures, and that a spec which extends it is planned for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmc.cli import calibrating, measuring_servers
from llmc.cli.calibrating import calibration_text
from llmc.cli.measuring_servers import KernelTimes, Stretch, measure_kernels
from llmc.compiler.pipeline import plan_specs
from llmc.compiler.planner.serve_search import kept_bits
from llmc.runtimes.kernels import compile as compiling
from llmc.runtimes.pytorch import calibrate as measuring
from llmc.runtimes.pytorch.calibrate import Calibration, ProductTimes, calibrate
from llmc.spec.serving import Weights

FOUND = Calibration(
    threads=2,
    read_bytes_per_s=40e9,
    copied_bytes_per_s=36e9,
    flops_per_s={"fp32": 0.4e12, "bf16": 2.4e12},
    products={
        "fp32": ProductTimes(launch_s=3e-6, one_row_s=300e-6, many_rows_s=2e-3),
        "bf16": ProductTimes(launch_s=10e-6, one_row_s=200e-6, many_rows_s=0.4e-3),
    },
    op_s=3e-6,
)
KERNELS = KernelTimes(
    step_s=200e-6,
    layer_s=40e-6,
    launch_s=1e-6,
    request_s=500e-6,
    first_token_s=5e-3,
    attention_flops_per_s=0.6e12,
    products={
        "bf16": ProductTimes(launch_s=2e-6, one_row_s=120e-6, many_rows_s=0.3e-3),
        "int8": ProductTimes(launch_s=2e-6, one_row_s=62e-6, many_rows_s=0.4e-3),
        "int4": ProductTimes(launch_s=2e-6, one_row_s=40e-6, many_rows_s=0.4e-3),
    },
)
SPEC = """llmc: 1
extends: here.yaml
model: {preset: smollm-135m}
serve: {max_seq_len: 512, workload: {input_tokens: 64, output_tokens: 64, requests_per_s: 0.5}}
"""


def tpot_ms(
    folder: Path, *, kernels: KernelTimes | None = None, overrides: tuple[str, ...] = (), **changes: object
) -> float:
    found = Calibration(**(vars(FOUND) | changes))  # type: ignore[arg-type]
    text = calibration_text(found, file="here.yaml", torch="2", processor="a CPU", memory_gib=16.0, kernels=kernels)
    (folder / "here.yaml").write_text(text)
    (folder / "spec.yaml").write_text(SPEC)
    (entry,) = plan_specs([folder / "spec.yaml"], overrides)
    assert [each.code for each in entry.diagnostics] == []
    assert entry.spec is not None
    assert entry.spec.hardware.accelerator.memory_gb_s == pytest.approx(found.read_bytes_per_s / 1e9)
    assert entry.plan.serve is not None
    return entry.plan.serve.predicted.tpot_p50_ms


def test_a_spec_that_extends_a_calibration_is_planned_for_that_machine(tmp_path: Path):
    measured = tpot_ms(tmp_path)
    assert tpot_ms(tmp_path, op_s=12e-6) > 1.3 * measured
    slow = FOUND.products | {"bf16": ProductTimes(launch_s=200e-6, one_row_s=700e-6, many_rows_s=1e-3)}
    assert tpot_ms(tmp_path, products=slow) > 1.3 * measured


def test_servers_with_kernels_are_planned_by_what_kernels_take(tmp_path: Path):
    """fp32 has none; with weights in few bits less is read."""
    plain, measured = tpot_ms(tmp_path), tpot_ms(tmp_path, kernels=KERNELS)
    assert measured < 0.7 * plain
    slow = KernelTimes(**(vars(KERNELS) | {"layer_s": 140e-6}))
    assert tpot_ms(tmp_path, kernels=slow) == pytest.approx(measured + 30 * 0.1, rel=0.02)
    started = KernelTimes(**(vars(KERNELS) | {"launch_s": 21e-6}))  # of four products and what else a layer starts
    assert tpot_ms(tmp_path, kernels=started) > measured + 30 * 4 * 0.019
    busy = KernelTimes(**(vars(KERNELS) | {"request_s": 3e-3}))
    assert tpot_ms(tmp_path, kernels=busy) > measured + 2
    few = [tpot_ms(tmp_path, kernels=KERNELS, overrides=(f"serve.weights.dtype={name}",)) for name in ("int8", "int4")]
    assert few == sorted(few, reverse=True)
    assert few[0] < measured
    fp32 = ("serve.weights.dtype=fp32", "serve.kv_cache.dtype=fp32")
    assert tpot_ms(tmp_path, kernels=KERNELS, overrides=fp32) == tpot_ms(tmp_path, overrides=fp32)


def test_a_run_that_only_trains_may_extend_all_of_it(tmp_path: Path):
    text = calibration_text(FOUND, file="here.yaml", torch="2", processor="a CPU", memory_gib=16.0, kernels=KERNELS)
    (tmp_path / "here.yaml").write_text(text)
    train = (
        "train: {objective: causal_lm, tokens: 1M, seq_len: 128, global_batch: 8, optimizer: {name: adamw, lr: 1.0e-3}}"
    )
    data = "data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}"
    (tmp_path / "spec.yaml").write_text("\n".join([*SPEC.splitlines()[:3], data, train]))
    (entry,) = plan_specs([tmp_path / "spec.yaml"])
    assert [each.message for each in entry.diagnostics] == []


def test_products_become_shares_of_what_the_machine_could_do():
    assert (calibrating.MANY_ROWS, calibrating.WEIGHT_SIZE) == (measuring.MANY_ROWS, measuring.WEIGHT_SIZE)
    text = calibration_text(FOUND, file="here.yaml", torch="2", processor="a CPU", memory_gib=16.0)
    compute = 2 * 128 * 1536**2 / 0.39e-3 / 2.4e12
    memory = 2 * 1536**2 / 190e-6 / 40e9
    assert f"bf16: {{compute: {compute:.2f}, memory: {memory:.2f}, launch_us: 10.0}}" in text


def test_reading_is_counted_in_the_bytes_that_kernels_keep():
    for label, size in calibrating.KERNEL_BYTES.items():
        kept = kept_bits(Weights(dtype=(label,)), label, kind="cpu", has_kernels=True)
        assert kept is not None
        assert kept.layers == 8 * size


def test_every_figure_says_how_it_was_measured(tmp_path: Path):
    text = calibration_text(FOUND, file="here.yaml", torch="2", processor="a CPU", memory_gib=16.0, kernels=KERNELS)
    figures = [line for line in text.splitlines() if any(character.isdigit() for character in line)]
    assert all("#" in line for line in figures if "launch_us" not in line), "those of products have a line above them"


def test_this_machine_can_be_measured():
    found = calibrate(1, tried_s=0.02)
    assert found.threads == 1
    assert min(found.read_bytes_per_s, found.copied_bytes_per_s, found.op_s, *found.flops_per_s.values()) > 0
    assert {"fp32", "bf16"} <= set(found.flops_per_s)
    for times in found.products.values():
        assert min(times.launch_s, times.one_row_s, times.many_rows_s) > 0  # a busy machine may turn their order round
    assert found.op_s < 1e-3


@pytest.mark.skipif(compiling.find_compiler() is None, reason="no C++ compiler on this machine")
def test_servers_with_kernels_can_be_measured(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / ".pytest_cache" / "kernels"))
    monkeypatch.setattr(measuring_servers, "TRIED_S", 0.02)
    monkeypatch.setattr(measuring_servers, "ANSWERS", 1)
    found = measure_kernels(FOUND)
    assert found is not None
    assert set(found.products) == {"bf16", "int8", "int4"}
    assert 0 < found.layer_s < 0.1
    assert 0 < found.request_s < 1.0
    assert 0 < found.first_token_s < 10.0
    assert found.attention_flops_per_s > 1e6
    for times in found.products.values():
        assert min(times.launch_s, times.one_row_s, times.many_rows_s) > 0  # a busy machine may turn their order round


def test_kernels_are_as_slow_as_in_a_server_with_clients(tmp_path: Path):
    planned = {"tpot_p50_ms": 0.7 + 10 + 0.5, "ttft_p50_ms": 5.7 + 10 + 64 * 0.5}
    measured = {"tpot_p50_ms": 0.7 + 12 + 0.75, "ttft_p50_ms": 5.7 + 12 + 64 * 0.75}
    assert measuring_servers.stretch_of(planned, planned, KERNELS) == pytest.approx(Stretch())
    assert measuring_servers.stretch_of(measured, planned, KERNELS) == pytest.approx(Stretch(1.2, 1.5))
    slower = tpot_ms(tmp_path, kernels=replace(KERNELS, stretch=Stretch(1.2, 1.2)))
    alone = 700e-3  # of a step and a request
    assert (slower - alone) / (tpot_ms(tmp_path, kernels=KERNELS) - alone) == pytest.approx(1.2, abs=0.05)


@pytest.mark.skipif(compiling.find_compiler() is None, reason="no C++ compiler on this machine")
def test_a_server_with_something_to_compute_can_be_measured(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / ".pytest_cache" / "kernels"))
    monkeypatch.setattr(measuring_servers, "ANSWERS", 1)
    text = calibration_text(FOUND, file="here.yaml", torch="2", processor="a CPU", memory_gib=16.0, kernels=KERNELS)
    assert min(measuring_servers.measure_stretch(text, KERNELS)) >= measuring_servers.LEAST_STRETCH


def test_without_a_compiler_there_are_no_kernels_to_measure(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(compiling, "find_compiler", lambda: None)
    assert measure_kernels(FOUND) is None
    assert "no C++ compiler" in capsys.readouterr().err


def test_the_command_writes_the_file_and_says_when_it_cannot(llmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "calibrate", lambda: FOUND)
    monkeypatch.setattr(calibrating, "measure_kernels", lambda found: KERNELS)
    monkeypatch.setattr(calibrating, "measure_stretch", lambda text, kernels: Stretch(1.25, 1.5))
    monkeypatch.setattr(calibrating.os, "getloadavg", lambda: (7.0, 0.0, 0.0))
    ran = llmc("doctor", "--calibrate", tmp_path / "here.yaml")
    assert ran.status == 0
    assert (tmp_path / "here.yaml").read_text() in ran.out
    assert "reading takes 1.25 times as long, and arithmetic 1.50" in ran.out
    assert "the load is 7.0" in ran.err
    gone = llmc("doctor", "--calibrate", tmp_path / "nowhere/here.yaml")
    assert (gone.status, "cannot be written: No such file" in gone.err) == (2, True)
