"""The search, over random models and machines: what no planner may get wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llmc.compiler.cost.step import step_time
from llmc.compiler.cost.workload import Workload
from llmc.compiler.ir.graph import Graph
from llmc.compiler.planner.assign import fill
from llmc.compiler.planner.bounds import least_step_s
from llmc.compiler.planner.enumerate import OPEN, SPLITS_BACKWARD, Given, divisors, families
from llmc.compiler.planner.layout import Layout
from llmc.compiler.planner.ranks import Ranks
from llmc.compiler.planner.rules import violations
from llmc.compiler.planner.train_search import BRIM, Search, search
from llmc.compiler.topology.machine import Machine

from ..models import DEEPSEEK_V3, LLAMA_3_8B, h100s, training_graph

SMALL = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])

GRAPHS: dict[tuple, Graph] = {}


def graph_of_shape(layers: int, heads: int, kv_heads: int, experts: int | None) -> Graph:
    key = (layers, heads, kv_heads, experts)
    if key not in GRAPHS:
        moe = {"num_experts": experts, "experts_per_token": 2, "intermediate_size": 2048} if experts else None
        fields = LLAMA_3_8B | {
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": 128,
            "hidden_size": 128 * heads,
            "intermediate_size": 4096,
            "vocab_size": 32000,
            "moe": moe,
        }
        GRAPHS[key] = training_graph(fields)
    return GRAPHS[key]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    heads = draw(st.sampled_from([4, 12, 16]))
    return graph_of_shape(
        draw(st.sampled_from([2, 7, 24])), heads, draw(st.sampled_from([2, 4])), draw(st.sampled_from([None, 8]))
    )


MACHINES = st.builds(
    lambda devices, gib: h100s(devices, memory_gib=gib),
    st.sampled_from([1, 2, 6, 8, 16]),
    st.sampled_from([8.0, 24.0, 80.0]),
)


def run(graph: Graph, machine: Machine, wanted: Given = OPEN, *, global_batch: int = 32, seq_len: int = 2048) -> Search:
    work = Workload(graph, machine, seq_len=seq_len, precision="bf16", optimizer="adamw")
    candidates = families(wanted, graph, machine, seq_len=seq_len, global_batch=global_batch)
    return search(candidates, work, global_batch=global_batch)


@SMALL
@given(graphs(), MACHINES)
def test_what_is_chosen_fits_uses_every_device_and_breaks_no_rule(graph: Graph, machine: Machine):
    for priced in run(graph, machine).fitting[:5]:
        assert priced.ledger.peak <= machine.memory_bytes
        assert priced.layout.devices == machine.num_devices
        layout = priced.layout
        assert layout.micro_batch * layout.grad_accumulation * layout.data_parallel == 32
        assert not list(violations(layout, graph, seq_len=2048, global_batch=32))


@SMALL
@given(graphs(), MACHINES, st.floats(1.0, 4.0))
def test_more_memory_never_makes_a_fitting_plan_unfit_or_slower(graph: Graph, machine: Machine, factor: float):
    before = run(graph, machine)
    assume(before.fitting)
    after = run(graph, replace(machine, memory_bytes=machine.memory_bytes * factor))
    assert after.fitting
    assert after.fitting[0].time.total <= before.fitting[0].time.total * 1.005 + 1e-12


@SMALL
@given(graphs(), MACHINES, st.floats(1.0, 4.0))
def test_a_faster_network_never_makes_the_best_plan_slower(graph: Graph, machine: Machine, factor: float):
    before = run(graph, machine)
    assume(before.fitting)
    slow = machine.slow
    faster = replace(machine, slow=replace(slow, bytes_per_s=slow.bytes_per_s * factor))
    assert run(graph, faster).fitting[0].time.total <= before.fitting[0].time.total * 1.005 + 1e-12


@SMALL
@given(graphs(), st.sampled_from([4, 8, 16]))
def test_more_devices_never_make_the_best_plan_slower(graph: Graph, devices: int):
    """As many sequences a step; twice the devices have at least the layouts of one half, each replicated."""
    before, after = run(graph, h100s(devices)), run(graph, h100s(2 * devices))
    assume(before.fitting)
    assert after.fitting[0].time.total <= before.fitting[0].time.total * 1.02


@SMALL
@given(
    graphs(),
    MACHINES,
    st.sampled_from(["tp", "pp", "dp_shard", "zero", "micro_batch", "ep", "schedule", "virtual_stages", "stages"]),
)
def test_a_pinned_degree_reproduces_its_cost(graph: Graph, machine: Machine, field: str):
    free = run(graph, machine)
    assume(free.fitting)
    best = free.fitting[0]
    assume(
        field != "schedule" or best.layout.schedule not in SPLITS_BACKWARD
    )  # with recompute only where it is asked for
    pinned = run(graph, machine, replace(OPEN, **{field: getattr(best.layout, field)}))
    assert pinned.fitting[0].time.total == pytest.approx(best.time.total, rel=0.005)
    assert min(each.time.total for each in pinned.fitting) >= min(each.time.total for each in free.fitting) * (1 - 1e-9)


@SMALL
@given(graphs(), MACHINES)
def test_every_layout_is_counted_once(graph: Graph, machine: Machine):
    """Filled, broken, too large or never fast enough: the counts are those of the enumeration."""
    found = run(graph, machine)
    candidates = families(OPEN, graph, machine, seq_len=2048, global_batch=32)
    assert found.num_layouts == sum(family.num_members for family in candidates)


@SMALL
@given(graphs(), MACHINES)
def test_no_bound_is_above_what_it_bounds(graph: Graph, machine: Machine):
    """Of families, of their layouts, and of the whole search."""
    work = Workload(graph, machine, seq_len=2048, precision="bf16", optimizer="adamw")
    memory_bytes = BRIM * machine.memory_bytes
    for family in families(OPEN, graph, machine, seq_len=2048, global_batch=32):
        if list(violations(family.first, graph, seq_len=2048, global_batch=32)):
            continue
        bound = least_step_s(work, family, memory_bytes=memory_bytes)
        for outer in family.members():
            if list(violations(outer.layout, graph, seq_len=2048, global_batch=32)):
                continue
            ranks = Ranks(work, outer, memory_bytes=memory_bytes)
            filled = fill(ranks)
            if filled is None:
                continue
            assert ranks.room.suffices
            seconds = step_time(work, filled.layout).total
            assert filled.seconds == pytest.approx(seconds)
            assert work.ledger(filled.layout).peak <= memory_bytes * (1 + 1e-9)
            assert bound <= seconds * (1 + 1e-9)
            assert ranks.least_s <= seconds * (1 + 1e-9)
            assert filled.bound_s <= seconds * (1 + 1e-9)


def test_what_is_given_is_kept():
    wanted = replace(OPEN, ep=4, tp=2, recompute="full")
    found = run(graph_of_shape(24, 16, 4, 8), h100s(16), wanted)
    assert found.fitting
    assert {(each.layout.ep, each.layout.tp, each.layout.recompute) for each in found.fitting} == {(4, 2, "full")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tp": 3}, "tp 3 does not divide num_heads 32"),
        ({"tp": 32, "pp": 1}, None),
        ({"tp": 2, "sequence_parallel": True}, None),
        ({"pp": 64}, "pp 64 is 64 stages; the model has 32 layers"),
        ({"pp": 16, "virtual_stages": 4}, "pp 16 × virtual_stages 4 is 64 stages; the model has 32 layers"),
        ({"ep": 8}, "ep 8 needs experts; the model has none"),
        ({"cp": 3}, "cp 3 needs seq_len divisible by 6 (an early and a late part a rank); it is 4096"),
        ({"dp_shard": 3}, "global_batch 32 does not divide over 3 data-parallel ranks"),
        ({"pp": 3, "schedule": "dualpipe"}, "dualpipe needs an even number of pipeline ranks; pp is 3"),
        (
            {"pp": 3, "schedule": "dualpipe", "virtual_stages": 2, "micro_batch": 8, "grad_accumulation": 4},
            "dualpipe on pp 3 needs 6 micro-batches or more, one a stage; there are 4",
        ),
        ({"pp": 2, "stages": (16, 15, 1)}, "`stages` lists 3; pp 2 is 2 stages"),
        ({"pp": 2, "stages": (16, 15)}, "`stages` hold 31 layers; the model has 32"),
        (
            {"pp": 4, "schedule": "interleaved_1f1b", "virtual_stages": 2, "grad_accumulation": 6},
            "interleaved_1f1b needs micro-batches in multiples of pp 4; there are 6",
        ),
        (
            {"micro_batch": 3},
            "global_batch 32 over 1 data-parallel ranks is 32 sequences a rank; micro_batch 3 × grad_accumulation 32 is 96",
        ),
    ],
)
def test_a_rule_is_told_with_both_numbers(changes: dict, message: str | None):
    layout = Layout(**{"grad_accumulation": 32} | changes)
    found = [each.message for each in violations(layout, training_graph(LLAMA_3_8B), seq_len=4096, global_batch=32)]
    assert (found[0] if found else None) == message


def test_experts_divide_over_the_ranks_they_are_taken_from():
    graph = training_graph(DEEPSEEK_V3)
    layout = Layout(dp_shard=6, ep=4, grad_accumulation=1)
    found = [each.message for each in violations(layout, graph, seq_len=4096, global_batch=6)]
    assert found == ["ep 4 does not divide the 6 ranks of dp_shard 6 × cp 1"]
    layout = Layout(dp_shard=6, ep=3, grad_accumulation=1)
    found = [each.message for each in violations(layout, graph, seq_len=4096, global_batch=6)]
    assert found == ["ep 3 does not divide num_experts 256"]


def test_divisors_are_not_only_powers_of_two():
    assert divisors(24, at_most=24) == [1, 2, 3, 4, 6, 8, 12, 24]
    assert divisors(10**18, at_most=8) == [1, 2, 4, 5, 8]
