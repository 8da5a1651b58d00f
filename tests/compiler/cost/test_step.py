"""The time of a step: its parts sum to it, and layouts move it the way they must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmc.compiler.cost.communication import gradient_s, num_reductions
from llmc.compiler.cost.step import step_time, time_by_class
from llmc.compiler.cost.workload import Workload
from llmc.compiler.planner.layout import Layout

from ..models import DEEPSEEK_V3, FALCON_7B, LLAMA_3_8B, h100s, training_graph


def workload(devices: int = 8, *, seq_len: int = 4096, optimizer: str = "adamw", **changes) -> Workload:
    machine = h100s(devices, **changes)
    return Workload(training_graph(LLAMA_3_8B), machine, seq_len=seq_len, precision="bf16", optimizer=optimizer)


LAYOUTS = [
    Layout(dp_shard=8, zero=3),
    Layout(dp_shard=4, zero=1, tp=2, sequence_parallel=True, grad_accumulation=4),
    Layout(dp_shard=2, zero=2, pp=4, grad_accumulation=8, recompute="selective"),
    Layout(pp=8, schedule="interleaved_1f1b", virtual_stages=2, grad_accumulation=16, recompute="full"),
    Layout(dp_shard=2, zero=3, cp=4, cp_kind="ring"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_sum_to_the_step_and_lie_in_its_interval(layout: Layout):
    work = workload()
    time = step_time(work, layout)
    assert sum(time_by_class(work, layout, time).values()) == pytest.approx(time.total)
    assert time.low < time.total < time.high
    assert time.exposed_comm <= (time.tp_comm + time.dp_comm + time.pp_comm + time.cp_comm + time.ep_comm) + 1e-9


def test_an_8b_model_on_8_h100_reaches_a_plausible_share_of_the_peak():
    """FSDP on one node of H100: 40 to 60 % in published tables."""
    work = workload()
    time = step_time(work, Layout(dp_shard=8, zero=3, micro_batch=1, grad_accumulation=8))
    flops_per_s = work.model_flops_per_token * 8 * 8 * 4096 / time.total / 8
    assert 0.40 < flops_per_s / 989e12 < 0.60


def test_model_flops_are_six_a_parameter_and_attention():
    """6 · (parameters without the embedding) + 6 · layers · hidden · seq_len (causal half)."""
    by_hand = 6 * (8_030_261_248 - 128256 * 4096) + 6 * 32 * 4096 * 4096
    assert workload().model_flops_per_token == pytest.approx(by_hand, rel=0.002)


def test_recompute_costs_time_and_saves_memory():
    work = workload()
    layouts = [Layout(dp_shard=8, zero=3, recompute=each) for each in ("none", "selective", "full")]
    times = [step_time(work, layout).total for layout in layouts]
    peaks = [work.ledger(layout).peak for layout in layouts]
    assert times == sorted(times)
    assert peaks == sorted(peaks, reverse=True)


def test_a_faster_network_never_slows_a_step():
    layout = Layout(dp_replicate=1, dp_shard=64, zero=3)
    slow = step_time(workload(64, inter_node={"link": "Ethernet", "gb_s": 5.0}), layout)
    fast = step_time(workload(64, inter_node={"link": "InfiniBand", "gb_s": 50.0}), layout)
    assert fast.total < slow.total


def test_more_micro_batches_make_the_bubble_a_smaller_share():
    work = workload()
    shares = []
    for micro_batches in (8, 16, 64):
        time = step_time(work, Layout(pp=8, grad_accumulation=micro_batches))
        shares.append(time.bubble / time.total)
    assert shares == sorted(shares, reverse=True)


def test_a_block_reduces_twice_however_its_experts_are_summed():
    for fields in (LLAMA_3_8B, DEEPSEEK_V3, FALCON_7B):
        graph = training_graph(fields)
        for block in graph.blocks:
            assert num_reductions(graph.block_ops(block.name)) == 2


def test_zero_1_moves_what_zero_0_moves():
    """A reduce-scatter of fp32 gradients and an all-gather of 2-byte weights against an all-reduce of gradients."""
    machine, layout = h100s(8), Layout(dp_shard=8, zero=1)
    assert gradient_s(1e9, layout, machine=machine) < gradient_s(1e9, replace(layout, zero=0), machine=machine)
    assert gradient_s(1e9, Layout(), machine=machine) == 0.0


@pytest.mark.parametrize("layout", [Layout(dp_shard=8, zero=3), Layout(tp=8), Layout(dp_shard=2, zero=1, tp=4)])
def test_muon_works_on_each_matrix_once_and_sends_it_there_and_back(layout: Layout):
    """Eight ranks share 6.98 billion numbers of matrices, which travel along each axis in bf16."""
    works = {name: workload(optimizer=name) for name in ("muon", "lion")}
    more_s = step_time(works["muon"], layout).optimizer - step_time(works["lion"], layout).optimizer
    sides = ((4096, 4096), (4096, 6144), (4096, 14336), (4096, 28672))
    flops = 32 * sum(5 * (4 * short * short * long + 2 * short**3) for short, long in sides)
    sent = sum(each.num_bytes * times for each, times in works["muon"].exchanges_of_optimizer(layout))
    num_axes = (layout.shards > 1) + (layout.tp > 1)
    assert sent == pytest.approx(num_axes * 2 * 2 * 6.98e9 / 8, rel=0.1)
    assert more_s > flops / 8 / (989e12 * works["muon"].machine.constants.product_share("bf16"))


def test_sophia_takes_a_tenth_of_a_micro_batch_more_through_the_model():
    layout = Layout(dp_shard=8, zero=3, grad_accumulation=2)
    adamw, sophia = (step_time(workload(optimizer=name), layout) for name in ("adamw", "sophia"))
    work = workload()
    fixed_s = work.machine.constants.software[work.software.kind].step_s
    assert sophia.compute - fixed_s == pytest.approx((adamw.compute - fixed_s) * 2.1 / 2)
    assert sophia.exposed_comm > adamw.exposed_comm
    assert workload(optimizer="sophia").ledger(layout).peak == pytest.approx(workload().ledger(layout).peak)
