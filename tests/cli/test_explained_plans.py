"""`llmc plan --top`, `--why-not`, `--shadow-prices`, `--html`: the words, and the figures in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.compiler.pipeline import PlanEntry, plan_file
from llmc.compiler.planner.pins import pin_training
from llmc.compiler.planner.shadow import serve_prices, train_prices
from llmc.compiler.planner.terms import COMMUNICATION_DECIDED_BY, DECIDED_BY, FORMATS, changes, terms_of
from llmc.compiler.planner.train_plan import plan_training
from llmc.compiler.planner.train_search import runners_up

from .conftest import Ran
from .planned import FIXED, SERVED, TINY, TRAINED

Llmc = Callable[..., Ran]


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("trained", TRAINED), ("fixed", FIXED), ("served", SERVED), ("tiny", TINY)):
        Path(f"{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> PlanEntry:
    path = tmp_path_factory.mktemp("specs") / "trained.yaml"
    path.write_text(TRAINED)
    return plan_file(path)


# --top


@pytest.mark.parametrize("name", ["trained", "fixed", "served", "tiny"])
def test_the_whole_story(llmc: Llmc, specs: None, name: str, snapshot):
    ran = llmc("plan", f"{name}.yaml", "--top", "2", "--shadow-prices")
    assert (ran.status, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 100
    assert ran.out == snapshot


def test_top_explains_as_many_as_asked(llmc: Llmc, specs: None):
    for count in (1, 3):
        ran = llmc("plan", "trained.yaml", "--top", count)
        assert len(re.findall(r"^  \d\. ", ran.out, flags=re.MULTILINE)) == count
    assert llmc("plan", "trained.yaml", "--top", 0).status == 2


def test_terms_sum_to_the_step(trained: PlanEntry):
    assert trained.train is not None
    terms = terms_of(trained.train.work, trained.train.chosen)
    assert sum(term.seconds for term in terms) == pytest.approx(trained.train.chosen.time.total)
    assert {term.origin for term in terms} <= {"measured", "fitted", "assumed"}


def test_the_changes_of_a_runner_up_sum_to_its_loss(trained: PlanEntry):
    """All but what is under 0.2 % of the step a term."""
    assert trained.train is not None
    work, chosen = trained.train.work, trained.train.chosen
    others = runners_up(trained.train.found.fitting, at_most=8)
    assert others
    for other in others:
        found = changes(work, other, chosen)
        slower = other.time.total - chosen.time.total
        assert sum(change.seconds for change in found) == pytest.approx(slower, abs=0.02 * chosen.time.total)
        assert [change.seconds for change in found] == sorted((c.seconds for c in found), reverse=True)


def test_the_constants_that_provenance_names_exist():
    """Where a constant is renamed, the term that it decides must follow."""
    from llmc.compiler.cost.constants import table

    tables = table()
    known = {name for part in ("architecture", "software") for each in tables[part].values() for name in each}
    known |= set(tables["shared"]) | {"format", *FORMATS}
    named = {name for names in (*DECIDED_BY.values(), *COMMUNICATION_DECIDED_BY.values()) for name in names}
    assert named <= known


def test_what_was_ruled_out_is_counted(llmc: Llmc, specs: None, trained: PlanEntry):
    assert trained.train is not None
    found = trained.train.found
    out = llmc("plan", "trained.yaml", "--top", 1).out
    told = sum(int(count.replace(",", "")) for count in re.findall(r"^ {4,9}([\d,]+)  \w", out, flags=re.MULTILINE))
    assert told == found.num_misfits + sum(found.broken.values()) + found.num_slower


# --why-not


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("trained", "tp=16"),
        ("trained", "tp=3"),
        ("trained", "pp=4,recompute=full"),
        ("trained", "dp_shard=16,zero=1,micro_batch=4"),
        ("fixed", "tp=8"),
        ("served", "tp=8"),
        ("served", "tp=1,max_batch=1"),
    ],
)
def test_why_not(llmc: Llmc, specs: None, name: str, question: str, snapshot):
    ran = llmc("plan", f"{name}.yaml", "--why-not", question)
    assert (ran.status, ran.err) == (0, "")
    answer = ran.out[ran.out.index("  why not ") : ran.out.index("  next: ")]
    assert max(map(len, answer.splitlines())) <= 100
    assert answer == snapshot


def test_why_not_prices_what_the_pinned_plan_has(trained: PlanEntry, llmc: Llmc, specs: None):
    assert trained.spec is not None
    assert trained.train is not None
    asked = plan_training(pin_training(trained.spec, {"tp": 8}), trained.train.work.graph)
    assert asked.plan is not None
    assert asked.plan.layout.tp == 8
    slower = asked.chosen.time.total / trained.train.chosen.time.total - 1
    ran = llmc("plan", "trained.yaml", "--why-not", "tp=8")
    assert f"+{slower:.0%})" in ran.out


def test_why_not_the_chosen(llmc: Llmc, specs: None, trained: PlanEntry):
    assert trained.train is not None
    tp = trained.train.chosen.layout.tp
    assert "the chosen layout has it" in llmc("plan", "trained.yaml", "--why-not", f"tp={tp}").out


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("tp", "`tp` is not a degree and its value"),
        ("tq=2", "`tq` is no part of a layout; known: "),
        ("tp=0", "`tp=0`: input should be greater than or equal to 1"),
        ("schedule=best", "`schedule=best`: input should be"),
        ("max_batch=4", "`max_batch=4`: this plan has dp_replicate"),
        (",", "no degree is named"),
    ],
)
def test_a_question_that_is_none_is_wrong_usage(llmc: Llmc, specs: None, question: str, told: str):
    ran = llmc("plan", "trained.yaml", "--why-not", question)
    assert ran.status == 2
    assert told in ran.err


# --shadow-prices


def test_a_better_machine_is_never_worse(trained: PlanEntry):
    assert trained.spec is not None
    assert trained.train is not None
    found = train_prices(trained.spec, trained.train)
    assert [price.change for price in found] == [
        "1 GiB more memory a device",
        "10 % more memory bandwidth",
        "10 % more NVLink4",
        "10 % more InfiniBand NDR",
        "10 % more compute",
    ]
    assert all(price.saved >= 0 for price in found)
    compute = found[-1].saved / trained.train.chosen.time.total
    assert 0 < compute <= 0.1  # 10 % more compute cannot save more than all of the compute's tenth


def test_memory_is_worth_something_where_it_binds(tmp_path: Path):
    """Recompute is what the last GiB saves."""
    path = tmp_path / "tight.yaml"
    path.write_text(
        TRAINED.replace("nodes: 2", "nodes: 1").replace("h100-sxm-80g", "{like: h100-sxm-80g, memory_gib: 13}")
    )
    entry = plan_file(path)
    assert entry.spec is not None
    assert entry.train is not None
    assert train_prices(entry.spec, entry.train)[0].saved > 0


def test_serving_is_priced_in_devices_or_time(tmp_path: Path):
    path = tmp_path / "served.yaml"
    path.write_text(SERVED)
    entry = plan_file(path)
    assert entry.spec is not None
    assert entry.serve is not None
    found = serve_prices(entry.spec, entry.serve)
    assert {price.unit for price in found} <= {"devices", "s a token"}
    assert all(price.saved >= 0 for price in found)


# options


def test_words_are_not_asked_for_in_json(llmc: Llmc, specs: None):
    for option in (("--top", "2"), ("--why-not", "tp=2"), ("--shadow-prices",)):
        assert llmc("plan", "tiny.yaml", "--json", *option).status == 2


def test_json_is_the_same_whatever_else_is_written(llmc: Llmc, specs: None):
    alone = llmc("plan", "tiny.yaml", "--json")
    with_files = llmc("plan", "tiny.yaml", "--json", "--html", "page.html", "--out", "plan.json")
    assert alone.out == with_files.out
    assert with_files.status == 0
    assert Path("page.html").read_text().startswith("<!doctype html>")
    assert json.loads(Path("plan.json").read_text())["name"] == "tiny"


@pytest.mark.parametrize("option", ["--html", "--out"])
def test_one_file_is_for_one_spec(llmc: Llmc, specs: None, option: str):
    ran = llmc("plan", "tiny.yaml", "served.yaml", option, "file")
    assert ran.status == 2
    assert "name one spec" in ran.err
    assert not Path("file").exists()


def test_a_file_that_cannot_be_written(llmc: Llmc, specs: None):
    ran = llmc("plan", "tiny.yaml", "--html", "nowhere/page.html")
    assert ran.status == 2
    assert "nowhere/page.html cannot be written" in ran.err


def test_a_spec_with_errors_writes_no_file(llmc: Llmc, specs: None):
    ran = llmc("plan", "tiny.yaml", "--set", "model.num_layer=3", "--html", "page.html")
    assert ran.status == 1
    assert not Path("page.html").exists()
