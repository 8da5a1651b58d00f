"""Graphs hold together: verification names the stage at fault, rewrites keep users, the text folds orders."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest

from llmc.compiler.ir.ops import ADD, make_op
from llmc.compiler.ir.rewriter import Rewriter
from llmc.compiler.ir.text import fold_order
from llmc.compiler.ir.types import DType
from llmc.compiler.ir.verify import GraphError, verify

from ..models import LLAMA_3_8B, MODELS, graph_of


@pytest.mark.parametrize("name", MODELS)
def test_the_network_is_acyclic_and_frozen(name: str):
    network = graph_of(MODELS[name]).network
    assert nx.is_directed_acyclic_graph(network)
    assert nx.is_frozen(network)
    assert network.nodes["embed"]["op"].kind == "embedding"


def test_dims_that_disagree_are_reported_against_the_stage():
    graph = graph_of(LLAMA_3_8B)
    down = graph["block/mlp.down"]
    broken = graph.with_ops(replace(op, sizes=op.sizes | {"F": 7}) if op is down else op for op in graph.all_ops)
    with pytest.raises(GraphError, match=r"my_pass made a broken graph:\n  block/mlp.down: reads block/mlp.act as"):
        verify(broken, after="my_pass")


def test_a_dangling_value_is_reported():
    graph = graph_of(LLAMA_3_8B)
    unused = make_op(ADD, "unused", "embed", "embed", sizes=graph.sizes)
    with pytest.raises(GraphError, match="nothing reads unused"):
        verify(graph.with_ops((*graph.all_ops, unused)), after="my_pass")


def test_an_op_that_is_gone_is_reported():
    graph = graph_of(LLAMA_3_8B)
    with pytest.raises(GraphError, match="reads norm, which does not exist"):
        verify(graph.with_ops(op for op in graph.all_ops if op.id != "norm"), after="my_pass")


def test_erasing_an_op_hands_its_users_on():
    graph = graph_of(LLAMA_3_8B)
    rewriter = Rewriter(graph)
    rewriter.erase(graph["block/attn.q_rope"], instead=graph["block/attn.q"])
    assert rewriter.finish("test")["block/attn"].inputs[0] == "block/attn.q"


def test_only_user_is_none_for_what_leaves_a_block():
    graph = graph_of(LLAMA_3_8B)
    assert graph.only_user(graph["block/mlp.gate"]) == graph["block/mlp.act"]
    assert graph.only_user(graph["block/attn_norm"]) is None  # three projections read it
    assert graph.only_user(graph["block/mlp_add"]) is None
    assert graph.only_user(graph["head"]) is None


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ("aaaa", "a x 4"),
        ("abab", "(a, b) x 2"),
        ("aabaab", "(a x 2, b) x 2"),
        ("cccaab", "c x 3, a x 2, b"),
        ("aabaabaa", "(a x 2, b) x 2, a x 2"),
    ],
)
def test_orders_fold(order: str, text: str):
    assert fold_order(tuple(order)) == text


def test_block_formats_count_their_scales():
    assert DType.named("nvfp4").size_bytes == (16 * 4 + 8) / 16 / 8
    assert DType.named("mxfp4").size_bytes == (32 * 4 + 8) / 32 / 8
