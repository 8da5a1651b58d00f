"""Servers for Ascend: greedy tokens under torch-npu's schemas, and what its meta kernels say of their calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build
from llmc.compiler.verify.ascend import check_server, has_torch_npu, serves_on_npu
from llmc.compiler.verify.environments import npu_folder, npu_variables
from llmc.runtimes.ascend.rotary import rotated
from llmc.runtimes.reference.attention import rotate
from llmc.runtimes.reference.decode_attention import decode_attention, paged_attention

with_torch_npu = pytest.mark.skipif(not has_torch_npu(), reason="torch-npu is not there (make setup-npu)")
SPEC = """
llmc: 1
name: tiny
model: {{family: qwen3, hidden_size: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2, head_dim: 16, intermediate_size: 96,
        vocab_size: 512, max_seq_len: 256}}
hardware: {{accelerator: {device}, per_node: 1}}
serve: {{max_seq_len: 256, weights: {{dtype: {dtype}}}, kv_cache: {{dtype: {dtype}}}}}
"""


def built(folder: Path, *, device: str, dtype: str) -> Path:
    spec = folder / f"{device}.yaml"
    spec.write_text(SPEC.format(device=device, dtype=dtype), encoding="utf-8")
    result = build(spec, folder / device)
    assert result.tree is not None, result.diagnostics
    write_tree(result.tree, folder / device)
    return folder / device


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("served"), device="ascend-910b", dtype="bf16")


@with_torch_npu
def test_answers_are_those_of_the_server_for_cpus(server: Path, tmp_path: Path):
    """Prompts in pieces, answers of unlike lengths in steps that are captured once for each batch and replayed."""
    cpu = built(tmp_path, device="cpu", dtype="fp32")
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("served_stand_ins.py")), server, cpu]
    ran = subprocess.run(command, env=npu_variables(npu_folder()), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["tokens"] == found["expected"]
    assert [len(each) for each in found["tokens"]] == [8, 9, 10, 11, 12, 13]
    assert found["logits"] < 1e-5
    assert found["calls"]["replay"] > 10
    ops = {"npu_rms_norm", "npu_add_rms_norm", "npu_swiglu", "npu_rotary_mul", "npu_scatter_nd_update_"}
    assert set(found["calls"]) == {*ops, "npu_fused_infer_attention_score", "replay"}


@with_torch_npu
def test_calls_are_held_to_the_meta_kernels_of_torch_npu(server: Path):
    assert serves_on_npu(server)
    calls, kernels = check_server(server)
    assert calls.holds
    assert calls.name.endswith("in batches of 1, 2, 4, 8, 12 and pieces of 256")
    assert kernels.holds


@with_torch_npu
def test_a_misspelt_keyword_of_a_server_is_named(tmp_path: Path):
    server = built(tmp_path, device="ascend-910b", dtype="bf16")
    file = server / "kernels" / "paged_attention.py"
    file.write_text(file.read_text(encoding="utf-8").replace("num_key_value_heads=", "num_kv_heads="), encoding="utf-8")
    (claim,) = check_server(server)
    assert not claim.holds
    assert claim.found == "Unknown keyword argument 'num_kv_heads' for operator 'npu::npu_fused_infer_attention_score'."


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_with_each_angle_twice_is_that_of_pairs(interleaved: bool):
    x, angles = torch.randn(2, 3, 5, 8), torch.randn(2, 1, 5, 4)
    twice = angles.repeat_interleave(2, -1) if interleaved else torch.cat((angles, angles), -1)
    expected = rotate(x, angles.cos(), angles.sin(), interleaved=interleaved)
    torch.testing.assert_close(rotated(x, twice.cos(), twice.sin(), interleaved=interleaved), expected)


def test_attention_to_blocks_is_that_to_rows():
    heads, kv_heads, size, blocks = 4, 2, 4, torch.tensor([[3, 0], [1, 2]])
    q, k, v = torch.randn(2, heads, 1, 16), torch.randn(2, kv_heads, 1, 16), torch.randn(2, kv_heads, 1, 16)
    cache = [torch.randn(17, kv_heads, 16) for _ in range(4)]
    cache[2:] = [each.clone() for each in cache[:2]]
    lengths = torch.tensor([6, 3])
    read = (size * blocks[..., None] + torch.arange(size)).flatten(1)
    written = read.gather(1, lengths[:, None] - 1)
    found = paged_attention(q, k, v, *cache[:2], written, blocks, [6, 3], block_tokens=size, scale=0.25)
    qkv = torch.cat((q, k, v), dim=1).transpose(1, 2).flatten(2)
    kept = (cache[2], cache[3])
    heads_of = {"num_heads": heads, "num_kv_heads": kv_heads, "scale": 0.25}
    torch.testing.assert_close(found, decode_attention(qkv, None, kept, written, read, lengths, **heads_of))
    torch.testing.assert_close(cache[:2], cache[2:])
