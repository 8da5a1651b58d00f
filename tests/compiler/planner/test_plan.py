"""From a file to a plan: the JSON that tools read, one entry a spec, what cannot be planned, what is consumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from llmc.compiler.pipeline import PlanEntry, plan_specs
from llmc.compiler.planner.plan import PLAN_SCHEMA_FILE, Plan, plan_schema, plan_schema_text
from llmc.compiler.planner.report import print_plan
from llmc.compiler.report.page import page_of

TRAIN = """
llmc: 1
name: small
model: {family: llama, hidden_size: 1024, num_layers: 8, num_heads: 8, num_kv_heads: 4, intermediate_size: 4096,
        vocab_size: 32000, max_seq_len: 2048}
hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8, price_per_hour_usd: 2.0}
train: {objective: causal_lm, steps: 1000, seq_len: 2048, global_batch: 64}
parallel: auto
"""
EXAMPLES = (
    "2-llama3-8b-64xh100",
    "3-llama3-405b-fixed",
    "4-mixtral-moe",
    "5-serve-slo",
    "6-tpu",
    "7-ascend",
    "tiny-code",
)


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, *, name: str = "spec.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def plan(path: Path, *overrides: str) -> PlanEntry:
    return plan_specs([path], overrides)[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_planned(name: str, root: Path):
    entry = plan(root / "examples" / f"{name}.yaml")
    assert entry.diagnostics == ()
    assert entry.exit_code == 0
    assert Plan.from_json(entry.plan.to_json()) == entry.plan
    assert Plan.from_json(entry.plan.to_text()) == entry.plan
    jsonschema.validate([entry.plan.to_json()], plan_schema())


@pytest.mark.parametrize("name", EXAMPLES)
def test_reports_of_examples(name: str, root: Path, snapshot):
    report = print_plan(plan(root / "examples" / f"{name}.yaml"), file=f"examples/{name}.yaml")
    assert max(map(len, report.splitlines())) <= 100
    assert report == snapshot


def test_a_storage_has_its_checkpoints_told(root: Path):
    """In words and on the page, with the figures of the plan."""
    path = root / "examples" / "3-llama3-405b-fixed.yaml"
    entry = plan(path, "hardware.storage=tectonic")
    assert entry.plan.train is not None
    found = entry.plan.train.reliability
    assert found is not None
    report, page = print_plan(entry, file="spec.yaml"), page_of(entry, file="spec.yaml")
    assert f"checkpoint {found.checkpoint_gib:,.1f} GiB in {found.write_s:.1f} s" in report
    assert f"({found.every_steps:,} steps)" in report
    assert f"{found.goodput:.1%} of the time trains" in report
    assert f"<dd>{found.goodput:.1%}</dd>" in page
    assert "checkpoint" not in print_plan(plan(path), file="spec.yaml")


def test_the_committed_schema_is_up_to_date(root: Path):
    committed = (root / "schema" / PLAN_SCHEMA_FILE).read_text(encoding="utf-8")
    assert committed == plan_schema_text(), "run `make schema`"


def test_the_plan_has_the_published_shape(root: Path):
    """Keys and their order are those of the example in the language's documentation, which tools read."""
    shape = json.loads((Path(__file__).parent / "plan_shape.json").read_text(encoding="utf-8"))
    train = plan(root / "examples" / "3-llama3-405b-fixed.yaml").plan.to_json()
    serve = plan(root / "examples" / "5-serve-slo.yaml").plan.to_json()
    found = train | {"serve": serve["serve"]}
    assert list(found["train"]["layout"])[: len(shape["train"]["layout"])] == list(shape["train"]["layout"])
    assert _keys(found["train"]["predicted"]) == _keys(shape["train"]["predicted"])
    assert _keys(found["serve"]["layout"]) == _keys(shape["serve"]["layout"])
    assert _keys(found["serve"]["predicted"]) == _keys(shape["serve"]["predicted"])
    for part in (found, found["train"], found["serve"], found["model"]):
        assert part
    assert list(found) == list(shape)
    assert list(found["train"]) == list(shape["train"])
    assert list(found["serve"])[: len(shape["serve"])] == list(shape["serve"])  # limits and what they rest on follow


def _keys(value: object) -> object:
    return {key: _keys(each) for key, each in value.items()} if isinstance(value, dict) else None


