"""Pallas kernels: against float64 in their interpreter, with planted bugs caught; compiled by libtpu for TPUs that are not here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pallas_samples as samples
import pytest
from pallas_bugs import BUGS

from llmc.compiler.emit.render import render
from llmc.compiler.kernels.described import LISTED, sizes_of
from llmc.compiler.kernels.kernel import Kernel
from llmc.compiler.kernels.tpus import TPUS, TokenBlock, TpuPages
from llmc.compiler.verify.kernels import compile_for_tpus

PROCESS = Path(__file__).with_name("pallas_process.py")


@pytest.fixture
def interpreted(
    xla: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[dict[str, Any]]]:
    """What pallas_process.py tells."""
    monkeypatch.setenv("LLMC_PALLAS", "interpret")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("LLMC_KERNELS", raising=False)
    return lambda what: [json.loads(line) for line in xla(PROCESS, what, tmp_path).splitlines()]


@pytest.mark.slow
def test_kernels_agree_with_float64(interpreted: Callable[[str], list[dict[str, Any]]]) -> None:
    """In fp32 and bf16. The interpreter puts NaN beyond the end of a tensor, which blocks reach over."""
    rows = interpreted("right")
    assert len(rows) > 100
    assert [row for row in rows if not row["holds"]] == []


@pytest.mark.slow
def test_planted_bugs_are_caught(interpreted: Callable[[str], list[dict[str, Any]]]) -> None:
    rows = interpreted("bugs")
    assert len(rows) == len(BUGS)
    assert [row for row in rows if not row["is_caught"]] == []


def written(kernels: list[Kernel], folder: Path) -> Path:
    """A build with these kernels."""
    for kernel in kernels:
        for path, template in kernel.files():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(render(template, {"k": kernel}).text, encoding="utf-8")
    (folder / LISTED).write_text(json.dumps({"kernels": [sizes_of(each) for each in kernels]}), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_kernels_compile_for_tpus_without_one(xla: Callable[..., str], tpu_compiler: Path, tmp_path: Path) -> None:
    """Those of Llama 3 8B, in the blocks of the chip that has least, for every chip."""
    norm = samples.add_norm("bf16", hidden_size=4096)
    attention = samples.causal_attention("bf16", num_heads=32, num_kv_heads=8, head_dim=128, longest=8192)
    decode = samples.decode_attention("bf16", num_heads=32, num_kv_heads=8, head_dim=128, longest=8192)
    found = list(compile_for_tpus(written([norm, attention, decode], tmp_path), list(TPUS)))
    functions = {"forward", "backward", "keys_backward", "queries_backward", "decode"}
    assert {(each.chip, each.function.partition(" ")[0]) for each in found} == {
        (chip, function) for chip in TPUS for function in functions
    }
    assert [each.complaint for each in found if each.complaint] == []
    assert all(0 < each.shared_bytes <= each.shared_allowed for each in found)


@pytest.mark.slow
def test_other_heads_and_masks_compile_too(xla: Callable[..., str], tpu_compiler: Path, tmp_path: Path) -> None:
    """Heads that are no whole vectors, a window, a cap, fp32, a norm of rows that are no whole vectors: on one chip."""
    kernels = [
        samples.add_norm("fp32", hidden_size=1000, is_layer=True, has_bias=True),
        samples.causal_attention(
            "fp32", num_heads=6, num_kv_heads=2, head_dim=64, longest=4096, window=300, softcap=30.0
        ),
        samples.decode_attention(
            "fp32", num_heads=6, num_kv_heads=2, head_dim=128, longest=4096, window=300, softcap=30.0
        ),
    ]
    found = list(compile_for_tpus(written(list(kernels), tmp_path), ["v5e"]))
    assert len(found) == 8
    assert [each.complaint for each in found if each.complaint] == []


@pytest.mark.slow
def test_an_oversized_block_is_rejected_with_figures(
    xla: Callable[..., str], tpu_compiler: Path, tmp_path: Path
) -> None:
    kernel = samples.add_norm("bf16", hidden_size=8192)
    assert isinstance(kernel.tiles, TokenBlock)
    large = replace(kernel, tiles=replace(kernel.tiles, tokens=256))
    decode = samples.decode_attention("bf16", num_heads=32, num_kv_heads=32, head_dim=128)
    assert isinstance(decode.tiles, TpuPages)
    many = replace(decode, tiles=replace(decode.tiles, pages=64))
    found = list(compile_for_tpus(written([large, many], tmp_path), ["v5p"]))
    assert {each.kernel for each in found} == {"add_rms_norm", "decode_attention"}
    for each in found:
        assert not each.holds
        assert each.shared_bytes > each.shared_allowed == 16 << 20
        assert f"bytes of VMEM, of which {each.chip} has 16,777,216" in each.complaint
