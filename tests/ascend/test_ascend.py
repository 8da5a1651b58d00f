"""Programs for Ascend: what their modules compute under the real op's schema, and whether torch-npu has a kernel for each op of a step."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llmc.cli.main import main
from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build
from llmc.compiler.verify.ascend import check_kernels, has_torch_npu
from llmc.compiler.verify.environments import npu_folder, npu_variables

with_torch_npu = pytest.mark.skipif(not has_torch_npu(), reason="torch-npu is not there (make setup-npu)")

EXPERTS = ", moe: {num_experts: 4, experts_per_token: 2, intermediate_size: 32, router: {aux_loss_weight: 0.01}}"
QWEN = """
llmc: 1
name: tiny
model: {{family: qwen3, hidden_size: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2, head_dim: 16, intermediate_size: 96,
        vocab_size: 512, max_seq_len: 128{moe}}}
hardware: {{accelerator: {device}, per_node: 1}}
train: {{objective: causal_lm, steps: 10, seq_len: 64, global_batch: 4, precision: fp32}}
"""


def beside_torch_npu(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    return subprocess.run(command, env=npu_variables(npu_folder()), capture_output=True, text=True)


@with_torch_npu
def test_every_op_with_a_kernel_passes_and_others_are_named():
    [claim] = check_kernels(["aten::mm", "aten::_fused_adamw_", "aten::native_layer_norm", "c10d::allreduce_"])
    assert claim.holds
    [claim] = check_kernels(["aten::mm", "npu::npu_rms_norms"])
    assert not claim.holds
    assert claim.found == "npu::npu_rms_norms"


@with_torch_npu
def test_the_norm_is_that_of_torch_under_the_real_schema():
    """A stand-in that computes is put under torch-npu's own schema; names, order and formats of arguments are checked by it."""
    ran = beside_torch_npu("""
        import torch, torch_npu
        from llmc.runtimes.ascend.norm import RmsNorm

        def stand_in(x, gamma, epsilon=1e-6):
            scale = (x.float().pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
            return (x.float() * scale * gamma.float()).to(x.dtype), scale

        library = torch.library.Library("npu", "IMPL")
        library.impl("npu_rms_norm", stand_in, "CPU")
        class OnNpu(torch.Tensor):
            device = torch.device("npu")
        norm = RmsNorm(64, eps=1e-5)
        x = torch.randn(2, 8, 64)
        torch.nn.init.normal_(norm.weight)
        plain = torch.nn.functional.rms_norm(x, (64,), norm.weight, 1e-5)
        with torch.no_grad():
            found = norm(x.as_subclass(OnNpu)).as_subclass(torch.Tensor)
        torch.testing.assert_close(found, plain)
        print("equal")
    """)
    assert ran.stdout.endswith("equal\n"), ran.stderr


@with_torch_npu
def test_a_misspelt_argument_is_caught_by_the_schema():
    ran = beside_torch_npu("""
        import torch, torch_npu
        x = torch.empty(2, 8, 64, device="meta")
        print([tuple(each.shape) for each in torch.ops.npu.npu_rms_norm(x, x[0, 0], 1e-5)])
        torch.ops.npu.npu_rms_norm(x, x[0, 0], eps=1e-5)
    """)
    assert "[(2, 8, 64), (2, 8, 1)]" in ran.stdout
    assert "eps" in ran.stderr


@with_torch_npu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("moe", "calls"),
    [
        ("", {"npu_rms_norm": 4, "npu_swiglu": 2, "npu_swiglu_backward": 2, "npu_grouped_matmul": 0}),
        # Of each of two layers two products, with two gradients each.
        (EXPERTS, {"npu_rms_norm": 4, "npu_swiglu": 0, "npu_swiglu_backward": 0, "npu_grouped_matmul": 12}),
    ],
    ids=["dense", "experts"],
)
def test_a_program_with_stand_ins_computes_what_the_one_for_cpus_computes(
    moe: str, calls: dict[str, int], tmp_path: Path
):
    """From end to end under torch-npu's schemas, forward and backward: norms, gates and products of experts are ops of torch-npu, stood in for."""
    folders = []
    for name, device in (("npu", "ascend-910b"), ("cpu", "cpu")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(QWEN.format(device=device, moe=moe), encoding="utf-8")
        result = build(path, tmp_path / name)
        assert result.tree is not None, result.diagnostics
        write_tree(result.tree, tmp_path / name)
        folders.append(str(tmp_path / name))
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("stand_ins.py")), *folders]
    environment = npu_variables(npu_folder()) | {"LLMC_KERNELS": "eager"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["calls"] == calls
    assert found["loss"] < 1e-5
    assert found["gradient"] < 1e-4


SPEC = """
llmc: 1
name: tiny
model: {family: llama, hidden_size: 256, num_layers: 2, num_heads: 4, num_kv_heads: 2, intermediate_size: 512,
        vocab_size: 1024, max_seq_len: 512}
hardware: {accelerator: ascend-910b, nodes: 1, per_node: 4}
train: {objective: causal_lm, steps: 10, seq_len: 512, global_batch: 16, precision: bf16}
parallel: {dp_shard: 2, zero: 3, tp: 2, sequence_parallel: true, micro_batch: 2}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def test_what_is_built_runs_on_npus_and_shows_nothing_of_other_devices(spec: Path):
    tree = build(spec, spec.parent / "build").tree
    assert tree is not None
    texts = {path: text for path, text in tree.texts.items() if path.endswith(".py")}
    assert 'take_place("npu")' in texts["train.py"]
    assert "self.mlp_norm.weight)\n" in texts["model.py"]
    assert "npu_swiglu(gate_up, dim=-1)" in texts["kernels/swiglu.py"]
    assert "num_warps=" not in texts["kernels/add_rms_norm_gpu.py"]
    assert not any("cuda" in text for text in texts.values())


@with_torch_npu
@pytest.mark.slow
def test_a_program_for_ascend_is_verified(spec: Path, capsys: pytest.CaptureFixture[str]):
    """Claims on memory are those of large models: tiny ones are told from their parts by more than 2 %."""
    main(["verify", str(spec)])
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.lstrip().startswith("✗") and "memory" not in line]
    assert failed == []
    assert any("kernels: ops of a step that torch-npu" in line for line in lines)


def test_what_is_not_lowered_for_an_npu_is_refused(spec: Path):
    text = SPEC.replace("sequence_parallel: true, micro_batch: 2", "cp: 2, cp_kind: ring, micro_batch: 2")
    spec.write_text(text.replace("tp: 2", "tp: 1"), encoding="utf-8")
    assert [each.message for each in build(spec, spec.parent / "build").diagnostics] == [
        "a ring of cp 2 is not lowered for an npu yet; `cp_kind: ulysses` is"
    ]
