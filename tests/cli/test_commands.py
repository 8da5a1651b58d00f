"""Each command: what it prints, what it writes, and with which status it ends."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.cli import faults, main
from llmc.cli.printing import print_diagnostics
from llmc.cli.starting import templates
from llmc.spec.codes import all_codes
from llmc.spec.diagnostics import diagnose
from llmc.spec.export import schema_text
from llmc.spec.load import load_spec

from .conftest import Ran

Llmc = Callable[..., Ran]

TINY = """\
name: tiny
model: {family: llama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 512, max_seq_len: 64}
hardware: {accelerator: cpu}
data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}
train: {objective: causal_lm, steps: 10, seq_len: 32, global_batch: 4, precision: fp32}
serve: {max_seq_len: 64}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small spec in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return Path("tiny.yaml")


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["plan", "--help"], ["run", "train", "--help"]])
def test_help_ends_well(llmc: Llmc, args: list[str]):
    ran = llmc(*args)
    assert ran.status == 0
    assert "Usage: llmc" in ran.out


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["plan"],
        ["frobnicate"],
        ["plan", "--frobnicate", "x.yaml"],
        ["build", "a", "b"],
        ["run"],
        ["init", "--template", "no"],
    ],
)
def test_wrong_usage_is_2(llmc: Llmc, args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert llmc(*args).status == 2


@pytest.mark.parametrize("args", [["run", "eval", "x"]])
def test_what_is_not_there_yet_says_so(llmc: Llmc, args: list[str]):
    ran = llmc(*args)
    assert ran.status == 2
    assert "not part of this version" in ran.err


# init, schema


@pytest.mark.parametrize("name", templates())
def test_init_writes_a_spec_that_plans(llmc: Llmc, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    ran = llmc("init", "--template", name)
    assert ran.status == 0
    assert load_spec("spec.yaml")[0].model.hidden_size > 0
    modeline, first = Path("spec.yaml").read_text().splitlines()[:2]
    assert modeline == "# yaml-language-server: $schema=.llmc/llmc.schema.json"
    assert first.startswith("# ")
    assert Path(".llmc/llmc.schema.json").read_text() == schema_text()
    assert json.loads(Path(".vscode/settings.json").read_text())["yaml.schemas"][".llmc/llmc.schema.json"]
    assert llmc("plan", "spec.yaml").status == 0


def test_init_keeps_what_is_there(llmc: Llmc, tmp_path: Path):
    (tmp_path / ".vscode").mkdir()
    (tmp_path / ".vscode/settings.json").write_text('{"editor.tabSize": 2, "yaml.schemas": {"a.json": "a.yaml"}}')
    (tmp_path / "spec.yaml").write_text("mine")
    assert llmc("init", tmp_path).status == 2
    assert (tmp_path / "spec.yaml").read_text() == "mine"
    assert llmc("init", tmp_path, "--force").status == 0
    settings = json.loads((tmp_path / ".vscode/settings.json").read_text())
    assert settings["editor.tabSize"] == 2
    assert set(settings["yaml.schemas"]) == {"a.json", ".llmc/llmc.schema.json"}
    assert llmc("init", tmp_path, "--force").status == 0
    assert json.loads((tmp_path / ".vscode/settings.json").read_text()) == settings


def test_init_leaves_settings_with_comments_alone(llmc: Llmc, tmp_path: Path):
    (tmp_path / ".vscode").mkdir()
    (tmp_path / ".vscode/settings.json").write_text("// mine\n{}")
    assert llmc("init", tmp_path).status == 0
    assert (tmp_path / ".vscode/settings.json").read_text() == "// mine\n{}"


def test_the_demo_starts_from_its_example(root: Path):
    example = (root / "examples/tiny-code.yaml").read_text()
    assert example.partition("\n")[2] == templates()["tiny-code"]


def test_schema_prints_the_schema(llmc: Llmc):
    assert llmc("schema").out == schema_text()


# explain


@pytest.mark.parametrize("id", all_codes())
def test_every_code_is_explained(llmc: Llmc, id: str):
    code = all_codes()[id]
    ran = llmc("explain", id)
    assert ran.status == 0
    assert code.meaning() in ran.out
    assert code.stage != "load" or f"{code.severity}[{id} {code.slug}]" in ran.out


def test_explain_takes_slugs_and_the_codes_of_json(llmc: Llmc):
    assert llmc("explain", "unknown-field").out == llmc("explain", "LLMC-S104").out == llmc("explain", "s104").out


def test_explain_without_a_code_lists_all(llmc: Llmc):
    listed = re.findall(r"^  ([A-Z]\d{3})  ", llmc("explain").out, flags=re.MULTILINE)
    assert listed == list(all_codes())


def test_explain_of_an_unknown_code_names_the_closest(llmc: Llmc):
    ran = llmc("explain", "unknown-feild")
    assert ran.status == 2
    assert "`unknown-field`" in ran.err


# plan, build


def test_plan_prints_the_plan(llmc: Llmc, tiny: Path):
    ran = llmc("plan", tiny)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("tiny ")


def test_plan_of_a_wrong_spec_prints_diagnostics_and_ends_with_1(llmc: Llmc, tiny: Path):
    ran = llmc("plan", tiny, "--set", "model.num_layer=3")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("error[S104 unknown-field]: `num_layer` is not a field of `model`\n --> --set:1:7\n")
    assert "help: did you mean" not in ran.err  # num_layers is taken
    assert "`llmc explain S104` tells more." in ran.err


def test_plan_of_what_does_not_fit_ends_with_3(llmc: Llmc, tiny: Path):
    assert llmc("plan", tiny, "--set", "model={preset: llama-3.1-405b}").status == 3


def test_one_wrong_spec_does_not_stop_the_others(llmc: Llmc, tiny: Path):
    Path("wrong.yaml").write_text("- 1\n")
    ran = llmc("plan", "--json", "wrong.yaml", tiny, "missing.yaml")
    assert ran.status == 1
    wrong, good, missing = json.loads(ran.out)
    assert [each["code"] for each in wrong["diagnostics"]] == ["LLMC-S110"]
    assert (good["name"], good["diagnostics"]) == ("tiny", [])
    assert good["train"]["fits"]
    assert [each["code"] for each in missing["diagnostics"]] == ["LLMC-S102"]


@pytest.mark.parametrize("key", ["model.attention.global_every", "hardware.inter_node_gb_s"])
def test_a_key_without_effect_is_an_error(llmc: Llmc, tiny: Path, key: str):
    """One that another key makes void, and one that no pass reads for this machine."""
    ran = llmc("plan", tiny, "--set", f"{key}=2")
    assert ran.status == 1
    assert f"error[S401 unread-key]: `{key}` has no effect in this spec: " in ran.err


def test_build_writes_compares_and_keeps_edits(llmc: Llmc, tiny: Path):
    assert llmc("build", tiny, "--check").status == 1
    assert not Path("build").exists()
    assert llmc("build", tiny).status == 0
    assert Path("build/tiny/model.py").exists()
    assert llmc("build", tiny, "--check").status == 0

    model = Path("build/tiny/model.py")
    model.write_text(model.read_text() + "# mine\n")
    ran = llmc("build", tiny, "--set", "model.num_layers=3")
    assert ran.status == 2
    assert "edited by hand: build/tiny/model.py" in ran.err
    assert model.read_text().endswith("# mine\n")
    assert llmc("build", tiny, "--force").status == 0
    assert llmc("build", tiny, "--check").status == 0


def test_build_goes_where_it_is_told(llmc: Llmc, tiny: Path):
    assert llmc("build", tiny, "-o", "elsewhere").status == 0
    assert Path("elsewhere/manifest.json").exists()
    assert not Path("build").exists()


def test_build_of_a_wrong_spec_writes_nothing(llmc: Llmc, tiny: Path):
    assert llmc("build", tiny, "--set", "train.precision=bf17").status == 1
    assert not Path("build").exists()


# run


def test_run_of_a_folder_that_llmc_did_not_build(llmc: Llmc, tmp_path: Path):
    ran = llmc("run", "train", tmp_path)
    assert ran.status == 2
    assert "has no manifest.json" in ran.err


def test_run_of_a_program_that_the_spec_does_not_have(llmc: Llmc, tiny: Path):
    tiny.write_text(TINY.replace("serve: {max_seq_len: 64}\n", ""))
    ran = llmc("run", "serve", tiny)
    assert ran.status == 2
    assert "the spec has no `serve` section" in ran.err


def test_run_hands_options_on_and_ends_as_the_program_does(tiny: Path):
    """In a process of its own, which the program takes over."""
    command = [sys.executable, "-m", "llmc.cli.main", "run", "train", str(tiny), "--no-such-flag"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "train.py: error: unrecognized arguments: --no-such-flag" in ran.stderr


def test_import_of_nothing(llmc: Llmc, tmp_path: Path):
    assert llmc("import", tmp_path / "missing").status == 2
    ran = llmc("import", tmp_path, "-o", tmp_path / "out")
    assert ran.status == 1
    assert "error[S207 hf-config-not-read]" in ran.err


# terminals


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_unless_it_wants_none(monkeypatch: pytest.MonkeyPatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    fault = diagnose("S102", "there is no file x")
    coloured = Terminal()
    print_diagnostics([fault], file=coloured)
    assert "\x1b[1;31merror[S102 unreadable-file]\x1b[0m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain, piped = Terminal(), io.StringIO()
    print_diagnostics([fault], file=plain)
    print_diagnostics([fault], file=piped)
    assert plain.getvalue() == piped.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_a_terminal_without_unicode_ends_no_command(tiny: Path):
    tiny.write_text(TINY.replace("num_layers: 2", "numero_di_strati_più: 2"))
    command = [sys.executable, "-m", "llmc.cli.main", "plan", str(tiny)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 1
    assert "`numero_di_strati_pi?` is not a field of `model`" in ran.stderr


# faults of ours


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> int:
        raise ZeroDivisionError("planner")

    monkeypatch.setattr("llmc.cli.compiling.plan_specs", fail)


@pytest.mark.usefixtures("broken")
def test_a_fault_of_ours_is_70_with_a_request_to_report_it(llmc: Llmc, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LLMC_DEBUG", raising=False)
    ran = llmc("plan", tiny)
    assert ran.status == faults.OUR_FAULT == 70
    assert "ZeroDivisionError: planner" in ran.err
    assert "Please report it" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.usefixtures("broken")
def test_the_traceback_of_a_fault_of_ours_is_there_for_the_asking(
    llmc: Llmc, tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LLMC_DEBUG", "1")
    ran = llmc("plan", tiny)
    assert ran.status == 70
    assert "Traceback (most recent call last)" in ran.err


def test_doctor_tells_versions_and_what_works(llmc: Llmc):
    ran = llmc("doctor")
    assert ran.status == 0
    assert "llmc-compiler" in ran.out
    assert "what works here" in ran.out


def test_main_is_the_entry_point():
    assert main.main(["--help"]) == 0
