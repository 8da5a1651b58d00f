"""Imports go one way. Reads every module of the package (nothing is executed) and lists the imports that do not.

    cli ──▶ compiler ──▶ spec          runtimes (imported by generated programs, imports neither)

`make arrows` runs it; the rules are the two tables below.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "spec": frozenset({"spec"}),
    "compiler": frozenset({"compiler", "spec"}),
    "runtimes": frozenset({"runtimes"}),
    "cli": frozenset({"cli", "compiler", "runtimes", "spec"}),
    "templates": frozenset(),  # text only
    "schema": frozenset(),  # text only
}
ALSO = {  # single modules beyond that; they import no framework
    "compiler": frozenset(
        {
            ("runtimes", "serving", "simulation"),
            ("runtimes", "serving", "arrivals"),
            ("runtimes", "serving", "metrics"),  # the table that dashboards and rules are made from
        }
    ),
}

# Planning answers in a moment because these are never imported on its way.
HEAVY = frozenset({"jax", "tensorflow", "torch", "torch_npu", "torch_xla", "transformers", "triton"})
MAY_IMPORT_HEAVY = {  # the longest path that a module's path starts with decides
    "spec": "never",
    "compiler": "never",
    "cli": "inside functions",
    "runtimes": "anywhere",
    "runtimes/common": "inside functions",  # tested, and simulated on a virtual clock, without a framework
    "runtimes/data": "inside functions",
    "runtimes/serving": "inside functions",
    "runtimes/serving/sampler.py": "anywhere",
}


@dataclass(frozen=True)
class Import:
    """One imported module: `parts` from the repository root for ours, from the top of the distribution for others."""

    line: int
    parts: tuple[str, ...]
    is_ours: bool
    is_absolute: bool
    is_lazy: bool  # inside a function, so it runs when that is called


@dataclass(frozen=True, order=True)
class Fault:
    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def imports_of(tree: ast.Module, package: tuple[str, ...]) -> Iterator[Import]:
    """All imports of a module that lies in `package`, e.g. ("compiler", "ir") for compiler/ir/graph.py."""
    lazy = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        for parts, level in _targets(node):
            if level > len(package) + 1:
                yield Import(node.lineno, ("..",), is_ours=True, is_absolute=False, is_lazy=node in lazy)
                continue
            is_absolute = level == 0 and parts[0] == "llmc"
            if level:
                parts = (*package[: len(package) - level + 1], *parts)
            elif is_absolute:
                parts = parts[1:]
            yield Import(node.lineno, parts, level > 0 or is_absolute, is_absolute, node in lazy)


def _targets(node: ast.AST) -> Iterator[tuple[tuple[str, ...], int]]:
    """(dotted name, number of leading dots) of each module that a statement or call imports."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield tuple(alias.name.split(".")), 0
    elif isinstance(node, ast.ImportFrom):
        base = tuple(node.module.split(".")) if node.module else ()
        for alias in node.names:  # `from .. import spec` imports a folder of ours, so the name counts too
            yield (*base, alias.name), node.level
    elif isinstance(node, ast.Call) and node.args and _name_of(node.func) in ("import_module", "__import__"):
        target = node.args[0]
        if isinstance(target, ast.Constant) and isinstance(target.value, str):
            yield tuple(target.value.split(".")), 0


def _name_of(function: ast.expr) -> str | None:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def faults_of(path: Path, root: Path) -> Iterator[Fault]:
    """The imports of one module that go the wrong way."""
    relative = path.relative_to(root)
    folder, shown = relative.parts[0], relative.as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=shown)
    if not MAY_IMPORT[folder] and any(not _is_docstring(node) for node in tree.body):
        yield Fault(shown, 1, f"{folder}/ is text only; code belongs in compiler/ or runtimes/")
    for found in imports_of(tree, relative.parts[:-1]):
        message = _message(found, shown)
        if message:
            yield Fault(shown, found.line, message)


def _message(found: Import, path: str) -> str | None:
    folder = path.partition("/")[0]
    if not found.is_ours:
        rule = _heavy_rule(path)
        if found.parts[0] not in HEAVY or rule == "anywhere" or (rule == "inside functions" and found.is_lazy):
            return None
        return f"{folder}/ imports {found.parts[0]}: allowed here {rule}, see MAY_IMPORT_HEAVY in tests/house/arrows.py"
    if found.is_absolute:
        return f"import of llmc.{'.'.join(found.parts)}: inside the package imports are relative"
    if not found.parts or found.parts == ("..",):
        return "a relative import that leaves the package"
    target = found.parts[0]
    if target in MAY_IMPORT[folder] or found.parts[:3] in ALSO.get(folder, ()):
        return None
    allowed = ", ".join(sorted(MAY_IMPORT[folder] - {folder})) or "nothing of ours"
    return f"{folder}/ imports {target}/, but it may import only: {allowed}"


def _heavy_rule(path: str) -> str:
    above = [start for start in MAY_IMPORT_HEAVY if path == start or path.startswith(f"{start}/")]
    return MAY_IMPORT_HEAVY[max(above, key=len)] if above else "never"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def all_faults(root: Path) -> list[Fault]:
    """The faults of every module below `root`'s six folders, in order of path and line."""
    modules = [path for folder in MAY_IMPORT for path in (root / folder).rglob("*.py")]
    return sorted({fault for path in modules for fault in faults_of(path, root)})


if __name__ == "__main__":
    faults = all_faults(ROOT)
    print("\n".join(map(str, faults)) or "imports go one way")
    sys.exit(1 if faults else 0)