def test_a_plan_that_was_edited_wrongly_is_refused(write):
    """A plan can be edited and fed back: what it says must be understood in full."""
    text = plan(write(TRAIN)).plan.to_text()
    for good, bad in (('"tp":', '"tensor":'), ('"zero": ', '"zero": 1'), ('"llmc_plan": 1', '"llmc_plan": 2')):
        with pytest.raises(ValidationError):
            Plan.from_json(text.replace(good, bad, 1))


def test_parts_sum(root: Path):
    for name in ("2-llama3-8b-64xh100", "4-mixtral-moe"):
        train = plan(root / "examples" / f"{name}.yaml").plan.train
        assert train is not None
        predictions = [train.predicted, *(each.predicted for each in train.alternatives)]
        for predicted in predictions:
            memory, time = predicted.memory_gib, predicted.time_s
            classes = (memory.parameters, memory.gradients, memory.optimizer, memory.activations, memory.buffers)
            assert sum(classes) == pytest.approx(memory.peak)
            parts = (time.compute, time.recompute, time.bubble, time.optimizer, time.exposed_comm)
            assert sum(parts) == pytest.approx(predicted.step_time_s)
            assert predicted.step_time_low_s < predicted.step_time_s < predicted.step_time_high_s


def test_a_fixed_layout_is_priced_and_never_overridden(root: Path):
    train = plan(root / "examples" / "3-llama3-405b-fixed.yaml").plan.train
    assert train is not None
    layout = train.layout
    assert (layout.dp_shard, layout.zero, layout.tp, layout.pp, layout.virtual_stages) == (128, 2, 8, 16, 4)
    assert (layout.micro_batch, layout.grad_accumulation, layout.recompute) == (1, 16, "none")


def test_what_is_given_is_kept_and_the_rest_filled(root: Path):
    train = plan(root / "examples" / "4-mixtral-moe.yaml").plan.train
    assert train is not None
    assert train.layout.ep == 8
    assert train.layout.devices == 128


def test_one_spec_that_cannot_be_planned_does_not_stop_the_rest(write):
    good, bad = write(TRAIN, name="good.yaml"), write(TRAIN.replace("num_heads: 8", "num_hedas: 8"), name="bad.yaml")
    first, second, third = plan_specs([good, bad, good])
    assert first.plan == third.plan
    assert first.plan.train is not None
    assert (second.plan.name, second.plan.train, second.exit_code) == ("bad", None, 1)
    told = {each.code: each for each in second.plan.diagnostics}["LLMC-S104"]
    assert (told.severity, told.line) == ("error", 4)


def test_a_missing_file_is_an_entry_too(tmp_path: Path):
    entry = plan(tmp_path / "nowhere.yaml")
    assert entry.exit_code == 1
    assert entry.plan.diagnostics[0].code == "LLMC-S102"


def test_a_spec_with_neither_training_nor_serving_has_its_parameters(write):
    entry = plan(write(TRAIN.partition("train:")[0]))
    assert entry.exit_code == 0
    assert entry.plan.model is not None
    assert (entry.plan.train, entry.plan.serve) == (None, None)


def test_nothing_but_the_answer_depends_on_the_file(write, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    one = plan(write(TRAIN)).plan
    other = plan(write("# a comment\n" + TRAIN, name="elsewhere/other.yaml")).plan
    assert one == other


def test_dump_ir_writes_a_file_a_stage_and_pass(write, tmp_path: Path):
    plan_specs([write(TRAIN)], dump_ir=tmp_path / "ir")
    assert [path.name for path in sorted((tmp_path / "ir").iterdir())] == [
        "01_graph.ir.txt",
        "02_fuse_qkv.ir.txt",
        "03_fuse_gate_up.ir.txt",
        "04_choose_attention.ir.txt",
        "05_fuse_linear_cross_entropy.ir.txt",
        "06_plan.json",
    ]
    assert "mlp.gate_up" in (tmp_path / "ir" / "03_fuse_gate_up.ir.txt").read_text(encoding="utf-8")


def test_planning_imports_no_torch_and_no_numpy(root: Path):
    code = (
        "import sys; from llmc.compiler.pipeline import plan_specs; from llmc.compiler.planner.report import print_plan\n"
        f"print_plan(plan_specs([{str(root / 'examples' / 'tiny-code.yaml')!r}])[0], file='x')\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'jax', 'triton', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
