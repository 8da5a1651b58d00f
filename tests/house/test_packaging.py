"""The repository root is the package: a wheel carries all of it, an editable install and type checkers follow it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDERS = ("cli", "compiler", "runtimes", "schema", "spec", "templates")
OFFLINE = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, env=OFFLINE, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would commit: a build writes beside the sources, and other tests read them."""
    copy = tmp_path_factory.mktemp("tree")
    listed = run("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (root / name).is_file() and not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without network: setuptools is there because torch needs it."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-q", "-w", out, tree)
    return zipfile.ZipFile(next(out.glob("llmc_compiler-*.whl")))


def test_the_wheel_carries_every_file_of_the_package_and_nothing_else(tree: Path, wheel: zipfile.ZipFile):
    files = {
        path.relative_to(tree).as_posix() for folder in FOLDERS for path in (tree / folder).rglob("*") if path.is_file()
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {f"llmc/{name}" for name in files}


def test_the_wheel_has_the_command_and_the_licence(wheel: zipfile.ZipFile):
    by_name = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "llmc = llmc.cli.main:start" in wheel.read(by_name["entry_points.txt"]).decode()
    assert "Apache License" in wheel.read(by_name["LICENSE"]).decode()


def test_the_unpacked_wheel_imports_and_finds_its_data(wheel: zipfile.ZipFile, tmp_path: Path):
    wheel.extractall(tmp_path)
    where = run(
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, sys.argv[1]); import llmc.spec.document as d; print(d.__file__)",
        tmp_path,
        cwd=tmp_path,
    )
    assert Path(where.strip()) == tmp_path / "llmc/spec/document.py"


def test_an_editable_install_finds_subpackages_that_come_later(tree: Path, tmp_path: Path):
    # The editable wheel is unpacked by hand: pip would take the environment's own llmc away first.
    build = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=tree)
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path / "site")
    later = tree / "compiler" / "later" / "deep"
    later.mkdir(parents=True)
    (tree / "spec" / "later.py").write_text("VALUE = 42\n")
    (later / "part.py").write_text("from ....spec.later import VALUE\n")
    code = (
        "import site, sys; site.addsitedir(sys.argv[1]); from llmc.compiler.later.deep.part import VALUE; print(VALUE)"
    )
    bare_python = getattr(sys, "_base_executable", sys.executable)  # without the environment's own editable install
    assert run(bare_python, "-I", "-S", "-c", code, tmp_path / "site", cwd=tmp_path) == "42\n"


def errors_of(project: Path) -> list[tuple[str, str]]:
    """(file name, rule) of each error that the type checker finds in a project folder."""
    checker = Path(sys.executable).parent / "basedpyright"
    done = subprocess.run([checker, "--outputjson", "-p", project], text=True, capture_output=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [(Path(entry["file"]).name, entry["rule"]) for entry in found if entry["severity"] == "error"]


def test_the_type_checker_follows_relative_imports(tree: Path):
    (tree / "spec" / "typed.py").write_text("def count() -> int:\n    return 1\n")
    (tree / "compiler" / "uses.py").write_text("from ..spec.typed import count\n\nname: str = count()\n")
    (tree / "pyrightconfig.json").write_text('{"include": ["compiler/uses.py"], "typeCheckingMode": "standard"}')
    assert errors_of(tree) == [("uses.py", "reportAssignmentType")]


def test_the_type_checker_follows_generated_imports(import_root: Path, tmp_path: Path):
    text = "from llmc.spec.units import parse_nothing\nfrom llmc.spec import units\n\nname: int = units.__name__\n"
    (tmp_path / "program.py").write_text(text)
    config = {"include": ["program.py"], "typeCheckingMode": "standard", "extraPaths": [str(import_root)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    assert errors_of(tmp_path) == [("program.py", "reportAttributeAccessIssue"), ("program.py", "reportAssignmentType")]
