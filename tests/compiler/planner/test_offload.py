"""Optimizer states in the memory of the host: what they free and cost, when the planner takes it, what is refused."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.compiler.cost.step import step_time
from llmc.compiler.cost.workload import Workload
from llmc.compiler.lower.refuse import refuse_layout
from llmc.compiler.pipeline import PlanEntry, plan_specs
from llmc.compiler.planner.enumerate import families
from llmc.compiler.planner.layout import Layout
from llmc.compiler.planner.offload import host_bytes
from llmc.compiler.planner.plan import Plan
from llmc.compiler.planner.report import print_plan
from llmc.compiler.planner.train_search import BRIM, search
from llmc.spec.units import GB, GIB

from ..models import h100s
from .test_oracles import completions, graph_of, random_wishes, scarce_memory

MODEL = """llmc: 1
name: wide
model: {family: llama, hidden_size: 4096, num_layers: 32, num_heads: 32, num_kv_heads: 8,
        intermediate_size: 14336, vocab_size: 128256, max_seq_len: 8192}
"""


def text(
    *, offload: str | None, devices: int = 2, host: str = "dgx-a100", kind: str = "a100-sxm-40g", train: str = ""
) -> str:
    wishes = f"offload: {offload}, " if offload else ""
    return (
        f"{MODEL}hardware: {{accelerator: {kind}, nodes: 1, per_node: {devices}{f', host: {host}' if host else ''}}}\n"
        f"train: {{objective: causal_lm, steps: 100, seq_len: 4096, global_batch: 64{train}}}\n"
        f"parallel: {{{wishes}rest: auto}}\n"
    )


@pytest.fixture
def plan(tmp_path: Path):
    def plan(spec: str, *overrides: str) -> PlanEntry:
        path = tmp_path / "spec.yaml"
        path.write_text(spec, encoding="utf-8")
        return plan_specs([path], overrides)[0]

    return plan


def told(entry: PlanEntry) -> list[tuple[str, str]]:
    return [(each.code, each.message) for each in entry.diagnostics]


def test_states_leave_the_devices_where_nothing_fits_else(plan):
    entry = plan(text(offload="auto"))
    assert entry.diagnostics == ()
    found = entry.plan.train
    assert found is not None
    assert found.layout.offload == "optimizer"
    assert found.predicted.memory_gib.optimizer == 0.0
    assert {each.layout.offload for each in found.alternatives} <= {"optimizer"}
    stays = [each for each in found.rejected if each.layout.offload is None]
    assert stays
    report = " ".join(print_plan(entry, file="spec.yaml").split())
    states = 8 * 8_030_261_248 / GIB
    assert f"the host keeps {states:.1f} GiB of optimizer states of its 2,048.0 GiB" in report
    assert "without it nothing fits: at least 68.1 GiB of 39.6 GiB" in report
    assert Plan.from_json(entry.plan.to_json()) == entry.plan


def test_states_stay_where_they_fit(plan):
    """To the plan of a spec that says nothing of it, which writes nothing of it either."""
    auto, plain = (plan(text(offload=each, devices=8)).plan.train for each in ("auto", None))
    assert auto == plain
    assert "offload" not in plain.model_dump_json(exclude_none=True)


def test_a_spec_that_does_not_fit_is_told(plan):
    [diagnostic] = plan(text(offload=None)).diagnostics
    assert diagnostic.code == "P201"
    assert diagnostic.help.startswith("`offload: auto` under `parallel` fits (dp_shard 2 · zero 3")


def machine(devices: int = 8):
    return replace(h100s(devices), host_memory_bytes=2048 * GIB, host_bytes_per_s=600 * GB)


@pytest.mark.parametrize("program", ["fsdp", "mixed"])
def test_the_ledger_moves_states_and_no_more(program: str):
    """The moments; and masters where these are not the weights, which under ZeRO-3 they are."""
    work = Workload(
        graph_of(4, experts=False), machine(), seq_len=2048, precision="bf16", optimizer="adamw", program=program
    )
    for zero in (1, 2, 3):
        stays = Layout(dp_shard=4, tp=2, sequence_parallel=True, zero=zero, micro_batch=2, grad_accumulation=2)
        before, after = work.ledger(stays), work.ledger(replace(stays, offload="optimizer"))
        own = work.graph.num_parameters() / 8
        assert before.optimizer == pytest.approx((12 if program == "mixed" and zero < 3 else 8) * own, rel=0.01)
        assert (after.host, after.optimizer, before.host) == (before.optimizer, 0.0, 0.0)
        assert replace(after, host=0.0, optimizer=before.optimizer) == before


def test_a_step_takes_longer_by_the_way_and_the_host(plan):
    """Eight devices share a host's memory: 28 bytes a parameter at half of it; 8 bytes come down and 4 go up at 50 GB/s."""
    work = Workload(
        graph_of(4, experts=False), machine(), seq_len=2048, precision="bf16", optimizer="adamw", program="fsdp"
    )
    layout = Layout(dp_shard=8, zero=3, offload="optimizer")
    own = work.graph.num_parameters() / 8
    time, stays = step_time(work, layout), step_time(work, replace(layout, offload=None))
    expected = own * (12 / 50e9 + 28 / (600e9 / 2 / 8))
    assert time.optimizer == pytest.approx(expected, rel=0.01)
    assert time.total - time.optimizer == pytest.approx(stays.total - stays.optimizer, rel=1e-9)
    assert time.high - time.total > 0.9 * time.optimizer  # nothing of it was measured


