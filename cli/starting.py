"""`llmc init` and `llmc schema`: a spec to start from, and what an editor needs to help with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..spec.suggest import by_closeness, listing
from .faults import FINE, SPEC_HAS_ERRORS, WRONG_USAGE

SCHEMA = ".llmc/llmc.schema.json"
"""Where a project keeps its copy of the schema: an editor then needs neither the network nor the place of llmc."""

MODELINE = f"# yaml-language-server: $schema={SCHEMA}\n"


def templates() -> dict[str, str]:
    """Name -> text of the specs that a project can start from."""
    found = sorted(Path(__file__).with_name("specs").glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8") for path in found}


def init_folder(folder: Path, *, template: str, force: bool) -> int:
    known = templates()
    if template == "list":
        for name, text in known.items():
            about = text.splitlines()[0].removeprefix("# ")
            print(f"{name:<12} {about}")
        return FINE
    if template not in known:
        print(f"llmc init: no template `{template}`; known: {listing(by_closeness(template, known))}", file=sys.stderr)
        return WRONG_USAGE
    spec = folder / "spec.yaml"
    if spec.exists() and not force:
        print(f"llmc init: {spec} exists; --force overwrites it", file=sys.stderr)
        return WRONG_USAGE
    folder.mkdir(parents=True, exist_ok=True)
    _write(spec, MODELINE + known[template])
    _write(folder / SCHEMA, schema_text())
    _add_to_json(folder / ".vscode/settings.json", {"yaml.schemas": {SCHEMA: ["spec.yaml", "*.llmc.yaml"]}})
    _add_to_json(folder / ".vscode/extensions.json", {"recommendations": ["redhat.vscode-yaml"]})
    print(f"next: llmc plan {spec}")
    return FINE


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


def _add_to_json(path: Path, settings: dict[str, object]) -> None:
    """Settings that are there stay; a file that is not plain JSON (comments) is left alone."""
    present: object = {}
    if path.exists():
        try:
            present = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            print(f"left {path} as it is (not plain JSON); add {json.dumps(settings)}")
            return
    _write(path, json.dumps(_merged(present, settings), indent=2) + "\n")


def _merged(present: object, added: object) -> object:
    if isinstance(present, dict) and isinstance(added, dict):
        return {**present, **{key: _merged(present.get(key), value) for key, value in added.items()}}
    if isinstance(present, list) and isinstance(added, list):
        return [*present, *(item for item in added if item not in present)]
    return added


def schema_text() -> str:
    """The schema as it was shipped, which is quicker than to write it anew; a test keeps it up to date."""
    return (Path(__file__).parents[1] / "schema/llmc.schema.json").read_text(encoding="utf-8")


def print_schema() -> int:
    print(schema_text(), end="")
    return FINE


def write_schemas() -> int:
    """Rewrite the committed schemas, of specs and of plans, from the models."""
    from ..compiler.planner.plan import PLAN_SCHEMA_FILE, plan_schema_text
    from ..spec.export import schema_path
    from ..spec.export import schema_text as fresh

    path = schema_path()
    if not path.parent.is_dir():
        print(f"llmc schema: {path.parent} is not there", file=sys.stderr)
        return SPEC_HAS_ERRORS
    _write(path, fresh())
    _write(path.with_name(PLAN_SCHEMA_FILE), plan_schema_text())
    return FINE
