"""Triton kernels compiled ahead of time for chips that are not here: nothing spills, all fits; what does not is rejected."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import gpu_samples as samples
import pytest

from llmc.cli.faults import NOT_VERIFIED
from llmc.cli.verifying import kernel_table, verify_kernels_of
from llmc.compiler.emit.render import render
from llmc.compiler.kernels.chips import CHIPS, Chip
from llmc.compiler.kernels.described import LISTED, sizes_of
from llmc.compiler.kernels.kernel import Kernel
from llmc.compiler.verify.kernels import Compiled, KernelVerdict, Numerics, compile_ahead


def llama_8b(chip: Chip) -> list[Kernel]:
    """The kernels of an 8B Llama on one device."""
    return [
        samples.adamw(chip=chip),
        samples.add_norm("bf16", hidden_size=4096, chip=chip),
        samples.causal_attention("bf16", num_heads=32, num_kv_heads=8, head_dim=128, chip=chip),
        samples.linear_cross_entropy("bf16", vocab_size=128256, chip=chip),
        samples.gated("bf16", eager="swiglu", size=14336, chip=chip),
    ]


def llama_8b_served(chip: Chip) -> list[Kernel]:
    """The kernels of its server, with weights in few bits, and those of experts."""
    return [
        samples.weight_only_linear("bf16", bits=8, group=64, has_bias=False, chip=chip),
        samples.weight_only_linear("bf16", bits=4, group=64, has_bias=False, chip=chip),
        samples.weight_only_linear("bf16", bits=4, group=32, has_offset=True, has_bias=False, chip=chip),
        samples.decode_attention("bf16", num_heads=32, num_kv_heads=8, head_dim=128, chip=chip),
        samples.sampling(vocab_size=128256, chip=chip),
        samples.choose_experts(num_experts=128, per_token=8, chip=chip),
        samples.expert_linear("bf16", num_experts=128, chip=chip),
    ]


def written(kernels: list[Kernel], chip: Chip, folder: Path) -> Path:
    for kernel in kernels:
        for path, template in kernel.files():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(render(template, {"k": kernel}).text, encoding="utf-8")
    described = {"chip": asdict(chip) | {"name": chip.target}, "seq_len": 4096, "left_alone": {}}
    (folder / LISTED).write_text(json.dumps(described | {"kernels": [sizes_of(each) for each in kernels]}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_kernels_compile_for_a_chip_without_it(target: str, tmp_path: Path) -> None:
    """Those of training and of servers, in one process."""
    pytest.importorskip("triton")
    chip = CHIPS[target]
    trained, served = llama_8b(chip), llama_8b_served(chip)
    found = list(compile_ahead(written([*trained, *served], chip, tmp_path), asdict(chip)))
    assert [each.complaint for each in found if each.complaint] == []
    assert all(0 < each.registers <= chip.registers for each in found)
    names = {each.name for each in served}
    assert {each.function for each in found if each.kernel not in names} >= {
        *("attend_kernel", "keys_kernel", "queries_kernel", "loss_kernel", "step_kernel")
    }
    assert {each.function for each in found if each.kernel in names} == {
        *("product_kernel", "enter_kernel", "attend_kernel", "combine_kernel", "draw_kernel", "choose_kernel"),
    }
    assert {each.kernel for each in found} == {each.name for each in (*trained, *served)}


@pytest.mark.slow
def test_an_oversized_tile_is_rejected_with_figures(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    chip = CHIPS["sm_80"]
    kernel = samples.causal_attention("bf16", num_heads=2, num_kv_heads=1, head_dim=128, has_rope=False, chip=chip)
    assert kernel.tiles is not None
    large = replace(kernel.tiles.forward, queries=128, keys=128, num_stages=4)
    spilling = replace(kernel.tiles.keys, queries=64, keys=128, num_warps=4)
    kernel = replace(kernel, tiles=replace(kernel.tiles, forward=large, keys=spilling))
    found = {each.function: each for each in compile_ahead(written([kernel], chip, tmp_path), asdict(chip))}
    attend, keys = found["attend_kernel"], found["keys_kernel"]
    assert attend.shared_bytes > chip.shared_bytes
    assert f"takes {attend.shared_bytes:,} bytes of shared memory, of which sm_80 has 166,912" in attend.complaint
    assert keys.spill_bytes > 0
    assert not any(each.holds for each in (attend, keys))
    assert found["row_dot_kernel"].holds


FITS = Compiled("swiglu", "forward_kernel", "sm_80", "bf16", 0.25, 32, 255, 0, 0, 166_912)
SPILLS = Compiled("causal_attention", "keys_kernel", "sm_80", "bf16", 1.5, 255, 255, 312, 98_816, 166_912)
RIGHT = Numerics("swiglu", "gate, 3 rows", "triton", "output 0", 1e-3, 1.6e-2, True)


def test_the_table_names_what_is_wrong() -> None:
    verdict = KernelVerdict("tiny", (RIGHT,), (FITS, SPILLS), {"embed": "for a reason"}, ("speed",))
    assert not verdict.holds
    assert "\n".join(kernel_table(verdict)) == (
        "tiny: kernels, 1 claims do not hold\n"
        "     kernel  against float64    error  allowed\n"
        "  ✓  swiglu  gate, 3 rows     1.0e-03  1.6e-02\n"
        "     kernel            function        chip   seconds   registers  spilled      shared memory\n"
        "  ✓  swiglu            forward_kernel  sm_80      0.2   32 of 255        0       0 of 166,912\n"
        "  ✗  causal_attention  keys_kernel     sm_80      1.5  255 of 255      312  98,816 of 166,912\n"
        "    spills 312 bytes: its 255 registers a thread do not hold what it works on\n"
        "  - no embed kernel: for a reason\n"
        "  ? not checked: speed"
    )
    assert KernelVerdict("tiny", (RIGHT,), (FITS,), {}, ()).holds
    assert not KernelVerdict("tiny", (replace(RIGHT, holds=False),), (), {}, ()).holds


@pytest.mark.slow
def test_verify_holds_cpp_kernels_to_float64_and_finds_one_that_is_wrong(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / ".pytest_cache" / "kernels"))
    import kernel_samples

    kernel = kernel_samples.gated_linear("fp32", eager="swiglu", size=24)
    folder = written([kernel], CHIPS["sm_80"], tmp_path)
    (folder / "plan.json").write_text("{}")
    assert verify_kernels_of(folder, [], as_json=False) == 0
    assert "✓  swiglu_linear  gate and projection, 3 rows" in capsys.readouterr().out
    source = folder / "kernels" / "swiglu_linear.cpp"
    source.write_text(source.read_text().replace("s + x * s * (1.0f - s)", "s + x * s"))
    assert verify_kernels_of(folder, [], as_json=True) == NOT_VERIFIED
    told = json.loads(capsys.readouterr().out)
    assert [row["holds"] for row in told["numerics"]] == [False, False]
