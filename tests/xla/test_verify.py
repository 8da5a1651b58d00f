"""`llmc verify` of programs for TPUs: the compiler's own verdict, and what it must agree with."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import TPU, build, plan_of, tiny_spec

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build as build_spec
from llmc.compiler.pipeline import plan_file
from llmc.compiler.planner.layout import Layout
from llmc.compiler.verify.tpu import check_tpu

SMALL = """\
llmc: 1
name: small
model: {preset: llama-3-8b, num_layers: 6, hidden_size: 512, num_heads: 8, num_kv_heads: 4, head_dim: 128, intermediate_size: 1024, vocab_size: 4096}
hardware: {accelerator: tpu-v5e, topology: 2x4}
train: {objective: causal_lm, tokens: 1B, seq_len: 1024, global_batch: 64, precision: bf16}
parallel: {dp_shard: 8, zero: 3, micro_batch: 8}
"""


def changed(**values: str) -> str:
    """SMALL with other values of these keys."""
    text = SMALL
    for key, value in values.items():
        text, found = re.subn(rf"\b{key}: [\w-]+", f"{key}: {value}", text)
        assert found == 1, key
    return text


WEIGHTS = changed(
    topology="2x2",
    dp_shard="4",
    num_layers="4",
    hidden_size="12288",
    num_heads="96",
    num_kv_heads="8",
    intermediate_size="49152",
    global_batch="4",
    micro_batch="1",
)
"""Four layers of 2.2B parameters on four chips of 16 GiB."""
LONG_SEQUENCES = changed(
    accelerator="tpu-v6e",
    num_layers="2",
    hidden_size="2048",
    num_heads="16",
    intermediate_size="8192",
    seq_len="32768",
    global_batch="64",
)
MANY_SEQUENCES = changed(
    accelerator="tpu-v5p",
    topology="2x2x2",
    num_layers="1",
    hidden_size="4096",
    num_heads="32",
    num_kv_heads="8",
    intermediate_size="8192",
    global_batch="6144",
    micro_batch="768",
)


@pytest.mark.slow
def test_states_fit_and_traffic_agree_with_the_tpu_compiler(
    xla: Callable[..., str], tpu_compiler: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    result = build_spec(tmp_path / "small.yaml", tmp_path / "program")
    assert result.tree is not None, result.diagnostics
    assert result.entry.plan.train is not None
    write_tree(result.tree, result.out_dir)
    claims = list(check_tpu(result.out_dir, result.entry.plan.train, progress=lambda _: None))
    assert len(claims) == 5
    (whole,) = (each for each in claims if "all that a device holds" in each.name)
    assert [each for each in claims if not each.holds and each is not whole] == []
    # The plan's buffers are those of large models, where it holds to 5 % (docs/tpu.md); this one is small.
    assert 0.8 < float(whole.found) / float(whole.planned) < 1.2


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(WEIGHTS, id="weights on v5e"),
        pytest.param(LONG_SEQUENCES, id="long sequences on v6e"),
        pytest.param(MANY_SEQUENCES, id="many sequences on v5p"),
    ],
)
def test_a_spec_that_cannot_fit_is_refused_by_planner_and_compiler(
    text: str, xla: Callable[..., str], tpu_compiler: Path, tmp_path: Path
) -> None:
    (tmp_path / "over.yaml").write_text(text, encoding="utf-8")
    entry = plan_file(tmp_path / "over.yaml")
    assert [each.code for each in entry.diagnostics if each.severity == "error"] == ["P201"]
    assert entry.spec is not None
    assert entry.plan.train is not None
    program = build(entry.spec, tmp_path / "program", plan=plan_of(entry.spec, layout=entry.plan.train.layout))
    layers = entry.spec.model.num_layers
    (claim,) = check_tpu(program, entry.plan.train, progress=lambda _: None, layers=(layers,))
    assert claim.name == f"{layers} layers, which do not fit"
    assert "Ran out of memory" in claim.hint
    assert claim.tolerance == 0.10
    assert claim.holds, (claim.planned, claim.found)
    assert entry.spec.hardware.accelerator.memory_gib is not None
    room = entry.spec.hardware.accelerator.memory_gib * (1 << 30)
    assert min(float(claim.planned), float(claim.found)) > room  # both say that it does not fit


def test_the_mesh_lies_on_the_torus_as_the_plan_numbers_it() -> None:
    from llmc.compiler.lower.spmd import lower_spmd

    spec = tiny_spec(without=("serve",), hardware=TPU)
    view = lower_spmd(spec, Layout(dp_shard=4, zero=3, tp=2), origin="tiny.yaml")
    assert view.topology == "v5e:2x4"
    assert view.torus_words == "tp takes 2 along the 1st; dp_shard takes 4 along the 2nd"
