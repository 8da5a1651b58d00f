"""Time of an op and of a block: the law by hand, and that shares of the work add up."""

from __future__ import annotations

import pytest

from llmc.compiler.cost.compute import Formats, block_time, law_s, op_time
from llmc.compiler.cost.constants import BY_KIND, BY_NAME, constants_of
from llmc.compiler.cost.provenance import EXACT, Spread, combine
from llmc.compiler.cost.sharding import Degrees, shard
from llmc.compiler.ir.facts import extent, flops

from ..models import DEEPSEEK_V3, LLAMA_3_8B, h100s, training_graph

BF16 = Formats.of("bf16")


def test_the_law_is_a_launch_and_the_slower_of_two():
    law = {"launch_s": 1e-6, "flops_per_s": 100.0, "bytes_per_s": 10.0}
    assert law_s(**law, flops=500, moved_bytes=1) == 1e-6 + 5
    assert law_s(**law, flops=1, moved_bytes=50) == 1e-6 + 5


def test_a_large_product_on_h100():
    """[8192, 4096] x [4096, 28672]: 1.92 TFLOP at 0.72 of 989 TFLOP/s, and the launch; backward is two of it."""
    op = training_graph(LLAMA_3_8B)["block/mlp.gate_up"]
    time = op_time(op, extent(batch=2, tokens=4096), machine=h100s(1), formats=BF16)
    assert time.forward_s == pytest.approx(3.5e-6 + 2 * 8192 * 4096 * 28672 / (0.72 * 989e12))
    assert time.backward_s == 2 * time.forward_s


def test_a_thin_product_is_bound_by_reading_its_weights():
    op = training_graph(LLAMA_3_8B)["block/mlp.gate_up"]
    time = op_time(op, extent(batch=1, tokens=1), machine=h100s(1), formats=BF16)
    weights_s = 2 * 4096 * 28672 / (0.81 * 3350e9)
    assert time.forward_s == pytest.approx(3.5e-6 + weights_s, rel=1e-3)


@pytest.mark.parametrize("fields", [LLAMA_3_8B, DEEPSEEK_V3])
def test_tensor_parallel_products_of_all_ranks_are_the_whole(fields: dict):
    free = extent(batch=1, tokens=128)
    for op in training_graph(fields).all_ops:
        has_split_dim = any(dim in op.line.dims for dim in ("H", "K", "F", "W", "V"))
        if op.group == "matmul" and has_split_dim:
            assert 4 * flops(shard(op, Degrees(tp=4)), free) == flops(op, free)


def test_classes_of_a_block_sum_to_it():
    ops = training_graph(LLAMA_3_8B).block_ops("block")
    time = block_time(ops, Degrees(tp=2), batch=1, tokens=4096, machine=h100s(8), formats=BF16)
    assert sum(time.by_class.values()) == pytest.approx(time.forward_s + time.backward_s)
    assert 0 < time.attention_forward_s < time.forward_s


def test_context_parallel_ranks_share_a_causal_sequence_evenly():
    ops = [op for op in training_graph(LLAMA_3_8B).block_ops("block") if op.group == "attention"]
    whole = block_time(ops, Degrees(), batch=1, tokens=32768, machine=h100s(8), formats=BF16)
    part = block_time(ops, Degrees(cp=4), batch=1, tokens=32768, machine=h100s(8), formats=BF16)
    assert part.forward_s == pytest.approx(whole.forward_s / 4, rel=1e-2)


def test_constants_are_physical_and_have_an_origin():
    for constants in {id(each): each for each in (*dict(BY_NAME).values(), *BY_KIND.values())}.values():
        for law in (constants.matmul, constants.matmul_fp8):
            assert 0 < law.compute_share <= 1
            assert 0 < law.memory_share <= 1
            assert law.source
        assert constants.spread.low < 1 < constants.spread.high


def test_a_device_never_seen_has_a_wider_interval():
    known, unknown = constants_of(name="h100-sxm-80g", kind="gpu"), constants_of(name="my-gpu", kind="gpu")
    assert unknown.spread.high > known.spread.high
    assert unknown.matmul.origin == "assumed"


def test_errors_of_terms_that_err_alone_add_in_quadrature():
    low, high = combine([(3.0, Spread(0.9, 1.1)), (4.0, Spread(0.9, 1.1))])
    assert (low, high) == pytest.approx((7 - 0.5, 7 + 0.5))
    assert combine([(7.0, EXACT)]) == (7.0, 7.0)
