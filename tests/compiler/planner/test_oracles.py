"""The search against oracles: every layout tried, every cut tried, and a mixed-integer program."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import highspy
import pytest

from llmc.compiler.cost.pipeline import in_flight
from llmc.compiler.cost.step import step_time, tail_of
from llmc.compiler.cost.workload import Rank, Workload
from llmc.compiler.ir.graph import Graph
from llmc.compiler.planner.assign import fill
from llmc.compiler.planner.enumerate import OPEN, Given, families
from llmc.compiler.planner.layout import Layout
from llmc.compiler.planner.ranks import Outer, Ranks
from llmc.compiler.planner.rules import violations
from llmc.compiler.planner.stages import Option, Problem, solve
from llmc.compiler.planner.train_search import BRIM, SAME_TIME, search
from llmc.spec.units import GIB

from ..models import LLAMA_3_8B, h100s, training_graph

RECOMPUTES = ("none", "selective", "full")


@cache
def graph_of(layers: int, *, experts: bool, dense: int = 1, hidden: int = 1024) -> Graph:
    """Small: one class of layers, or some dense ones before those with experts."""
    moe = {"num_experts": 8, "experts_per_token": 2, "intermediate_size": 1024, "first_dense_layers": dense}
    return training_graph(
        LLAMA_3_8B
        | {
            "num_layers": layers,
            "num_heads": 8,
            "num_kv_heads": 2,
            "head_dim": hidden // 8,
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "vocab_size": 16000,
            "moe": moe if experts else None,
        }
    )


# Every layout.


def completions(layout: Layout, layers: int) -> Iterator[Layout]:
    """Every cut into stages, and every recompute of every layer."""
    num_stages = layout.pp * layout.virtual_stages
    for ends in itertools.combinations(range(1, layers), num_stages - 1):
        sizes = tuple(stop - start for start, stop in itertools.pairwise((0, *ends, layers)))
        staged = replace(layout, stages=sizes if layout.pp > 1 else None)
        for hows in itertools.product(RECOMPUTES, repeat=layers):
            if layout.schedule in ("zero_bubble", "dualpipe") and set(hows) != {"none"}:
                continue
            if len(set(hows)) == 1:
                yield replace(staged, recompute=hows[0])
            else:
                runs = tuple((how, len(list(run))) for how, run in itertools.groupby(hows))
                yield replace(staged, recompute="mixed", recompute_layers=runs)


def random_wishes(rng: random.Random, *, devices: int) -> Given:
    """A few degrees fixed, so that all the rest can be tried."""
    wanted = replace(OPEN, micro_batch=rng.choice([1, 2]), zero=rng.choice([1, 2, 3]) if rng.random() < 0.6 else None)
    if rng.random() < 0.7:
        wanted = replace(
            wanted, pp=rng.choice([1, 2, 2, devices]), schedule=rng.choice([None, "1f1b", "1f1b", "gpipe"])
        )
    if rng.random() < 0.4:
        wanted = replace(wanted, tp=rng.choice([1, 2]))
    return wanted


def scarce_memory(rng: random.Random, work: Workload, wanted: Given) -> float | None:
    """Somewhere between what some layout needs as it is and with everything recomputed; None where no layout is right."""
    every = families(wanted, work.graph, work.machine, seq_len=2048, global_batch=8)
    layouts = [outer.layout for family in every for outer in family.members()]
    layouts = [each for each in layouts if not list(violations(each, work.graph, seq_len=2048, global_batch=8))]
    if not layouts:
        return None
    layout = rng.choice(layouts)
    most, least = (work.ledger(replace(layout, recompute=how)).peak for how in ("none", "full"))
    return rng.uniform(least * 0.98, most * 1.02) / BRIM


@pytest.mark.parametrize("seed", range(8))
def test_the_best_of_a_small_instance_is_what_trying_everything_finds(seed: int):
    """25 instances each: degrees, schedules, sharding, stages and what each layer recomputes."""
    rng = random.Random(seed)
    compared = 0
    while compared < 25:
        devices, layers = rng.choice([2, 2, 4]), rng.choice([2, 3])
        graph = graph_of(layers, experts=rng.random() < 0.4)
        wanted, program = random_wishes(rng, devices=devices), rng.choice(["mixed", "fsdp"])
        machine = h100s(devices)
        settings = {"seq_len": 2048, "precision": "bf16", "optimizer": "adamw", "program": program}
        work = Workload(graph, machine, **settings)
        memory_bytes = scarce_memory(rng, work, wanted)
        if memory_bytes is None:
            continue
        machine = replace(machine, memory_bytes=memory_bytes)
        work = Workload(graph, machine, **settings)
        found = search(families(wanted, graph, machine, seq_len=2048, global_batch=8), work, global_batch=8)
        fitting = [
            step_time(work, layout).total
            for family in families(wanted, graph, machine, seq_len=2048, global_batch=8)
            for outer in family.members()
            for layout in completions(outer.layout, layers)
            if not list(violations(layout, graph, seq_len=2048, global_batch=8))
            and work.ledger(layout).peak <= BRIM * machine.memory_bytes
        ]
        roomy = [each for each in found.fitting if not each.is_tight]
        if not fitting:
            assert not roomy
            continue
        assert min(each.time.total for each in roomy) == pytest.approx(min(fitting), rel=1e-9)
        assert found.fitting[0].time.total <= min(fitting) * SAME_TIME
        assert found.gap < 1e-9
        compared += 1


# Every cut, of costs that mean nothing.


def random_problem(rng: random.Random) -> Problem:
    """Layers that fit as they are, or in two leaner ways, on stages with ever more room."""
    layers, least = rng.randint(1, 8), rng.choice([0, 1, 1, 2])
    stages = rng.randint(1, min(layers, 4))
    least = min(least, layers // stages)
    costs = [(rng.random(), rng.random(), rng.random() * rng.choice([0.0, 0.3, 3.0])) for _ in range(layers)]
    sizes, room = [rng.random() for _ in range(layers)], rng.choice([1.0, 2.0, 5.0])
    extra = [rng.random() / 2 for _ in range(stages)]

    @cache
    def options(start: int, stop: int, stage: int) -> tuple[Option, ...]:
        cost, span, tail = (sum(each[kind] for each in costs[start:stop]) for kind in range(3))
        size = sum(sizes[start:stop]) * (stages - stage) / 2
        ways = ((1.0, 1.0, 1.0), (0.3, 1.2, 1.3), (0.5, 1.3, 1.2))
        return tuple(
            Option(cost / stages * more, span * longer + extra[stage], tail, None)
            for share, more, longer in ways
            if size * share <= room
        )

    least_cost = sum(each[0] for each in costs) / stages
    return Problem(layers, stages, options, rng.choice([0.0, 0.5, 3.0]), least_cost, least)


def best_cut(problem: Problem) -> float:
    best = math.inf
    inner = range(problem.num_layers + 1)
    for ends in itertools.combinations_with_replacement(inner, problem.num_stages - 1):
        runs = list(itertools.pairwise((0, *ends, problem.num_layers)))
        if any(stop - start < problem.least for start, stop in runs):
            continue
        ways = [problem.options(start, stop, stage) for stage, (start, stop) in enumerate(runs)]
        for chosen in itertools.product(*ways):
            longest, last = max(each.span for each in chosen), max(each.tail for each in chosen)
            best = min(best, sum(each.cost for each in chosen) + problem.weight * longest + last)
    return best


def test_cuts_are_the_best_of_all_cuts():
    rng = random.Random(1)
    for _ in range(400):
        problem = random_problem(rng)
        solution, best = solve(problem), best_cut(problem)
        if solution is None:
            assert math.isinf(best)
            continue
        assert solution.total == pytest.approx(best, rel=1e-9)
        assert solution.bound == pytest.approx(solution.total)


# A mixed-integer program with the same layers, written from the formulas and not from the search.


def milp_s(work: Workload, layout: Layout, *, memory_bytes: float) -> float | None:
    """Seconds of the best stages and recompute; None where nothing fits.

    One binary a layer, stage and recompute; stages are runs, memory is a row a stage (Megatron's ledger is linear but for
    the largest of a few), and the longest stage and the longest tail are variables.
    """
    ranks = Ranks(work, Outer(layout, RECOMPUTES, may_mix=True, are_stages_open=True), memory_bytes=memory_bytes)
    weights, order, stages = ranks.weights, work.graph.order, range(layout.pp)
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    for option in ("mip_rel_gap", "mip_feasibility_tolerance", "primal_feasibility_tolerance"):
        model.setOptionValue(option, 1e-9)
    takes = [[{how: model.addBinary() for how in RECOMPUTES} for _ in stages] for _ in order]
    longest, tail = model.addVariable(lb=0.0), model.addVariable(lb=0.0)
    here = [[sum(takes[layer][stage].values()) for stage in stages] for layer in range(len(order))]
    for layer in range(len(order)):
        model.addConstr(sum(here[layer]) == 1)
    for layer in range(1, len(order)):
        for stage in stages:  # once a stage has begun, no earlier one follows
            model.addConstr(sum(here[layer][: stage + 1]) <= sum(here[layer - 1][: stage + 1]))
    for stage in stages:
        model.addConstr(sum(here[layer][stage] for layer in range(len(order))) >= 1)

    def figures(block: str) -> tuple[float, float]:
        """(bytes of states, the two largest tensors) of one layer."""
        one, two = (
            work.rank_ledger(Rank(first=0, layers=((block, count),), parts=(), times=1), layout) for count in (1, 2)
        )
        states = sum(getattr(two, name) - getattr(one, name) for name in ("parameters", "gradients", "optimizer"))
        return states, one.working

    for stage in stages:
        parts = (*(["before"] if stage == 0 else []), *(["after"] if stage == layout.pp - 1 else []))
        flight = in_flight(
            layout.schedule, rank=stage, ranks=layout.pp, micro_batches=layout.grad_accumulation, virtual=1
        )
        empty = work.rank_ledger(Rank(first=stage, layers=(), parts=parts, times=1), layout)
        working, rebuilt = model.addVariable(lb=0.0), model.addVariable(lb=0.0)
        size = empty.peak / GIB + working + rebuilt  # one data-parallel rank: no bucket of gradients, nothing gathered
        span = sum(ranks.part_times[part].whole for part in parts)
        for layer, block in enumerate(order):
            states, largest = figures(block)
            for how in RECOMPUTES:
                each, take = ranks.figures[block, how], takes[layer][stage][how]
                size += take * ((states + flight * each.kept * layout.micro_batch) / GIB)
                span += take * each.span
                model.addConstr(rebuilt >= take * (each.rebuilt * layout.micro_batch / GIB))
                model.addConstr(working >= take * (largest / GIB))
        model.addConstr(size <= memory_bytes / GIB)
        model.addConstr(longest >= span)
    cost = sum(weights.cost(time) / layout.pp for time in ranks.part_times.values())
    for layer, block in enumerate(order):
        for stage in stages:
            cost += sum(take * ranks.figures[block, how].cost for how, take in takes[layer][stage].items())
    assert layout.data_parallel * layout.cp == 1  # so tails are the optimizer's alone, and linear in parameters
    for stage in stages:
        parts = (*(["before"] if stage == 0 else []), *(["after"] if stage == layout.pp - 1 else []))
        seconds = sum(_update_s(work, layout, ranks, work.parameters(part, layout.degrees)) for part in parts)
        for layer, block in enumerate(order):
            share = _update_s(work, layout, ranks, work.parameters(block, layout.degrees))
            seconds += here[layer][stage] * share
        model.addConstr(tail >= seconds)
    model.minimize(cost + weights.longest * longest + tail)
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return weights.fixed + model.getObjectiveValue()


def _update_s(work: Workload, layout: Layout, ranks: Ranks, parameters: tuple[int, int]) -> float:
    return ranks.weights.tail(tail_of(work, layout, parameters, backward_s=0.0))


@pytest.mark.parametrize("share", [1.0, 0.95, 0.9, 0.85, 0.8, 0.7])
@pytest.mark.parametrize(
    ("layers", "dense", "pp", "schedule"), [(7, 2, 3, "1f1b"), (8, 3, 4, "1f1b"), (6, 1, 2, "gpipe")]
)
def test_stages_of_two_classes_are_those_of_a_mixed_integer_program(
    layers: int, dense: int, pp: int, schedule: str, share: float
):
    """With so much of the memory that even stages need without recompute."""
    graph = graph_of(layers, experts=True, dense=dense, hidden=2048)
    assert len(set(graph.order)) == 2
    work = Workload(graph, h100s(pp), seq_len=4096, precision="bf16", optimizer="adamw")
    layout = Layout(pp=pp, schedule=schedule, micro_batch=2, grad_accumulation=8)  # pyright: ignore[reportArgumentType]
    outer = Outer(layout, RECOMPUTES, may_mix=True, are_stages_open=True)
    memory_bytes = share * work.ledger(layout).peak
    filled = fill(Ranks(work, outer, memory_bytes=memory_bytes))
    expected = milp_s(work, layout, memory_bytes=memory_bytes)
    if expected is None:
        assert filled is None
        return
    assert filled is not None
    assert filled.seconds == pytest.approx(expected, rel=1e-6)
    assert filled.seconds == pytest.approx(step_time(work, filled.layout).total)
    assert work.ledger(filled.layout).peak <= memory_bytes * (1 + 1e-9)
