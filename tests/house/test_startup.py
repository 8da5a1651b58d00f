"""The commands that answer in a moment import nothing heavy. How quick they are is measured by benchmarks/startup.py."""

import json
import subprocess
import sys
from pathlib import Path

import arrows
import pytest

RUN = """
import json, sys
from llmc.cli.main import main
status = main(sys.argv[1:])
print(json.dumps({"status": status, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def run_command(root: Path, *arguments: str) -> tuple[int, set[str]]:
    """Exit status of a command and the top-level modules that were imported when it ended."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=root, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["status"], set(answer["modules"])


def test_help_imports_only_what_reads_the_command_line(root: Path):
    status, modules = run_command(root, "--help")
    assert status == 0
    assert modules & {*arrows.HEAVY, "numpy", "networkx", "pydantic", "rich", "jinja2"} == set()


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_plan_imports_no_framework(root: Path, form: list[str]):
    status, modules = run_command(root, "plan", "examples/tiny-code.yaml", *form)
    assert status == 0
    assert modules & arrows.HEAVY == set()


def test_the_installed_command_runs():
    llmc = Path(sys.executable).with_name("llmc")
    done = subprocess.run([llmc, "--help"], text=True, capture_output=True)
    assert done.returncode == 0
    assert "plan" in done.stdout
