"""What cannot be: the exact headline, its place, and a help that plans."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmc.compiler.cost.sharding import Degrees
from llmc.compiler.cost.workload import Workload
from llmc.compiler.pipeline import PlanEntry, plan_specs

from ..models import LLAMA_3_8B, h100s, training_graph

MODEL = """model: {family: llama, hidden_size: 4096, num_layers: 32, num_heads: 32, num_kv_heads: 8,
        intermediate_size: 14336, vocab_size: 128256, max_seq_len: 8192}
"""
TRAIN = "train: {objective: causal_lm, steps: 100, seq_len: 8192, global_batch: 64}\n"


@pytest.fixture
def plan(tmp_path: Path):
    def plan(*parts: str, overrides: tuple[str, ...] = (), model: str = MODEL) -> PlanEntry:
        path = tmp_path / "spec.yaml"
        path.write_text("llmc: 1\n" + model + "".join(parts), encoding="utf-8")
        return plan_specs([path], overrides)[0]

    return plan


def told(entry: PlanEntry) -> list[tuple[str, str, int | None, int | None]]:
    return [
        (each.code, each.message, each.span.line if each.span else None, each.span.column if each.span else None)
        for each in entry.diagnostics
    ]


def hardware(nodes: int, per_node: int) -> str:
    return f"hardware:\n  accelerator: h100-sxm-80g\n  nodes: {nodes}\n  per_node: {per_node}\n"


def test_a_model_too_large_for_its_machine(plan):
    entry = plan(hardware(1, 1), TRAIN)
    assert entry.exit_code == 3
    [diagnostic] = entry.diagnostics
    assert diagnostic.code == "P201"
    assert diagnostic.message.startswith("training needs 1")
    assert diagnostic.message.endswith(" GiB per device, 79.7 GiB is available")
    assert (diagnostic.span.line, diagnostic.span.column) == (7, 13)
    assert diagnostic.label == "1 device of h100-sxm-80g"
    assert diagnostic.notes[0].startswith("optimizer 74.8, gradients 44.9, parameters 15.0, ")
    assert diagnostic.help.startswith("`per_node: 2` fits (")
    assert plan(hardware(1, 2), TRAIN).exit_code == 0
    assert entry.plan.train is not None
    assert not entry.plan.train.fits


def test_a_fixed_layout_that_does_not_fit_names_choices_that_do(plan):
    entry = plan(hardware(1, 8), TRAIN, "parallel: {dp_shard: 8, zero: 3, micro_batch: 8}\n")
    [diagnostic] = entry.diagnostics
    assert (diagnostic.code, entry.exit_code) == ("P201", 3)
    assert diagnostic.help.startswith("`micro_batch: 1` fits, with ")
    fixed = plan(hardware(1, 8), TRAIN, "parallel: {dp_shard: 8, zero: 3, micro_batch: 1, recompute: none}\n")
    assert fixed.exit_code == 0


def test_a_degree_that_does_not_divide(plan):
    entry = plan(hardware(3, 8), TRAIN.replace("64", "48"), "parallel: {tp: 3, dp_shard: 8, zero: 3}\n")
    assert told(entry) == [("P202", "tp 3 does not divide num_heads 32", 9, 16)]
    assert entry.exit_code == 1
    assert entry.diagnostics[0].help is not None


def test_a_layout_of_another_size(plan):
    entry = plan(hardware(2, 8), TRAIN, "parallel: {tp: 2, dp_shard: 4, zero: 3}\n")
    assert told(entry) == [("P203", "the layout's dp_shard 4 × tp 2 = 8 is not the machine's 16 devices", 9, 11)]
    assert entry.diagnostics[0].help == "`dp_shard: 8` uses all 16"
    assert plan(hardware(2, 8), TRAIN, "parallel: {tp: 2, dp_shard: 8, zero: 3}\n").exit_code == 0


def test_a_given_degree_that_does_not_divide_the_machine(plan):
    entry = plan(hardware(1, 8), TRAIN, "parallel: {tp: 3, rest: auto}\n")
    assert told(entry) == [("P203", "the layout's tp 3 = 3 does not divide the machine's 8 devices", 9, 11)]


SERVE = """serve:
  max_seq_len: 8192
  workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: RATE}
  slo: {SLO}
