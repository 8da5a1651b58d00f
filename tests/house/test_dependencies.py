"""pyproject.toml declares what the package imports, and constraints.txt pins what pyproject.toml declares."""

import ast
import importlib.metadata
import re
import sys
import tomllib

import arrows
import pytest

PROJECT = tomllib.loads((arrows.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PART_OF = {"pydantic-core": "pydantic"}  # pydantic pins it exactly and documents its error type
PLANNING = ("spec", "compiler", "cli")


def names(requirements: list[str]) -> set[str]:
    """Normalised distribution names, our own extras left out."""
    found = {re.match(r"[A-Za-z0-9._-]+", line).group().lower().replace("_", "-") for line in requirements}  # type: ignore[union-attr]
    return found - {PROJECT["name"]}


CORE = names(PROJECT["dependencies"])
DECLARED = CORE | names([line for lines in PROJECT["optional-dependencies"].values() for line in lines])


def libraries(folder: str, *, also_lazy: bool) -> set[tuple[str, str]]:
    """(distribution, importing file) of every library that a folder's modules import."""
    providers = importlib.metadata.packages_distributions()
    found = set()
    for path in sorted((arrows.ROOT / folder).rglob("*.py")):
        shown = path.relative_to(arrows.ROOT)
        for item in arrows.imports_of(ast.parse(path.read_text(encoding="utf-8")), shown.parts[:-1]):
            top = item.parts[0] if item.parts else ""
            if item.is_ours or top in sys.stdlib_module_names or (item.is_lazy and not also_lazy):
                continue
            if path.with_name(f"{top}.py").exists():  # a script's neighbour, where the package is not installed
                continue
            distributions = {name.lower().replace("_", "-") for name in providers.get(top, [top])}
            distributions = {PART_OF.get(name, name) for name in distributions}
            found.add((min(distributions & DECLARED or distributions), shown.as_posix()))
    return found


@pytest.mark.parametrize("folder", arrows.MAY_IMPORT)
def test_every_imported_library_is_declared(folder: str):
    assert {(name, path) for name, path in libraries(folder, also_lazy=True) if name not in DECLARED} == set()


@pytest.mark.parametrize("folder", PLANNING)
def test_planning_needs_only_the_core_dependencies(folder: str):
    assert {(name, path) for name, path in libraries(folder, also_lazy=False) if name not in CORE} == set()


def test_every_declared_library_is_pinned():
    files = (
        "constraints.txt",
        "constraints-xla.txt",
        "constraints-npu.txt",
    )  # of environments that exclude one another
    lines = [line for file in files for line in (arrows.ROOT / file).read_text(encoding="utf-8").splitlines()]
    assert names([line for line in lines if "==" in line and not line.startswith("#")]) >= DECLARED


def test_torch_is_pinned_without_a_build():
    assert "torch==2.13.0" in (arrows.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
