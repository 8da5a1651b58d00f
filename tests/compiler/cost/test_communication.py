"""What a layer and a step communicate, against volumes worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmc.compiler.cost.collectives import all_reduce_s, all_to_all_s, reduce_scatter_s, send_s
from llmc.compiler.cost.communication import Traffic, gradient_s, pass_on_s
from llmc.compiler.cost.software import OURS, Software
from llmc.compiler.cost.workload import Workload
from llmc.compiler.planner.layout import Layout

from ..models import LLAMA_3_8B, h100s, training_graph

TOKENS, HIDDEN, KV_WIDTH = 8192, 4096, 2 * 8 * 128
GRAPH = training_graph(LLAMA_3_8B)


def traffic(layout: Layout, *, devices: int = 8, software: Software = OURS) -> Traffic:
    work = Workload(GRAPH, h100s(devices), seq_len=TOKENS, precision="bf16", optimizer="adamw", software=software)
    return work.traffic("block", layout, recompute=layout.recompute)


def test_a_ring_passes_keys_and_values_on_and_their_gradients_back():
    machine = h100s(8)
    one_way = 3 * send_s(TOKENS / 4 * KV_WIDTH * 2, machine.fast)
    assert traffic(Layout(cp=4, cp_kind="ring")).cp_s == pytest.approx(3 * one_way)


def test_ulysses_takes_four_all_to_alls_each_way():
    machine = h100s(8)
    expected = 8 * all_to_all_s(TOKENS / 4 * HIDDEN * 2, machine.group(4))
    found = traffic(Layout(cp=4, cp_kind="ulysses"))
    assert found.cp_s == pytest.approx(expected)
    assert found.exposed_s >= found.cp_s  # attention waits for it


def test_replicas_of_shards_sum_their_shares_alone():
    """HSDP: a node shards, nodes replicate; ZeRO-3's own traffic goes with each layer."""
    machine, layout = h100s(32), Layout(dp_replicate=4, dp_shard=8, zero=3)
    expected = all_reduce_s(8e9 / 8 * 4, machine.group(4, stride=8))
    assert gradient_s(8e9, layout, machine=machine) == pytest.approx(expected)
    assert gradient_s(8e9, replace(layout, dp_replicate=1, dp_shard=32), machine=machine) == 0.0


def test_sharded_weights_within_a_node_do_not_use_the_network():
    hybrid = traffic(Layout(dp_replicate=4, dp_shard=8, zero=3), devices=32)
    alone = traffic(Layout(dp_shard=8, zero=3), devices=8)
    assert hybrid.fsdp_s == alone.fsdp_s


def test_weights_gathered_in_one_byte_travel_half():
    layout = Layout(dp_shard=8, zero=3)
    wide, narrow = (traffic(layout, software=replace(OURS, gathers_bytes=each)) for each in (False, True))
    parameters = 218_112_000  # of a block of Llama 3 8B
    saved = 2 * 7 / 8 * parameters / h100s(8).fast.bytes_per_s
    assert wide.fsdp_s - narrow.fsdp_s == pytest.approx(saved, rel=0.01)
    assert narrow.fsdp_s > reduce_scatter_s(parameters * 4, h100s(8).group(8))


def test_gathers_hide_behind_recompute_too():
    plain, again = (traffic(Layout(dp_shard=64, zero=3, recompute=each), devices=64) for each in ("none", "full"))
    assert again.fsdp_s == plain.fsdp_s
    assert again.exposed_s <= plain.exposed_s


def test_tensor_parallel_ranks_hand_on_a_share_each():
    """Scatter, send, gather (Narayanan 2021b): each rank of a group sends its part through its own NIC."""
    machine = h100s(64)
    whole, share = (
        pass_on_s(Layout(pp=8, tp=tp, dp_shard=8 // tp), hidden_size=HIDDEN, tokens=TOKENS, machine=machine)
        for tp in (1, 8)
    )
    assert whole - machine.slow.latency_s == pytest.approx(8 * (share - machine.slow.latency_s))
