"""Which links a group uses: closed forms against the graph of the same machine, and orders of axes against each other."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.compiler.cost.collectives import Link, all_gather_s, all_to_all_s
from llmc.compiler.planner.layout import Layout
from llmc.compiler.topology.graph import topology_graph
from llmc.compiler.topology.machine import Machine, machine_of
from llmc.compiler.topology.placement import expert_groups, group, runs, split
from llmc.compiler.topology.torus import Torus
from llmc.spec.hardware import Hardware

from ..models import H100, h100s

V5P = {
    "name": "tpu-v5p",
    "kind": "tpu",
    "memory_gib": 95.0,
    "memory_gb_s": 2765.0,
    "peak_tflops": {"bf16": 459.0},
    "torus": {"dims": 3, "gb_s": 100.0, "wrap_multiple": 4},
    "per_node": 4,
}


def tpus(topology: str, *, slices: int = 1) -> Machine:
    return machine_of(Hardware.model_validate({"accelerator": V5P, "topology": topology, "slices": slices}))


def pods(devices: int, *, pod: int, oversubscription: float) -> Machine:
    spec = {"devices": pod, "oversubscription": oversubscription}
    return machine_of(Hardware.model_validate({"accelerator": H100, "nodes": devices // 8, "per_node": 8, "pod": spec}))


@given(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 32]), st.sampled_from([1, 2, 4, 8]))
def test_a_group_inside_a_node_uses_fast_links_and_one_across_uses_all_its_ports(size: int, stride: int):
    machine = h100s(64)
    found = machine.group(size, stride=stride)
    assert found.size == size
    assert found.inside * stride <= 8 or found.inside == 1
    assert (found.across == 1) == (size * stride <= 8 or size == 1)


def test_axes_that_follow_each_other_make_one_run():
    layout = Layout(tp=2, cp=2, dp_shard=4, dp_replicate=3, pp=2)
    assert runs(layout, "cp", "dp_shard") == ((8, 2),)
    assert runs(layout, "dp_shard") == ((4, 4),)
    assert runs(layout, "pp") == ((2, 48),)
    between = replace(layout, order=("tp", "cp", "pp", "dp_shard", "dp_replicate"))
    assert runs(between, "cp", "dp_shard") == ((2, 2), (4, 8))
    assert runs(between, "pp") == ((2, 4),)


@given(st.sampled_from([1, 2, 4]), st.sampled_from([2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_expert_ranks_and_those_that_share_their_states_make_up_the_group(cp: int, shards: int, ep: int):
    layout = Layout(tp=2, cp=cp, dp_shard=shards, ep=ep)
    inner, outer = split(runs(layout, "cp", "dp_shard"), first=ep)
    sizes = [size for size, _ in (*inner, *outer)]
    product = 1
    for size in sizes:
        product *= size
    assert product == cp * shards
    if (cp * shards) % ep == 0:
        dividing, sharing = expert_groups(layout, h100s(64))
        assert dividing.size == ep
        assert sharing.size == cp * shards // ep


def test_pipeline_ranks_inside_a_node_hand_over_on_fast_links():
    """tp 2 · pp 4 in a node, or pp across nodes: the gradients pay for it the other way round."""
    machine = h100s(64)
    outside = Layout(tp=2, dp_shard=8, pp=4)
    inside = replace(outside, order=("tp", "pp", "dp_shard", "dp_replicate", "cp"))
    assert group(outside, machine, "pp").inside == 1
    assert group(inside, machine, "pp").across == 1
    assert group(outside, machine, "dp_shard").inside == 4
    assert group(inside, machine, "dp_shard").inside == 1
    gradients = [all_gather_s(1e9, group(layout, machine, "dp_shard")) for layout in (outside, inside)]
    assert gradients[1] > 2 * gradients[0]


def test_a_group_across_slices_goes_by_the_network_and_one_within_by_the_torus():
    one, two = tpus("4x4x4"), tpus("4x4x4", slices=2)
    assert two.num_devices == 2 * one.num_devices
    assert two.group(64) == one.group(64)
    across = two.group(2, stride=64)
    assert (across.inside, across.across) == (1, 2)
    whole = two.group(128)
    assert (whole.inside, whole.across, whole.fast) == (64, 2, one.group(64).fast)


# The graph.


def test_a_slice_leaves_by_the_ports_of_all_its_hosts():
    machine = tpus("2x2x4", slices=2)
    assert cut_bytes_per_s(machine, 16) == pytest.approx(16 * machine.slow.bytes_per_s)


def cut_bytes_per_s(machine: Machine, first: int) -> float:
    """What the first devices can send to all others, by the cheapest cut."""
    graph = topology_graph(machine).to_directed()
    for device in range(machine.num_devices):
        ends = ("from", device) if device < first else (device, "to")
        graph.add_edge(*ends, bytes_per_s=float("inf"))
    return nx.maximum_flow_value(graph, "from", "to", capacity="bytes_per_s")


@pytest.mark.parametrize("devices", [16, 32])
def test_a_node_leaves_by_all_its_ports(devices: int):
    machine = h100s(devices)
    assert cut_bytes_per_s(machine, 8) == pytest.approx(8 * machine.slow.bytes_per_s)
    assert cut_bytes_per_s(machine, 1) == pytest.approx(machine.fast.bytes_per_s + machine.slow.bytes_per_s)


def test_a_pod_leaves_by_what_oversubscription_leaves():
    machine = pods(64, pod=32, oversubscription=4.0)
    assert cut_bytes_per_s(machine, 32) == pytest.approx(32 * machine.slow.bytes_per_s / 4)
    wide, narrow = h100s(64), machine
    whole = wide.group(64)
    assert all_gather_s(1e9, narrow.group(64)) == pytest.approx(
        all_gather_s(1e9, whole)
    )  # four nodes share a ring's hop
    assert all_to_all_s(1e9, narrow.group(64)) > 2 * all_to_all_s(1e9, whole)
    assert narrow.group(32) == wide.group(32)


def test_a_mesh_gives_a_group_only_its_own_wires():
    device = H100 | {"intra_node": {"link": "HCCS", "gb_s": 196.0, "domain": 8, "is_mesh": True}}
    machine = machine_of(Hardware.model_validate({"accelerator": device, "nodes": 1, "per_node": 8}))
    graph = topology_graph(machine)
    assert graph.number_of_edges() == 8 * 7 // 2
    assert cut_bytes_per_s(machine, 1) == pytest.approx(machine.fast.bytes_per_s)
    assert machine.group(8).fast == machine.fast
    assert machine.group(2).fast.bytes_per_s == pytest.approx(machine.fast.bytes_per_s / 7)


@pytest.mark.parametrize(("topology", "wires"), [("4x4x4", 6), ("4x4x8", 6)])
def test_a_closed_torus_has_six_wires_a_device(topology: str, wires: int):
    graph = topology_graph(tpus(topology))
    assert {degree for _, degree in graph.degree()} == {wires}
    assert {data["kind"] for _, data in graph.nodes(data=True)} == {"device"}


def test_a_side_that_does_not_close_is_a_line():
    machine = tpus("2x2x4")
    assert machine.torus is not None
    assert machine.torus.closes == (False, False, True)
    line, ring = machine.torus.spans(((2, 1),))[0], machine.torus.spans(((4, 4),))[0]
    assert (line.is_ring, ring.is_ring) == (False, True)


SIDES = st.sampled_from([(4, 4, 4), (4, 4, 8), (2, 2, 4), (8, 8), (4, 2)])


@settings(max_examples=40)
@given(SIDES, st.booleans())
def test_all_to_all_over_a_torus_is_what_its_middle_carries(sides: tuple[int, ...], closes: bool):
    """Half of all data crosses the middle of the longest side, each way."""
    torus = Torus(sides, tuple(closes for _ in sides), Link(0.0, 100e9))
    number = 1
    for side in sides:
        number *= side
    factors = ((number, 1),)
    rate = torus.ring_link(factors).bytes_per_s * torus.exchange_share(factors)
    longest = max(sides)
    wires = number // longest * (2 if closes else 1)
    crossing_s = number / 2 * 0.5 / (wires * 100e9)  # a byte on every device
    assert 1 / rate >= crossing_s * (1 - 1e-9)
    if rate < torus.ring_link(factors).bytes_per_s:
        assert 1 / rate == pytest.approx(crossing_s)


def test_a_torus_is_faster_the_more_sides_a_group_takes():
    machine = tpus("4x4x8")
    seconds = [all_gather_s(1e9, machine.group(size)) / (size - 1) * size for size in (4, 16, 128)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] / seconds[2] == pytest.approx(3, rel=0.05)
    next_to, every_other = machine.group(2, stride=16), machine.group(2, stride=32)  # along the side of 8
    assert every_other.fast.bytes_per_s == pytest.approx(next_to.fast.bytes_per_s / 2)  # two groups share each wire
