"""Passes: a graph before and a graph after, and what none of them may change."""

from __future__ import annotations

import pytest

from llmc.compiler.frontend.model import build_model
from llmc.compiler.ir.facts import extent, flops, saved_tensors
from llmc.compiler.ir.graph import Graph
from llmc.compiler.ir.text import print_graph
from llmc.compiler.ir.types import DType
from llmc.compiler.passes.choose_attention import choose_attention
from llmc.compiler.passes.fuse_add_norm import fuse_add_norm
from llmc.compiler.passes.fuse_gate_up import fuse_gate_up
from llmc.compiler.passes.fuse_linear_cross_entropy import fuse_linear_cross_entropy
from llmc.compiler.passes.fuse_qkv import fuse_qkv
from llmc.compiler.passes.fuse_rope_attention import fuse_rope_attention
from llmc.compiler.pipeline import KERNEL_PASSES, run_passes
from llmc.spec.model import Model
from llmc.spec.training import Train

from ..models import DEEPSEEK_V3, GEMMA_2_9B, GPT2, GPT_OSS_20B, LLAMA_3_8B, MODELS, graph_of

STAGE = Train.model_validate(
    {"objective": "causal_lm", "steps": 1, "seq_len": 8, "global_batch": 1, "z_loss": 1e-4},
)


def with_loss(fields: dict) -> Graph:
    return build_model(Model.model_validate(fields), name="model", train=STAGE)


def lines_of(graph: Graph, *, starting: str) -> list[str]:
    text = print_graph(graph).splitlines()
    return [line.strip() for line in text if line.strip().startswith(starting)]


def test_fuse_qkv():
    before = graph_of(GPT2)
    assert lines_of(before, starting="attn") == [
        "attn_norm = layer_norm(x)  [B T D!, D, D -> B T D]  weight bias  eps=1e-05",
        "attn.q = linear(attn_norm)  [B T D, D H C, H C -> B T H C]  weight bias",
        "attn.k = linear(attn_norm)  [B T D, D K C, K C -> B T K C]  weight bias",
        "attn.v = linear(attn_norm)  [B T D, D K C, K C -> B T K C]  weight bias",
        "attn = attention(attn.q, attn.k, attn.v)  [B T H C, B S K C, B S K C -> B T H C]  cached=K C, K C",
        "attn.out = linear(attn)  [B T H C, H C D, D -> B T D]  weight bias",
        "attn_add = add(x, attn.out)  [B T D, B T D -> B T D]",
    ]
    assert lines_of(fuse_qkv(before), starting="attn") == [
        "attn_norm = layer_norm(x)  [B T D!, D, D -> B T D]  weight bias  eps=1e-05",
        "attn.qkv = fused_qkv(attn_norm)  [B T D, D W, W -> B T W]  W=2304  weight bias  heads=12  key_heads=12",
        "attn.qkv.q = split_heads(attn.qkv)  [B T W -> B T H C]  W=2304  part=q",
        "attn.qkv.k = split_heads(attn.qkv)  [B T W -> B T K C]  W=2304  part=k",
        "attn.qkv.v = split_heads(attn.qkv)  [B T W -> B T K C]  W=2304  part=v",
        "attn = attention(attn.qkv.q, attn.qkv.k, attn.qkv.v)  [B T H C, B S K C, B S K C -> B T H C]  cached=K C, K C",
        "attn.out = linear(attn)  [B T H C, H C D, D -> B T D]  weight bias",
        "attn_add = add(x, attn.out)  [B T D, B T D -> B T D]",
    ]


def test_fuse_qkv_leaves_latent_attention_alone():
    before = graph_of(DEEPSEEK_V3)
    assert print_graph(fuse_qkv(before)) == print_graph(before)


def test_fuse_gate_up():
    after = fuse_gate_up(graph_of(LLAMA_3_8B))
    assert lines_of(after, starting="mlp") == [
        "mlp_norm = rms_norm(attn_add)  [B T D!, D -> B T D]  weight  eps=1e-05",
        "mlp.gate_up = gate_up(mlp_norm)  [B T D, D W -> B T W]  W=28672  weight",
        "mlp.act = fused_gated_activation(mlp.gate_up)  [B T W -> B T F]  W=28672  function=swiglu",
        "mlp.down = linear(mlp.act)  [B T F, F D -> B T D]  weight",
        "mlp_add = add(attn_add, mlp.down)  [B T D, B T D -> B T D]",
    ]


def test_fuse_gate_up_of_experts_keeps_their_biases():
    after = fuse_gate_up(graph_of(GPT_OSS_20B))
    assert lines_of(after, starting="mlp.experts.gate_up") == 2 * [
        "mlp.experts.gate_up = expert_gate_up(mlp.dispatch)  [B T X D, E D W, E W -> B T X W]  W=5760  weight bias"
    ]


