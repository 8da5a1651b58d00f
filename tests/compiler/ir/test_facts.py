"""FLOPs, bytes and saved tensors, against sums done by hand and by brute force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmc.compiler.ir.facts import (
    bytes_moved,
    extent,
    flops,
    param_shape,
    saved_tensors,
    touched_experts,
    visible_pairs,
)
from llmc.compiler.ir.types import DType

from ..models import DEEPSEEK_V3, GEMMA_2_9B, LLAMA_3_70B, graph_of, training_graph


@given(st.integers(1, 40), st.integers(0, 40), st.one_of(st.none(), st.integers(1, 60)))
def test_visible_pairs_are_those_of_the_mask(tokens: int, before: int, window: int | None):
    keys = before + tokens
    mask = [
        key <= query and (window is None or query - key < window)
        for query in range(before, keys)
        for key in range(keys)
    ]
    assert visible_pairs(tokens=tokens, keys=keys, window=window) == sum(mask)


def test_flops_of_products_and_of_causal_attention():
    graph = graph_of(LLAMA_3_70B)
    free = extent(batch=2, tokens=4096)
    assert flops(graph["block/attn.q"], free) == 2 * 2 * 4096 * 8192 * 64 * 128
    assert flops(graph["block/mlp.down"], free) == 2 * 2 * 4096 * 28672 * 8192
    assert flops(graph["block/attn"], free) == 2 * 2 * 64 * (128 + 128) * (4096 * 4097 // 2)


def test_a_window_saves_flops_on_its_layers_only():
    graph, free = graph_of(GEMMA_2_9B), extent(batch=1, tokens=8192)
    assert flops(graph["local/attn"], free) < flops(graph["global/attn"], free)


def test_a_token_costs_the_experts_it_visits():
    graph, free = graph_of(DEEPSEEK_V3), extent(batch=1, tokens=10)
    assert flops(graph["moe/mlp.experts.up"], free) == 2 * 10 * 8 * 7168 * 2048


def test_shapes_of_parameters_follow_the_line():
    graph = graph_of(DEEPSEEK_V3)
    experts = graph["moe/mlp.experts.up"]
    assert param_shape(experts, experts.params[0]) == (256, 7168, 2048)
    assert param_shape(graph["head"], graph["head"].params[0]) == (7168, 129280)


def test_few_tokens_read_few_experts():
    assert touched_experts(num_experts=8, experts_per_token=2, tokens=1) == 2
    assert touched_experts(num_experts=8, experts_per_token=2, tokens=2) == 8 * (1 - 0.75**2)
    assert 7.99 < touched_experts(num_experts=8, experts_per_token=2, tokens=64) < 8


def test_bytes_of_a_product_are_each_operand_once():
    graph, free = graph_of(LLAMA_3_70B), extent(batch=1, tokens=16)
    moved = bytes_moved(graph["block/mlp.down"], free, values=DType.BF16, weights=DType.FP8)
    assert moved == 2 * 16 * 28672 + 28672 * 8192 + 2 * 16 * 8192


def test_a_dense_block_keeps_what_the_published_ledger_counts():
    """2 · (2 h + 2 h) + 2 · (q + 2 kv + q + 2 f + f) + 4 · heads bytes a token, with fused norms and SiLU·mul.

    Two figures a row that norms keep come on top; queries, keys and values here are separate products.
    """
    graph = graph_of(LLAMA_3_70B)
    h, q, kv, f, heads, tokens = 8192, 8192, 1024, 28672, 64, 4096
    published = (2 * (2 * h + 2 * h) + 2 * (q + 2 * kv + q + 2 * f + f) + 4 * heads) * tokens
    norms = 2 * 4 * tokens
    unfused = 2 * f * tokens  # silu(gate), which only the unfused form keeps
    free = extent(batch=1, tokens=tokens)
    kept = sum(saved.size_bytes(free, values=DType.BF16) for saved in saved_tensors(graph.block_ops("block")))
    assert kept == published + norms + unfused


def test_each_tensor_is_kept_once_and_a_view_keeps_what_it_looks_into():
    graph = training_graph(LLAMA_3_70B)
    keys = [saved.key for saved in saved_tensors(graph.block_ops("block"))]
    assert len(keys) == len(set(keys))
    assert "block/attn.qkv" in keys  # values are a view of it
    assert "block/attn.qkv.v" not in keys
