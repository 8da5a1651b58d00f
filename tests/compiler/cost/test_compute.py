"""Time of an op and of a block: the law by hand, and that shares of the work add up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmc.compiler.cost.compute import Formats, block_time, law_s, op_time, work_of
from llmc.compiler.cost.constants import constants_of, spread_of, table
from llmc.compiler.cost.products import second_products
from llmc.compiler.cost.provenance import EXACT, Spread, combine
from llmc.compiler.cost.sharding import Degrees, shard
from llmc.compiler.cost.software import Software, software_of
from llmc.compiler.ir.facts import extent, flops

from ..models import DEEPSEEK_V3, LLAMA_3_8B, h100s, training_graph

BF16 = Formats.of("bf16")


def test_the_law_is_a_launch_and_the_slower_of_two():
    law = {"launch_s": 1e-6, "flops_per_s": 100.0, "bytes_per_s": 10.0}
    assert law_s(**law, flops=500, moved_bytes=1) == 1e-6 + 5
    assert law_s(**law, flops=1, moved_bytes=50) == 1e-6 + 5


def test_a_large_product_on_h100():
    """[8192, 4096] x [4096, 28672]: 1.92 TFLOP at a share of 989 TFLOP/s, less for short sides, and the launch; backward is two."""
    op = training_graph(LLAMA_3_8B)["block/mlp.gate_up"]
    time = op_time(op, extent(batch=2, tokens=4096), machine=h100s(1), formats=BF16)
    constants = constants_of(architecture="hopper", kind="gpu")
    rate = constants.products["bf16"] * 989e12 / (1 + constants.half_side * (1 / 8192 + 1 / 4096 + 1 / 28672))
    assert time.forward_s == pytest.approx(3.5e-6 + 2 * 8192 * 4096 * 28672 / rate)
    assert time.backward_s == 2 * time.forward_s


def test_a_thin_product_is_bound_by_reading_its_weights():
    op = training_graph(LLAMA_3_8B)["block/mlp.gate_up"]
    time = op_time(op, extent(batch=1, tokens=1), machine=h100s(1), formats=BF16)
    weights_s = 2 * 4096 * 28672 / (0.81 * 3350e9)
    assert time.forward_s == pytest.approx(3.5e-6 + weights_s, rel=1e-3)


def test_casts_to_fp8_go_through_memory_for_each_of_six_factors():
    """[8192, 4096] x [4096, 28672] forward and two products backward: input, weight and gradient become fp8 twice each."""
    op, free, fp8 = training_graph(LLAMA_3_8B)["block/mlp.gate_up"], extent(batch=2, tokens=4096), Formats.of("fp8")
    apart = op_time(op, free, machine=h100s(1), formats=fp8, software=software_of(None, precision="fp8"))
    beside = op_time(op, free, machine=h100s(1), formats=fp8, software=software_of(None, precision="bf16"))
    numbers = 2 * (8192 * 4096 + 8192 * 28672 + 4096 * 28672)
    bandwidth = constants_of(architecture="hopper", kind="gpu").memory * 3350e9
    spent = apart.forward_s + apart.backward_s - beside.forward_s - beside.backward_s
    assert spent == pytest.approx(9 * numbers / bandwidth)


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


def test_a_router_is_a_product_like_any_other():
    """[tokens, 7168] x [7168, 256]: its outputs are experts, but it is none."""
    op = training_graph(DEEPSEEK_V3)["moe/mlp.router"]
    work = work_of(op, extent(batch=1, tokens=4096), BF16)
    assert work.thinness == pytest.approx(1 / 4096 + 1 / op.sizes["E"] + 1 / op.sizes["D"])


def test_a_layer_computed_again_stops_before_its_last_product():
    time = block_time(
        training_graph(LLAMA_3_8B).block_ops("block"), Degrees(), batch=1, tokens=4096, machine=h100s(1), formats=BF16
    )
    ours, megatron = Software(), Software(kind="tuned")
    assert time.again_s(megatron.recomputed("full")) == time.forward_s
    assert 0.7 < time.again_s(ours.recomputed("full")) / time.forward_s < 0.85
    assert time.again_s(ours.recomputed("none")) == 0.0


def test_kernels_that_are_not_fused_move_more():
    ops = [op for op in training_graph(LLAMA_3_8B).block_ops("block") if op.group in ("norm", "pointwise")]
    fused, eager = (
        block_time(ops, Degrees(), batch=1, tokens=8192, machine=h100s(1), formats=BF16, software=Software(kind=kind))
        for kind in ("fsdp", "eager")
    )
    more = constants_of(architecture="hopper", kind="gpu").software["eager"].pointwise
    assert eager.forward_s / fused.forward_s == pytest.approx(more, rel=0.03)


def test_a_family_like_another_has_its_constants_but_for_its_own():
    plain, ultra = (constants_of(architecture=name, kind="gpu") for name in ("blackwell", "blackwell_ultra"))
    assert ultra.architecture == "blackwell"
    assert ultra.flash > plain.flash
    assert replace(ultra, flash=plain.flash) == plain


def entries() -> dict[str, dict]:
    """Every constant by its place in constants.toml."""
    groups = {"shared": table()["shared"]}
    for section in ("software", "architecture"):
        groups |= {f"{section}.{name}": values for name, values in table()[section].items()}
    return {f"{at}.{name}": each for at, group in groups.items() for name, each in group.items() if "value" in each}


def test_constants_have_an_origin_and_lie_within_their_bounds():
    for name, entry in entries().items():
        assert entry["origin"] in ("measured", "fitted", "assumed"), name
        assert entry["source"], name
        if "prior" in entry:
            assert entry["low"] <= entry["value"] <= entry["high"], name
            assert entry["low"] <= entry["prior"] <= entry["high"], name


def test_few_constants_are_fitted_to_published_steps():
    assert sum("prior" in entry for entry in entries().values()) <= 25


def test_shares_of_a_peak_are_below_it():
    for architecture in table()["architecture"]:
        constants = constants_of(architecture=architecture, kind="gpu")
        shares = (*constants.products.values(), constants.memory, constants.matmul_memory, constants.flash)
        assert all(0 < share <= 1 for share in shares)


def test_a_device_never_seen_has_a_wider_interval():
    known, unknown = (constants_of(architecture=name, kind="gpu") for name in ("hopper", None))
    assert unknown.architecture == "gpu"
    assert unknown.spread.high > known.spread.high
    dense, narrow = (spread_of(known, is_narrow=narrow, has_experts=False) for narrow in (False, True))
    assert narrow.low < dense.low < 1 < dense.high < narrow.high


def test_errors_of_terms_that_err_alone_add_in_quadrature():
    low, high = combine([(3.0, Spread(0.9, 1.1)), (4.0, Spread(0.9, 1.1))])
    assert (low, high) == pytest.approx((7 - 0.5, 7 + 0.5))
    assert combine([(7.0, EXACT)]) == (7.0, 7.0)


def test_every_second_product_is_k_out_and_up():
    """q, k, v, out, gate, up, down: of 32 + 8 + 8 heads those of k; and the last product serves nobody."""
    graph = training_graph(LLAMA_3_8B)
    shares = second_products(graph.block_ops("block"))
    assert {name.removeprefix("block/"): share for name, share in shares.items()} == pytest.approx(
        {"attn.qkv": 8 / 48, "attn.out": 1.0, "mlp.gate_up": 0.5}
    )