def test_fuse_gate_up_leaves_a_block_without_gate_alone():
    before = graph_of(GPT2)
    assert print_graph(fuse_gate_up(before)) == print_graph(before)


def test_fuse_linear_cross_entropy():
    before = with_loss(LLAMA_3_8B)
    assert lines_of(before, starting="loss") == [
        "loss = cross_entropy(head, targets)  [B T V!, B T -> B T]  z_loss=0.0001"
    ]
    after = fuse_linear_cross_entropy(before)
    assert lines_of(after, starting="head") == [
        "head = linear_cross_entropy(norm, targets)  [B T D, B T, D V! -> B T]  weight  z_loss=0.0001"
    ]
    assert after.output == "head"


def test_fuse_linear_cross_entropy_takes_the_softcap_in():
    after = fuse_linear_cross_entropy(with_loss(GEMMA_2_9B))
    assert lines_of(after, starting="head") == [
        "head = linear_cross_entropy(norm, targets)  [B T D, B T, D V! -> B T]  weight=embed.weight"
        "  softcap=30  z_loss=0.0001"
    ]
    assert "softcap" not in after


def test_choose_attention_is_eager_for_caps_and_sinks_only():
    for fields, kind in ((LLAMA_3_8B, "attention"), (GEMMA_2_9B, "eager_attention"), (GPT_OSS_20B, "eager_attention")):
        after = choose_attention(graph_of(fields))
        assert {op.kind for op in after.all_ops if op.name == "attn"} == {kind}


def test_fuse_add_norm():
    after = fuse_add_norm(graph_of(LLAMA_3_8B))
    assert lines_of(after, starting="attn_") + lines_of(after, starting="mlp_") == [
        "attn_norm = add_rms_norm(x)  [B T D!, D -> B T D]  weight  eps=1e-05",
        "attn_add = stream_add(x, attn.out)  [B T D, B T D -> B T D]",
        "mlp_norm = add_rms_norm(attn_add)  [B T D!, D -> B T D]  weight  eps=1e-05",
        "mlp_add = stream_add(attn_add, mlp.down)  [B T D, B T D -> B T D]",
    ]


def test_fuse_rope_attention():
    after = fuse_rope_attention(fuse_qkv(graph_of(LLAMA_3_8B)))
    assert lines_of(after, starting="attn") == [
        "attn_norm = rms_norm(x)  [B T D!, D -> B T D]  weight  eps=1e-05",
        "attn.qkv = fused_qkv(attn_norm)  [B T D, D W -> B T W]  W=6144  weight  heads=32  key_heads=8",
        "attn = rope_attention(attn.qkv)  [B T W -> B T H C]  W=6144  cached=K C, K C  rotary_dim=128  theta=500000",
        "attn.out = linear(attn)  [B T H C, H C D -> B T D]  weight",
        "attn_add = add(x, attn.out)  [B T D, B T D -> B T D]",
    ]


def test_fuse_rope_attention_leaves_norms_between_alone():
    before = fuse_qkv(graph_of(LLAMA_3_8B | {"attention": {"kind": "gqa", "qk_norm": "head"}}))
    assert print_graph(fuse_rope_attention(before)) == print_graph(before)


def test_what_the_kernels_keep_is_what_they_say():
    """compiler/kernels/: a norm keeps 2 D + 4 bytes a token, attention (2 H + 2 K) C · 2 + 4 H."""
    graph = run_passes(with_loss(LLAMA_3_8B), kernels=frozenset({"add_rms_norm", "causal_attention"}))
    kept = {
        saved.key: saved.size_bytes(extent(batch=1, tokens=1), values=DType.BF16)
        for saved in saved_tensors(graph.all_ops)
    }
    attention = sum(size for key, size in kept.items() if key.partition("#")[0] in ("block/attn", "block/attn.qkv"))
    assert attention == (2 * 32 + 2 * 8) * 128 * 2 + 4 * 32
    assert sum(size for key, size in kept.items() if key.startswith("block/mlp_norm#")) == 2 * 4096 + 4


@pytest.mark.parametrize("name", MODELS)
def test_passes_keep_parameters_and_products(name: str):
    """Names of parameters change as the state dict's do; their number and the FLOPs of products do not."""
    before = with_loss(MODELS[name])
    after = run_passes(before, kernels=frozenset(KERNEL_PASSES))
    assert after.num_parameters() == before.num_parameters()
    assert after.active_parameters() == before.active_parameters()
    assert _block_flops(after) == _block_flops(before)


def _block_flops(graph: Graph) -> float:
    free = extent(batch=2, tokens=64)
    return sum(flops(op, free) * graph.count(op.block) for op in graph.all_ops if op.block and op.group == "matmul")
