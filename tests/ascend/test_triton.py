"""Triton kernels of programs for Ascend, compiled by triton-ascend as far as memory is planned; what is too large is rejected."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmc.cli.main import main
from llmc.cli.verifying import table
from llmc.compiler.emit.render import render
from llmc.compiler.kernels.chips import CHIPS
from llmc.compiler.kernels.described import LISTED, sizes_of
from llmc.compiler.kernels.kernel import Kernel
from llmc.compiler.verify.claims import Verdict
from llmc.compiler.verify.environments import has_triton_ascend
from llmc.compiler.verify.kernels import NOT_SET_UP, Compiled, compile_ahead, verify_kernels

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
import gpu_samples as samples

with_triton_ascend = pytest.mark.skipif(not has_triton_ascend(), reason="triton-ascend is not there (make setup-npu)")
CHIP = CHIPS["Ascend910B2"]


def qwen_7b() -> list[Kernel]:
    """Every kernel that a program for Ascend may have, in the sizes of a 7B Qwen."""
    return [
        samples.adamw(chip=CHIP),
        samples.add_norm("bf16", hidden_size=3584, stream_dtype="bf16", chip=CHIP),
        samples.add_norm("bf16", hidden_size=8192, is_layer=True, has_bias=True, chip=CHIP),
        samples.linear_cross_entropy("bf16", vocab_size=152064, chip=CHIP),
        samples.gated("bf16", eager="geglu_tanh", size=18944, chip=CHIP),
    ]


def written(kernels: list[Kernel], folder: Path) -> Path:
    for kernel in kernels:
        for path, template in kernel.files():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(render(template, {"k": kernel}).text, encoding="utf-8")
    described = {"chip": asdict(CHIP) | {"name": CHIP.target}, "seq_len": 4096, "left_alone": {}}
    (folder / LISTED).write_text(json.dumps(described | {"kernels": [sizes_of(each) for each in kernels]}))
    return folder


@with_triton_ascend
@pytest.mark.slow
def test_kernels_compile_for_an_npu_without_it(tmp_path: Path) -> None:
    found = list(compile_ahead(written(qwen_7b(), tmp_path), asdict(CHIP)))
    functions = {(each.kernel, each.function) for each in found}
    assert functions == {
        ("adamw", "step_kernel"),
        *((norm, f"{way}_kernel") for norm in ("add_rms_norm", "add_layer_norm") for way in ("forward", "backward")),
        ("linear_cross_entropy", "loss_kernel"),
        ("geglu_tanh", "forward_kernel"),
        ("geglu_tanh", "backward_kernel"),
    }
    assert [each.complaint for each in found if each.complaint] == []
    assert all(4096 < each.shared_bytes <= 192 * 1024 for each in found)
    assert {each.status for each in found} <= {"one buffer", "two buffers"}


@with_triton_ascend
@pytest.mark.slow
def test_an_oversized_block_is_rejected_with_the_figures_of_the_unified_buffer(tmp_path: Path) -> None:
    kernel = samples.gated("bf16", eager="geglu_tanh", size=18944, chip=CHIP)
    assert kernel.tiles is not None
    kernel = replace(kernel, tiles=replace(kernel.tiles, block=32768))
    found = {each.function: each for each in compile_ahead(written([kernel], tmp_path), asdict(CHIP))}
    rejected = found["backward_kernel"]
    assert not rejected.holds
    assert rejected.shared_bytes > CHIP.shared_bytes
    assert rejected.complaint == (
        f"takes {rejected.shared_bytes:,} bytes of unified buffer, of which Ascend910B2 has 196,608 for a block"
    )


FITS = Compiled("add_rms_norm", "forward_kernel", "Ascend910B2", "bf16", 0.31, 0, 0, 0, 172_256, 196_608)
FITS = replace(FITS, memory="unified buffer", status="two buffers")
LARGE = replace(FITS, function="backward_kernel", shared_bytes=294_944, status="too large")


def test_the_verdict_has_a_table_of_kernels() -> None:
    verdict = Verdict("tiny", (), ("speed",), (FITS, LARGE))
    assert not verdict.holds
    assert "\n".join(table(verdict)) == (
        "tiny: 2 claims, 1 do not hold\n"
        "     kernel        function         chip         seconds      unified buffer       status\n"
        "  ✓  add_rms_norm  forward_kernel   Ascend910B2      0.3  172,256 of 196,608  two buffers\n"
        "  ✗  add_rms_norm  backward_kernel  Ascend910B2      0.3  294,944 of 196,608    too large\n"
        "    takes 294,944 bytes of unified buffer, of which Ascend910B2 has 196,608 for a block\n"
        "  ? not checked: speed"
    )
    assert replace(verdict, compiled=(FITS,)).holds
    assert [each["shared_bytes"] for each in verdict.to_json()["compiled"]] == [172_256, 294_944]


def test_without_triton_ascend_its_absence_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr("llmc.compiler.verify.kernels.has_triton_ascend", lambda: False)
    folder = written([samples.gated("fp32", eager="geglu_tanh", size=5, chip=CHIP)], tmp_path)
    verdict = verify_kernels(folder, progress=lambda _: None, name="tiny")
    assert verdict.compiled == ()
    assert NOT_SET_UP in verdict.unchecked
    assert all(each.holds for each in verdict.numerics)
    assert len(verdict.numerics) == 2


@with_triton_ascend
@pytest.mark.slow
def test_the_kernels_of_a_build_are_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(
        """
llmc: 1
name: tiny
model: {family: llama, hidden_size: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2, intermediate_size: 96,
        vocab_size: 512, max_seq_len: 128}
hardware: {accelerator: ascend-910b, per_node: 1}
train: {objective: causal_lm, steps: 10, seq_len: 128, global_batch: 4, precision: bf16}
""",
        encoding="utf-8",
    )
    main(["verify", "--kernels", str(spec)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny: kernels, all claims hold"
    assert sum("Ascend910B2" in line and line.startswith("  ✓") for line in lines) >= 6
    assert any("hivmc" in line for line in lines)
