"""`llmc plan --out` and `llmc build --plan`: a plan goes out, may be edited, and comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmc.compiler.pipeline import build
from llmc.compiler.planner.plan import Plan
from llmc.spec.codes import all_codes
from llmc.spec.codes.entry import Code

from .conftest import Ran
from .planned import TINY

Llmc = Callable[..., Ran]
OF_GIVEN_PLANS = [code for code in all_codes().values() if code.plan_edits]


@pytest.fixture
def tiny(llmc: Llmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec and, beside it, its plan."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    assert llmc("plan", "tiny.yaml", "--out", "plan.json").status == 0
    return Path("tiny.yaml")


def edit(path: Path, changes: Mapping[str, object]) -> None:
    """Set values by dotted path."""
    data: Any = json.loads(path.read_text())
    for dotted, value in changes.items():
        *above, last = dotted.split(".")
        holder = data
        for key in above:
            holder = holder[key]
        holder[last] = value
    path.write_text(json.dumps(data, indent=2))


def test_a_plan_that_comes_back_untouched_builds_the_same(llmc: Llmc, tiny: Path):
    assert llmc("build", tiny).status == 0
    ran = llmc("build", tiny, "--plan", "plan.json", "--check")
    assert (ran.status, ran.err) == (0, "")


def test_the_file_carries_its_spec_and_is_a_plan(tiny: Path):
    plan = Plan.from_json(Path("plan.json").read_text())
    assert plan.spec is not None
    assert plan.spec["model"]["hidden_size"] == 64
    assert plan.model_copy(update={"spec": None}).to_json() == {k: v for k, v in plan.to_json().items() if k != "spec"}


def test_an_edited_layout_is_built_and_priced_anew(llmc: Llmc, tiny: Path):
    before = Plan.from_json(Path("plan.json").read_text())
    assert before.train is not None
    micro_batch = 2 if before.train.layout.micro_batch != 2 else 1
    edit(
        Path("plan.json"), {"train.layout.micro_batch": micro_batch, "train.layout.grad_accumulation": 4 // micro_batch}
    )
    edit(Path("plan.json"), {"train.predicted.step_time_s": 1e9, "serve.layout.max_batch": 12})
    result = build(tiny, plan_file=Path("plan.json"))
    assert result.diagnostics == ()
    assert result.tree is not None
    plan = result.entry.plan
    assert plan.train is not None
    assert plan.serve is not None
    assert (plan.train.layout.micro_batch, plan.train.layout.grad_accumulation) == (micro_batch, 4 // micro_batch)
    assert plan.train.predicted.step_time_s < 1
    assert plan.serve.layout.max_batch == 12
    assert plan.spec_sha256 == before.spec_sha256
    built = json.loads(next(text for path, text in result.tree.texts.items() if str(path) == "plan.json"))
    assert built["train"]["layout"]["micro_batch"] == micro_batch


def test_what_json_prints_comes_back_too(llmc: Llmc, tiny: Path):
    Path("printed.json").write_text(llmc("plan", tiny, "--json").out)
    assert llmc("build", tiny, "--plan", "printed.json", "-o", "out").status == 0


def test_a_spec_that_changed_is_told_value_by_value(llmc: Llmc, tiny: Path):
    tiny.write_text(TINY.replace("num_layers: 2", "num_layers: 3").replace("global_batch: 4", "global_batch: 8"))
    ran = llmc("build", tiny, "--plan", "plan.json")
    assert ran.status == 1
    assert "error[P240 plan-of-another-spec]: plan.json was planned for another spec: 2 values changed since" in ran.err
    assert "= model.num_layers: 2 in the plan, 3 in the spec" in ran.err
    assert "= train.0.global_batch: 4 in the plan, 8 in the spec" in ran.err
    assert not Path("build").exists()


def test_a_comment_is_no_change(llmc: Llmc, tiny: Path):
    tiny.write_text("# a comment\n" + TINY)
    assert llmc("build", tiny, "--plan", "plan.json").status == 0


@pytest.mark.parametrize(
    ("changes", "told", "line"),
    [
        ({"train.layout.zero": 3}, "zero 3 of the plan means nothing: nothing is sharded", '"zero": 3'),
        ({"train.layout.tp": 2}, "the plan's layout is for 2 devices, the machine has 1", '"dp_shard": 1'),
        ({"train.layout.grad_accumulation": 3}, "the spec's global_batch is 4", '"grad_accumulation": 3'),
        ({"train.layout.micro_batch": -1}, "`micro_batch=-1`: input should be greater than or equal to 1", ""),
        ({"serve.layout.weights": "fp8"}, "the plan has weights fp8, the spec says bf16", '"weights": "fp8"'),
        ({"serve.layout.replicas": 3}, "the serving layout needs 3 devices, the machine has 1", '"layout": {'),
        ({"train.layout.tensor": 2}, "`train.layout.tensor` of the plan: ", '"tensor": 2'),
        ({"llmc_plan": 2}, "`llmc_plan` of the plan: ", '"llmc_plan": 2'),
        ({"spec.model.hidden_size": 128}, "the spec inside plan.json was edited", '"spec": {'),
        ({"train": None}, "the spec has a `train` section and the plan has none", ""),
    ],
)
def test_an_edit_that_cannot_be_kept_points_into_the_plan(
    llmc: Llmc, tiny: Path, changes: dict[str, object], told: str, line: str
):
    edit(Path("plan.json"), changes)
    ran = llmc("build", tiny, "--plan", "plan.json")
    assert ran.status == 1
    assert told in ran.err
    if line:
        assert "plan.json:" in ran.err
        assert f"| {line}" in re_spaced(ran.err)


def re_spaced(text: str) -> str:
    """Indentation inside quoted lines left out."""
    return "\n".join(
        f"{head}| {rest.strip()}" if bar else head
        for head, bar, rest in (line.partition("|") for line in text.splitlines())
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "is not JSON"), ("[]", "holds no plan"), ("3", "holds no plan"), ('{"name": 1, "name": 2}', "given twice")],
)
def test_a_file_that_is_no_plan(llmc: Llmc, tiny: Path, text: str, told: str):
    Path("plan.json").write_text(text)
    ran = llmc("build", tiny, "--plan", "plan.json")
    assert ran.status == 1
    assert "error[P242 not-a-plan]" in ran.err
    assert told in ran.err


def test_a_missing_plan(llmc: Llmc, tiny: Path):
    ran = llmc("build", tiny, "--plan", "nowhere.json")
    assert ran.status == 1
    assert "the plan nowhere.json cannot be read: No such file or directory" in ran.err


@pytest.mark.parametrize("code", OF_GIVEN_PLANS, ids=lambda code: code.id)
def test_the_codes_own_example(code: type[Code], llmc: Llmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The failing spec's own plan builds; with the edit it yields the code and no other."""
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(code.failing_spec())
    assert llmc("plan", "spec.yaml", "--out", "plan.json").status == 0
    assert build("spec.yaml", plan_file=Path("plan.json")).diagnostics == ()
    edit(Path("plan.json"), code.plan_edits)
    assert {each.code for each in build("spec.yaml", plan_file=Path("plan.json")).diagnostics} == {code.id}
    assert "of its plan" in llmc("explain", code.id).out
