"""The serving search: least cost that holds, percentiles that were played, limits that add up, help that plans."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.compiler.cost.load import Load, serve_open
from llmc.compiler.cost.serving import Engine, EngineShape, Prompt
from llmc.compiler.cost.serving_constants import interval_of, serve_constants_of
from llmc.compiler.pipeline import PlanEntry, plan_specs
from llmc.compiler.planner.serve_simulation import step_time

from ..models import LLAMA_3_8B, graph_of, h100s

MODEL = """model: {family: llama, hidden_size: 4096, num_layers: 32, num_heads: 32, num_kv_heads: 8,
        intermediate_size: 14336, vocab_size: 128256, max_seq_len: 8192}
"""
EXPERTS = """model: {preset: gpt-oss-120b, max_seq_len: 8192}
"""


@pytest.fixture
def plan(tmp_path: Path):
    def plan(serve: str, *, devices: int = 8, model: str = MODEL, overrides: tuple[str, ...] = ()) -> PlanEntry:
        path = tmp_path / "spec.yaml"
        hardware = f"hardware: {{accelerator: h100-sxm-80g, nodes: 1, per_node: {devices}}}\n"
        path.write_text(f"llmc: 1\n{model}{hardware}serve: {serve}\n", encoding="utf-8")
        return plan_specs([path], overrides)[0]

    return plan


def workload(rate: float, *, slo: str = "ttft_p99_ms: 800, tpot_p99_ms: 40", weights: str = "bf16") -> str:
    asked = f"workload: {{input_tokens: 1024, output_tokens: 128, requests_per_s: {rate}}}"
    return f"{{max_seq_len: 8192, {asked}, slo: {{{slo}}}, weights: {{dtype: [{weights}]}}}}"


def served(entry: PlanEntry):
    assert entry.plan.serve is not None
    return entry.plan.serve


def test_more_requests_never_take_fewer_devices(plan):
    found = [served(plan(workload(rate))).devices for rate in (1, 8, 24)]
    assert found == sorted(found)
    assert found[0] == 1


def test_percentiles_of_the_chosen_layout_are_played(plan):
    entry = plan(workload(8))
    chosen = served(entry)
    assert chosen.meets_slo
    assert chosen.simulated_requests is not None
    assert chosen.simulated_requests >= 64
    at = chosen.predicted
    assert at.ttft_p50_ms < at.ttft_p99_ms <= 800
    assert at.tpot_p50_ms <= at.tpot_p99_ms <= 40
    assert served(plan(workload(8))) == chosen  # seeded


def test_without_a_workload_nothing_is_played(plan):
    assert served(plan("{max_seq_len: 8192}", devices=1)).simulated_requests is None


def test_a_single_slot_is_planned_for_a_single_request(plan):
    assert served(plan("{max_seq_len: 1024, layout: {max_batch: 1}}")).meets_slo


def test_a_static_batch_and_a_closed_loop_are_played_as_such(plan):
    one = "{max_seq_len: 8192, workload: {input_tokens: 512, output_tokens: 64, concurrency: 16, arrival: static}}"
    loop = "{max_seq_len: 8192, workload: {input_tokens: 512, output_tokens: 64, concurrency: 16, requests: 64}}"
    static, closed = served(plan(one, devices=1)), served(plan(loop, devices=1))
    assert (static.simulated_requests, closed.simulated_requests) == (16, 64)
    assert static.predicted.ttft_p50_ms > closed.predicted.ttft_p50_ms  # all prompts at once


def test_limits_say_their_inequality_and_keep_it(plan):
    entry = plan(workload(8))
    limits = {each.name: each for each in served(entry).limits}
    assert list(limits) == [
        "kv_cache_tokens",
        "max_batch",
        "max_queued_tokens",
        "max_queued_requests",
        "max_wait_steps",
    ]
    queued = limits["max_queued_tokens"]
    figures = re.search(r"\(([\d.]+) ms - ([\d.]+) ms\) \* ([\d,]+) tokens/s", queued.inequality)
    assert figures is not None
    slo_ms, prefill_ms, rate = (float(each.replace(",", "")) for each in figures.groups())
    assert slo_ms == 800
    assert queued.value == pytest.approx((slo_ms - prefill_ms) / 1e3 * rate, rel=0.02)
    batch = re.search(r"= ([\d,]+) <= ([\d,]+)$", limits["max_batch"].inequality)
    assert batch is not None
    held, room = (int(each.replace(",", "")) for each in batch.groups())
    assert held <= room


def test_the_server_goes_by_the_limits_of_its_plan(plan):
    from llmc.compiler.lower.serving import lower_serve

    entry = plan(workload(8))
    found = served(entry)
    limits = {each.name: each.value for each in found.limits}
    view = lower_serve(entry.spec, found, origin="s.yaml", device="cuda")
    assert view.max_waiting_tokens == limits["max_queued_tokens"]
    assert view.max_waiting == limits["max_queued_requests"] == found.layout.max_batch
    assert view.max_wait_steps == limits["max_wait_steps"]
    steps = re.search(r"\(([\d.]+) ms - ([\d.]+) ms\) / ([\d.]+) ms", found.limits[-1].inequality)
    assert steps is not None
    slo_ms, ttft_ms, tpot_ms = map(float, steps.groups())
    assert view.max_wait_steps == pytest.approx((slo_ms - ttft_ms) / tpot_ms, rel=0.05, abs=1)


def test_medians_have_ends_and_those_of_unknown_devices_are_further_apart(plan):
    found = served(plan(workload(8)))
    at, ends = found.predicted, found.interval
    assert ends is not None
    assert ends.tpot_p50_low_ms < at.tpot_p50_ms < ends.tpot_p50_high_ms
    assert ends.ttft_p50_low_ms < at.ttft_p50_ms < ends.ttft_p50_high_ms
    assert ends.ttft_p50_high_ms / at.ttft_p50_ms > ends.tpot_p50_high_ms / at.tpot_p50_ms, "queues err beside steps"
    known = interval_of("tpot", serve_constants_of("hopper").spread)
    unknown = interval_of("tpot", serve_constants_of("no such", kind="gpu").spread)
    assert unknown.high > known.high
    assert unknown.low < known.low


def trace(folder: Path, *, burst: int, rate: float, num: int = 400) -> str:
    """Requests in bursts, with one rate however large these are."""
    lines = [
        json.dumps({"time_s": (number // burst) * burst / rate, "input_tokens": 900 + number % 3, "output_tokens": 120})
        for number in range(num)
    ]
    (folder / f"burst{burst}.jsonl").write_text("\n".join(lines))
    return f"{{max_seq_len: 8192, workload: {{trace: burst{burst}.jsonl}}, slo: {{ttft_p99_ms: 5000}}}}"


def test_a_trace_is_played_as_it_was_recorded(plan, tmp_path: Path):
    smooth, bursty = (served(plan(trace(tmp_path, burst=burst, rate=4), devices=1)) for burst in (1, 40))
    assert smooth.simulated_requests == bursty.simulated_requests > 100
    assert smooth.predicted.requests_per_s == pytest.approx(4, rel=0.15)
    assert bursty.predicted.ttft_p99_ms > 2 * smooth.predicted.ttft_p99_ms, "same rate, other arrivals"


def test_replicas_share_a_trace(plan, tmp_path: Path):
    found = served(plan(trace(tmp_path, burst=1, rate=60, num=4000), devices=8))
    assert found.layout.replicas > 1
    assert found.simulated_requests is not None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "the trace cannot be used"),
        ('{"time_s": 1}', "is not a recorded request"),
        ('{"time_s": 1, "input_tokens": 2, "output_tokens": 3}', "at one moment has no rate"),
    ],
)
def test_a_trace_that_cannot_be_played_is_told(plan, tmp_path: Path, lines: str | None, message: str):
    if lines is not None:
        (tmp_path / "t.jsonl").write_text(lines)
    entry = plan("{max_seq_len: 8192, workload: {trace: t.jsonl}}", devices=1)
    assert [each.code for each in entry.diagnostics] == ["P222"]
    assert message in entry.diagnostics[0].message


def test_the_first_format_wins_where_devices_are_equal(plan):
    """Of another engine, which has them both."""
    theirs = ("assume={software: tuned}",)
    assert served(plan(workload(1, weights="bf16, fp8"), overrides=theirs)).layout.weights == "bf16"
    assert served(plan(workload(1, weights="fp8, bf16"), overrides=theirs)).layout.weights == "fp8"


def test_what_has_no_program_is_chosen_only_where_nothing_else_holds(plan):
    entry = plan(workload(24, weights="fp8, bf16"))
    chosen = served(entry)
    assert chosen.layout.weights == "bf16"
    left_out = [each for each in chosen.rejected if each.binding == "program"]
    assert {each.layout.weights for each in left_out} == {"fp8"}
    assert all("fp8 weights is not lowered yet" in each.reason for each in left_out)
    assert served(plan(workload(24, weights="fp8"))).layout.weights == "fp8"
    staged = plan(workload(8), overrides=("serve.layout={pp: 2}",))
    assert staged.exit_code == 0
    assert served(staged).layout.pp == 2


@pytest.mark.parametrize(
    ("slo", "rate", "code", "headline"),
    [
        ("tpot_p99_ms: 1", 1, "P221", r"tpot_p99_ms 1 ms is below the 4\.5 ms that reading the weights takes"),
        ("ttft_p99_ms: 5", 1, "P221", r"ttft_p99_ms 5 ms is below the [\d.]+ ms that 1,024 prompt tokens take"),
        (
            "ttft_p99_ms: 400",
            400,
            "P220",
            "no layout on 1 × h100-sxm-80g holds the objective: the nearest has keeps up",
        ),
        ("tpot_p50_ms: 6", 1, "P220", "no layout on 1 × h100-sxm-80g holds the objective: the nearest has tpot_p50_ms"),
    ],
)
def test_an_objective_that_nothing_holds_has_a_help_that_plans(plan, slo: str, rate: float, code: str, headline: str):
    entry = plan(workload(rate, slo=slo), devices=1)
    [diagnostic] = entry.diagnostics
    assert (diagnostic.code, entry.exit_code) == (code, 3)
    assert re.match(headline, diagnostic.message)
    assert diagnostic.help is not None
    change = re.match(r"`(\w+): ([\d.]+)` holds, with ", diagnostic.help)
    assert change is not None, diagnostic.help
    name, value = change.groups()
    section = "workload" if name == "requests_per_s" else "slo"
    mended = plan(workload(rate, slo=slo), devices=1, overrides=(f"serve.{section}.{name}={value}",))
    assert mended.exit_code == 0
    assert served(mended).meets_slo


def test_experts_may_be_split_by_expert(plan):
    asked = "workload: {input_tokens: 1024, output_tokens: 128, requests_per_s: 8}"
    fixed = f"{{max_seq_len: 8192, {asked}, weights: {{dtype: mxfp4}}, layout: {{tp: 4, ep: EP}}}}"
    for ep in (1, 2, 4):
        chosen = served(plan(fixed.replace("EP", str(ep)), model=EXPERTS))
        assert chosen.layout.ep == ep
        assert chosen.predicted.memory_gib.weights == pytest.approx(15.3, abs=0.5)  # a quarter, whichever way
    refused = plan(fixed.replace("EP", "3"), model=EXPERTS)
    assert [each.code for each in refused.diagnostics] == ["P202"]


def engine(*, tp: int = 1, pp: int = 1) -> Engine:
    return Engine(graph_of(LLAMA_3_8B), h100s(8), EngineShape(tp=tp, pp=pp, ep=1, weights="bf16", kv_dtype="bf16"))


def test_a_mixed_step_costs_no_less_than_its_parts_and_no_more_than_both():
    """Prompts ride along: the step's weights are read once."""
    one = engine()
    decode = one.decode_step_s(32, context=1024)
    prompt = one.prefill_s(1024)
    mixed = one.mixed_step_s(32, context=1024, prompts=[Prompt(1024)])
    assert max(decode, prompt) < mixed < decode + prompt


