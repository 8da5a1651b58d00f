"""`llmc diff A B`: what changes the model that is trained, apart from what only changes how it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.compiler.planner.difference import KINDS, kind_of
from llmc.spec.document import Spec
from llmc.spec.parallel import Parallel

from .conftest import Ran
from .planned import FIXED, SERVED, TINY, TRAINED

Llmc = Callable[..., Ran]


@pytest.fixture(autouse=True)
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = FIXED.replace("pp: 2, dp_shard: 4", "dp_shard: 8").replace(
        "global_batch: 64", "global_batch: 128, precision: fp8, optimizer: {name: lion, lr: 1e-4}"
    )
    for name, text in (("a", TRAINED), ("b", other), ("fixed", FIXED), ("served", SERVED), ("tiny", TINY)):
        Path(f"{name}.yaml").write_text(text)


def test_a_report(llmc: Llmc, snapshot):
    ran = llmc("diff", "a.yaml", "b.yaml")
    assert (ran.status, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 100
    assert ran.out == snapshot


def test_another_layout_is_the_same_training(llmc: Llmc):
    ran = llmc("diff", "a.yaml", "fixed.yaml", "--json")
    data = json.loads(ran.out)
    assert ran.status == 0
    assert data["same_training"]
    assert data["convergence"] == []
    assert {each["path"].partition(".")[0] for each in data["execution"]} == {"layout"}
    assert data["predicted"]["a"]["train"]["step_time_s"] > 0
    assert data["predicted"]["b"]["train"]["cost_usd"] > 0


def test_what_is_learned_is_told_apart(llmc: Llmc):
    data = json.loads(llmc("diff", "fixed.yaml", "b.yaml", "--json").out)
    paths = {each["path"] for each in data["convergence"]}
    assert not data["same_training"]
    assert {"train.0.global_batch", "train.0.precision", "train.0.optimizer.name", "train.0.optimizer.lr"} <= paths
    assert all(not path.startswith(("hardware", "parallel", "layout")) for path in paths)


def test_a_batch_that_the_layout_decides_counts(llmc: Llmc):
    text = FIXED.replace(", global_batch: 64", "").replace("micro_batch: 2", "micro_batch: 2, grad_accumulation: 4")
    Path("c.yaml").write_text(text)
    Path("d.yaml").write_text(text.replace("grad_accumulation: 4", "grad_accumulation: 8"))
    data = json.loads(llmc("diff", "c.yaml", "d.yaml", "--json").out)
    assert data["convergence"] == [{"path": "train.0.global_batch", "a": 32, "b": 64}]


def test_a_served_format_changes_answers(llmc: Llmc):
    Path("e.yaml").write_text(SERVED.replace("[bf16, fp8]", "fp8").replace("requests_per_s: 40", "requests_per_s: 20"))
    data = json.loads(llmc("diff", "served.yaml", "e.yaml", "--json").out)
    assert "serve.weights.dtype" in {each["path"] for each in data["answers"]}
    assert "serve.workload.requests_per_s" in {each["path"] for each in data["execution"]}


def test_two_plans(llmc: Llmc):
    for name in ("a", "b"):
        assert llmc("plan", f"{name}.yaml", "--out", f"{name}.json").status == 0
    of_plans, of_specs = llmc("diff", "a.json", "b.json"), llmc("diff", "a.yaml", "b.yaml")
    assert of_plans.status == 0
    assert of_plans.out == of_specs.out.replace("a.yaml", "a.json").replace("b.yaml", "b.json")


def test_a_spec_and_its_own_plan_are_the_same(llmc: Llmc):
    llmc("plan", "tiny.yaml", "--out", "tiny.json")
    data = json.loads(llmc("diff", "tiny.yaml", "tiny.json", "--json").out)
    assert (data["convergence"], data["answers"], data["execution"]) == ([], [], [])


def test_an_edited_plan_is_priced_anew(llmc: Llmc):
    llmc("plan", "a.yaml", "--out", "a.json")
    data = json.loads(Path("a.json").read_text())
    layout = data["train"]["layout"]
    layout |= {"micro_batch": 1, "grad_accumulation": layout["grad_accumulation"] * layout["micro_batch"]}
    Path("edited.json").write_text(json.dumps(data))
    found = json.loads(llmc("diff", "a.json", "edited.json", "--json").out)
    assert {each["path"] for each in found["execution"]} == {"layout.micro_batch", "layout.grad_accumulation"}
    fixed = {key: value for key, value in layout.items() if key in Parallel.model_fields}
    ran = llmc("plan", "a.yaml", "--json", "--set", f"parallel={json.dumps(fixed)}")
    assert found["predicted"]["b"]["train"] == json.loads(ran.out)[0]["train"]["predicted"]
    assert found["predicted"]["b"]["train"]["step_time_s"] != found["predicted"]["a"]["train"]["step_time_s"]


def test_an_edit_that_cannot_be_is_told(llmc: Llmc):
    llmc("plan", "a.yaml", "--out", "a.json")
    Path("edited.json").write_text(Path("a.json").read_text().replace('"tp": 1', '"tp": 7', 1))
    ran = llmc("diff", "a.yaml", "edited.json")
    assert ran.status == 1
    assert "error[P241" in ran.err


def test_a_plan_without_its_spec(llmc: Llmc):
    Path("printed.json").write_text(llmc("plan", "tiny.yaml", "--json").out)
    ran = llmc("diff", "tiny.yaml", "printed.json")
    assert ran.status == 2
    assert "does not carry its spec" in ran.err


def test_specs_with_errors(llmc: Llmc):
    Path("wrong.yaml").write_text("- 1\n")
    ran = llmc("diff", "tiny.yaml", "wrong.yaml")
    assert (ran.status, ran.out) == (1, "")
    assert "error[S110" in ran.err
    assert llmc("diff", "tiny.yaml", "nowhere.json").status == 1
    assert llmc("diff", "tiny.yaml").status == 2


def test_what_does_not_fit_is_compared_all_the_same(llmc: Llmc):
    Path("large.yaml").write_text(TRAINED.replace("num_layers: 16", "num_layers: 512"))
    ran = llmc("diff", "a.yaml", "large.yaml")
    assert ran.status == 0
    assert ran.out.splitlines()[-1].split() == ["fits", "yes", "no"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("train.0.global_batch", "convergence"),
        ("train.1.seq_len", "convergence"),
        ("train.0.schedule.warmup_steps", "convergence"),
        ("train.0.seed", "convergence"),
        ("train.0.checkpoint.every_steps", "execution"),
        ("train.0.validation.batches", "execution"),
        ("model.num_layers", "convergence"),
        ("data.sources.0.weight", "convergence"),
        ("serve.weights.dtype.0", "answers"),
        ("serve.slo.ttft_p99_ms", "execution"),
        ("hardware.nodes", "execution"),
        ("something.new", "convergence"),
    ],
)
def test_kinds(path: str, kind: str):
    assert kind_of(path) == kind


def test_every_section_of_a_spec_is_classified():
    """A new section must say what a difference in it means."""
    told = {start.partition(".")[0] for start, _ in KINDS} | {"llmc", "extends"}
    assert set(Spec.model_fields) == told