def test_the_search_with_states_on_the_host_finds_what_trying_everything_finds():
    rng = random.Random(0)
    compared = 0
    while compared < 12:
        devices, layers = rng.choice([2, 2, 4]), rng.choice([2, 3])
        graph = graph_of(layers, experts=False)
        wanted = replace(random_wishes(rng, devices=devices), offload="optimizer")
        settings = {"seq_len": 2048, "precision": "bf16", "optimizer": "adamw"}
        settings["program"] = rng.choice(["mixed", "fsdp"])
        memory_bytes = scarce_memory(rng, Workload(graph, machine(devices), **settings), wanted)
        if memory_bytes is None:
            continue
        work = Workload(graph, replace(machine(devices), memory_bytes=memory_bytes), **settings)

        def every(wanted=wanted, work=work):
            return families(wanted, work.graph, work.machine, seq_len=2048, global_batch=8)

        found = [each for each in search(every(), work, global_batch=8).fitting if not each.is_tight]
        assert {each.layout.offload for each in found} <= {"optimizer"}
        layouts = [
            whole for family in every() for outer in family.members() for whole in completions(outer.layout, layers)
        ]
        valid = [each for each in layouts if each.micro_batch * each.grad_accumulation * each.data_parallel == 8]
        fitting = [each for each in valid if work.ledger(each).peak <= BRIM * memory_bytes]
        if fitting:
            least = min(step_time(work, each).total for each in fitting)
            assert min(each.time.total for each in found) == pytest.approx(least, rel=1e-9)
            compared += 1
        else:
            assert found == []


def test_a_host_that_is_too_small_is_told_with_both_figures(plan):
    entry = plan(text(offload="optimizer", host="{like: dgx-a100, memory_gib: 96}"))
    assert told(entry) == [("P204", "optimizer states and a checkpoint on its way take 150 GiB of a host with 96 GiB")]
    assert entry.diagnostics[0].help == "`memory_gib: 192` under `hardware.host` fits"
    roomy = plan(text(offload="optimizer", host="{like: dgx-a100, memory_gib: 96}", kind="h100-sxm-80g", devices=8))
    assert [each.code for each in roomy.diagnostics] == ["P204"]
    assert (roomy.diagnostics[0].help or "").startswith("they fit on the devices: without `offload` there is ")
    assert plan(text(offload="optimizer", host="{like: dgx-a100, memory_gib: 160}")).diagnostics == ()


def test_the_host_holds_states_and_a_checkpoint_on_its_way():
    """Moments, and copies of moments and of fp32 weights: 8 + 12 bytes a parameter."""
    work = Workload(
        graph_of(4, experts=False), machine(), seq_len=2048, precision="bf16", optimizer="adamw", program="fsdp"
    )
    layout = Layout(dp_shard=8, zero=3, offload="optimizer")
    assert host_bytes(layout, work) == pytest.approx(20 * work.graph.num_parameters(), rel=1e-3)


def test_a_host_of_which_nothing_is_known_is_asked_for(plan):
    ways = {
        text(offload="auto", host=""): "`offload: auto` needs the size of the host's memory, which is not known",
        text(
            offload="optimizer", host="{cpu_cores: 8, memory_gib: 500}"
        ): "`offload: optimizer` needs the bandwidth of the host's memory, which is not known",
        text(
            offload="optimizer", kind="cpu"
        ): "`offload: optimizer` moves nothing: the memory of a cpu is that of its host",
    }
    assert [told(plan(spec)) for spec in ways] == [[("P232", message)] for message in ways.values()]


@pytest.mark.parametrize(
    ("kind", "train", "devices", "words"),
    [
        ("h100-sxm-80g", ", optimizer: {name: lion, lr: 1e-4}", 8, "states of lion on the host"),
        ("h100-sxm-80g", ", ema_decay: 0.9", 8, "an average of the weights beside states on the host"),
        ("h200", "", 1, "optimizer states of one device on its host"),
        ("ascend-910b", "", 8, "optimizer states on the host of a npu"),
        ("tpu-v6e", "", 8, "optimizer states on the host of a tpu"),
    ],
)
def test_what_has_no_program_is_refused(kind: str, train: str, devices: int, words: str, plan):
    entry = plan(text(offload=None, devices=devices, kind=kind, train=train))
    assert entry.spec is not None
    layout = Layout(dp_shard=devices, zero=3 if devices > 1 else 0, micro_batch=1, grad_accumulation=64 // devices)
    assert list(refuse_layout(entry.spec, layout)) == []
    [diagnostic] = refuse_layout(entry.spec, replace(layout, offload="optimizer"))
    assert (diagnostic.code, diagnostic.path) == ("L301", ("parallel", "offload"))
    assert diagnostic.message.startswith(f"{words} ")


def test_auto_takes_nothing_that_has_no_program(plan):
    """States of one device would fit on its host; there is no such program, so more devices are what helps."""
    entry = plan(text(offload="auto", devices=1, kind="h100-sxm-80g", host="dgx-h100"))
    [diagnostic] = entry.diagnostics
    assert diagnostic.code == "P201"
    assert diagnostic.help.startswith("`per_node: 2` fits")