def test_a_chunk_behind_a_cache_attends_to_it():
    one = engine()
    assert one.mixed_step_s(0, context=0, prompts=[Prompt(512, 4096)]) > one.mixed_step_s(
        0, context=0, prompts=[Prompt(512)]
    )


def test_kernels_leave_out_what_nobody_reads_of_the_last_layer():
    """Llama 3 8B: of its 32 layers the last one does 11.5 % of its products for all of a prompt. A token by itself pays all."""
    plain = engine()
    ours = Engine(plain.graph, plain.machine, replace(plain.shape, has_kernels=True))
    one, many = plain.ops.product_flops(1), plain.ops.product_flops(4096)
    assert many / (4096 * one) == pytest.approx(1 - 0.885 / 32, rel=1e-3)
    products_s = many / plain.machine.peak("bf16")  # at least
    assert 0.885 / 32 < (plain.prefill_s(4096) - ours.prefill_s(4096)) / products_s < 2 * 0.885 / 32
    assert ours.decode_step_s(32, context=1024) == plain.decode_step_s(32, context=1024)


def test_a_simulated_step_has_the_price_of_what_was_planned():
    """31 answers with 1,000 tokens each and a prompt of 600, in steps of what is priced once."""
    one = engine()
    seconds = step_time(one)([(1, 1000)] * 31 + [(600, 0)])
    assert seconds == one.mixed_step_s(32, context=1024, prompts=[Prompt(608)])


def test_stages_serve_more_and_answer_later():
    load = Load(1024, 128, requests_per_s=6.0, concurrency=1)
    one, two = (serve_open(each, load, max_batch=256) for each in (engine(), engine(pp=2)))
    assert two.tpot_p50_s < one.tpot_p50_s * 1.2
    assert engine(pp=2).prompt_cost_s(1024, batch=8) < 0.7 * engine().prompt_cost_s(1024, batch=8)
    assert engine(pp=2).weights_bytes < 0.6 * engine().weights_bytes