"""


def serve(rate: float, slo: str) -> str:
    return SERVE.replace("RATE", str(rate)).replace("SLO", slo)


def test_an_objective_below_the_physical_limit(plan):
    entry = plan(hardware(1, 1), serve(1, "tpot_p99_ms: 1"))
    message = (
        "tpot_p99_ms 1 ms is below the 4.5 ms that reading the weights takes at the full bandwidth of h100-sxm-80g"
    )
    assert told(entry) == [("P221", message, 11, 22)]
    assert entry.exit_code == 3


def test_an_objective_that_the_machine_cannot_hold(plan):
    entry = plan(hardware(1, 1), serve(500, "ttft_p99_ms: 600"))
    [diagnostic] = entry.diagnostics
    assert (diagnostic.code, entry.exit_code) == ("P220", 3)
    assert diagnostic.message.startswith("no layout on 1 × h100-sxm-80g holds the objective: the nearest has keeps up")


def test_weights_larger_than_the_machine(plan):
    entry = plan(hardware(1, 1), serve(1, "tpot_p99_ms: 500"), overrides=("model.num_layers=400",))
    [diagnostic] = entry.diagnostics
    assert (diagnostic.code, entry.exit_code) == ("P201", 3)
    assert diagnostic.message.startswith("serving needs ")
    assert "GiB of 73.3 GiB a device" in diagnostic.message


def test_an_unknown_network_is_a_warning(plan):
    device = "{name: my-gpu, kind: gpu, memory_gib: 80, memory_gb_s: 2000, peak_tflops: {bf16: 300}}"
    entry = plan(f"hardware: {{accelerator: {device}, nodes: 2, per_node: 8}}\n", TRAIN)
    assert [each.code for each in entry.diagnostics] == ["P231"]
    assert entry.exit_code == 0
    assert entry.plan.train is not None


@pytest.mark.parametrize(
    ("parallel", "column"),
    [
        ("{dp_shard: 8, zero: 3, cp_kind: ring}", 34),
        ("{dp_shard: 8, zero: 3, virtual_stages: 2}", 34),
        ("{dp_shard: 8, zero: 3, sequence_parallel: true}", 34),
        ("{tp: 8, zero: 3}", 19),
    ],
)
def test_a_field_without_effect_is_an_error(plan, parallel: str, column: int):
    entry = plan(hardware(1, 8), TRAIN, f"parallel: {parallel}\n")
    assert [(each.code, each.span.column) for each in entry.diagnostics if each.code == "S401"] == [("S401", column)]
    assert entry.exit_code == 1


# What cannot work, with its two numbers and a remedy; the remedy is written into the spec and planned.

MOE = MODEL.replace(
    "vocab_size: 128256", "vocab_size: 128256, moe: {num_experts: 6, experts_per_token: 2, intermediate_size: 2048}"
)
HARDWARE_KEYS = ("nodes", "per_node", "topology")


def overrides_of(help: str) -> tuple[str, ...]:
    """`tp: 4` with `dp_shard: 6` fits -> ("parallel.tp=4", "parallel.dp_shard=6")"""
    advice = re.split(r" (?:fits|finds|uses all)", help)[0]
    found = []
    for name, value in re.findall(r"`(\w+): ([^`]+)`", advice):
        section = "hardware." if name in HARDWARE_KEYS else "" if name == "parallel" else "parallel."
        found.append(f"{section}{name}={value}")
    return tuple(found)


CASES = {
    "tp does not divide heads": (
        (hardware(3, 8), TRAIN.replace("64", "48"), "parallel: {tp: 3, dp_shard: 8, zero: 3}\n"),
        ("P202", "tp 3 does not divide num_heads 32"),
    ),
    "tp does not divide heads, the rest open": (
        (hardware(3, 8), TRAIN.replace("64", "48"), "parallel: {tp: 12, rest: auto}\n"),
        ("P202", "tp 12 does not divide num_heads 32"),
    ),
    "experts not divisible": (
        (hardware(1, 8), MOE, TRAIN, "parallel: {dp_shard: 8, zero: 3, ep: 4}\n"),
        ("P202", "ep 4 does not divide num_experts 6"),
    ),
    "ranks not divisible by experts' ranks": (
        (hardware(1, 8), MOE, TRAIN, "parallel: {dp_shard: 8, zero: 3, ep: 3}\n"),
        ("P202", "ep 3 does not divide the 8 ranks of dp_shard 8 × cp 1"),
    ),
    "sequence not divisible by cp": (
        (hardware(3, 8), TRAIN, "parallel: {cp: 3, dp_shard: 8, zero: 3}\n"),
        ("P202", "cp 3 needs seq_len divisible by 6 (an early and a late part a rank); it is 8192"),
    ),
    "more stages than layers": (
        (hardware(8, 8), TRAIN, "parallel: {pp: 64}\n"),
        ("P202", "pp 64 is 64 stages; the model has 32 layers"),
    ),
    "more virtual stages than layers": (
        (hardware(2, 8), TRAIN, "parallel: {pp: 16, schedule: interleaved_1f1b, virtual_stages: 4}\n"),
        ("P202", "pp 16 × virtual_stages 4 is 64 stages; the model has 32 layers"),
    ),
    "micro-batches not in rounds": (
        (hardware(1, 6), TRAIN, "parallel: {pp: 6, schedule: interleaved_1f1b, virtual_stages: 2}\n"),
        ("P202", "interleaved_1f1b needs micro-batches in multiples of pp 6; there are 64"),
    ),
    "batch does not divide over the ranks": (
        (hardware(3, 8), TRAIN, "parallel: {dp_replicate: 3, zero: 3, rest: auto}\n"),
        ("P202", "global_batch 64 does not divide over 24 data-parallel ranks"),
    ),
    "a model larger than the cluster": (
        (hardware(1, 1), TRAIN),
        ("P201", None),
    ),
    "a model larger than the cluster, its layout fixed": (
        (hardware(1, 2), TRAIN, "parallel: {dp_shard: 2, zero: 0}\n"),
        ("P201", None),
    ),
    "a model larger than a torus": (
        ("hardware: {accelerator: tpu-v6e, topology: 2x2}\n", TRAIN),
        ("P201", None),
    ),
    "degrees for another machine": (
        (hardware(2, 8), TRAIN, "parallel: {tp: 2, dp_shard: 4, zero: 3}\n"),
        ("P203", "the layout's dp_shard 4 × tp 2 = 8 is not the machine's 16 devices"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_remedy_is_tried_before_it_is_told(plan, name: str):
    parts, (code, message) = CASES[name]
    texts = tuple(each for each in parts if not each.startswith("model:"))
    model = next((each for each in parts if each.startswith("model:")), MODEL)
    entry = plan(*texts, model=model)
    [diagnostic] = [each for each in entry.diagnostics if each.severity == "error"]
    assert diagnostic.code == code
    if message is not None:
        assert diagnostic.message == message
    assert diagnostic.help is not None
    overrides = overrides_of(diagnostic.help)
    assert overrides, diagnostic.help
    again = plan(*texts, overrides=overrides, model=model)
    assert again.exit_code == 0, (diagnostic.help, again.diagnostics)


@pytest.mark.parametrize(
    ("parallel", "model"),
    [
        ("{tp: 8, dp_shard: 1, pp: 2, micro_batch: 1}", MODEL.replace("num_kv_heads: 8", "num_kv_heads: 4")),
        ("{tp: 8, dp_shard: 2, zero: 1, micro_batch: 1}", MODEL.replace("128256", "50257")),
    ],
)
def test_key_heads_are_repeated_and_odd_vocabularies_padded(plan, parallel: str, model: str):
    """More tensor-parallel ranks than key heads, and rows that do not divide, are priced and not forbidden."""
    entry = plan(hardware(2, 8), TRAIN, f"parallel: {parallel}\n", model=model)
    assert entry.exit_code == 0


def test_repeated_key_heads_cost_what_they_take():
    """With 4 key heads on 8 ranks each rank has a whole one: twice the parameters of a share."""
    fields = LLAMA_3_8B | {"num_kv_heads": 4}
    work = Workload(training_graph(fields), h100s(8), seq_len=4096, precision="bf16", optimizer="adamw")
    block = work.graph.order[0]
    shared, repeated = (work.parameters(block, Degrees(tp=tp))[0] * tp for tp in (4, 8))
    assert repeated - shared == pytest.approx(4 * 2 * 128 * 4096, rel=0.01)
