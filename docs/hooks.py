"""Pages that are written by the code they describe: the spec language from its schema, the errors from their catalogue.

MkDocs calls `on_files` while it collects the site; the pages exist in the built site only, so they cannot go stale. The same
holds for the output of commands: `on_page_markdown` runs each block of the kind `llmc`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from llmc.runtimes.serving.metrics import METRICS, ROUTER_METRICS
from llmc.spec.codes import STAGES, codes_of
from llmc.spec.codes.entry import Code

ROOT = Path(__file__).resolve().parents[1]
Json = dict[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    schema = json.loads((ROOT / "schema/llmc.schema.json").read_text(encoding="utf-8"))
    files.append(File.generated(config, "reference/language.md", content=language_page(schema)))
    catalogue = {meaning: list(codes_of(letter).values()) for letter, (meaning, _) in STAGES.items()}
    files.append(File.generated(config, "reference/errors.md", content=errors_page(catalogue)))
    files.append(File.generated(config, "reference/metrics.md", content=metrics_page()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    return re.sub(r"^```llmc\n\$ llmc (.*)\n```$", lambda found: _ran(found[1]), markdown, flags=re.MULTILINE)


def _ran(command: str) -> str:
    """A block with a command and what it prints, run in the root of the repository."""
    from llmc.cli.main import main

    printed = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(printed):
        status = main(shlex.split(command))
    if status:
        raise ValueError(f"`llmc {command}` of a page ended with {status}")
    return f"```text\n$ llmc {command}\n{printed.getvalue().rstrip()}\n```"


def language_page(schema: Json) -> str:
    """One heading a section and a kind, one table row a field."""
    definitions = schema.get("$defs", {})
    lines = [
        "# The spec language, field by field",
        "",
        "Written from `schema/llmc.schema.json`, which editors and `llmc` itself read. *Required* fields must be given;",
        "the others have the default shown. A count may be written `4k`, `8M`, `1B` or `15T`.",
        "",
        *_table(schema),
    ]
    for name in _reachable(schema, definitions):
        definition = definitions[name]
        lines += ["", f"## {name}", "", definition.get("description", ""), "", *_table(definition)]
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """A row a metric, from the table that /metrics is built of."""
    lines = [
        "# The server's metrics",
        "",
        "What `/metrics` of a generated server exposes, written from `runtimes/serving/metrics.py`, from which the dashboard, the",
        "alert rules and the autoscalers of [launch files](../deploy.md) are made too. A request is one prompt and one answer.",
        "Those of `llmc_router_` are of the router before several replicas.",
        "",
        "| metric | kind | unit | labels | meaning |",
        "|---|---|---|---|---|",
    ]
    for metric in (*METRICS, *ROUTER_METRICS):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |")
    lines += ["", "Buckets of the histograms:", ""]
    lines += [
        f"- `{each.name}`: {', '.join(f'{bound:g}' for bound in each.buckets)}" for each in METRICS if each.buckets
    ]
    lines += ["", "A server whose spec has objectives has a bucket at each of them besides."]
    return "\n".join(lines) + "\n"


def errors_page(catalogue: dict[str, list[type[Code]]]) -> str:
    """What each code means, with a spec that yields it and the same spec mended, by stage."""
    lines = [
        "# Errors and warnings",
        "",
        "What `llmc explain CODE` prints. A code keeps its number and its name for good.",
    ]
    for stage, codes in catalogue.items():
        if codes:
            lines += ["", f"## In {stage}"]
        for code in codes:
            lines += ["", f"### {code.id} {code.slug}", "", code.meaning()]
            lines += ["", code.explanation()] if code.explanation() else []
            lines += _example("A spec that yields it", code.failing_spec(), code.failing_set)
            lines += _example("The same, mended", code.fixed_spec(), code.fixed_set)
    return "\n".join(lines) + "\n"


def _example(title: str, text: str, overrides: tuple[str, ...]) -> list[str]:
    options = "".join(f" `--set {override}`" for override in overrides)
    return ["", f"{title}{', with' + options if options else ''}:", "", "```yaml", text.rstrip(), "```"]


def _table(definition: Json) -> list[str]:
    required = definition.get("required", [])
    rows = ["| field | value | default | meaning |", "|---|---|---|---|"]
    for name, field in definition.get("properties", {}).items():
        cells = (f"`{name}`", _with_unit(field), _default(field, name in required), field.get("description", ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _with_unit(field: Json) -> str:
    unit = next((part["x-unit"] for part in _parts(field) if "x-unit" in part), None)
    return f"{value_text(field)}, in {unit}" if unit and unit != "count" else value_text(field)


def _default(field: Json, is_required: bool) -> str:
    if is_required:
        return "*required*"
    if field.get("default") is None:
        return ""
    value = field["default"]
    if isinstance(value, dict):  # a section's own defaults are told in its table
        return ""
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def value_text(field: Json) -> str:
    """What may be written for a field, in words: a kind's name links to its table."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"] if value is not None)
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        return _options_text([option for option in options if option.get("type") != "null"])
    if field.get("type") == "array":
        items = field.get("items")
        return f"list of {value_text(items)}" if items else "list"
    return {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}.get(
        field.get("type", ""), "mapping"
    )


def _options_text(options: list[Json]) -> str:
    if [option.get("type") for option in options] == ["integer", "string"] and "pattern" in options[1]:
        return "count"
    return " or ".join(dict.fromkeys(value_text(option) for option in options))


def _parts(field: Json) -> Iterator[Json]:
    """A schema and the alternatives inside it, without following references."""
    yield field
    for option in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _parts(option)


def _reachable(schema: Json, definitions: Json) -> list[str]:
    """Names of the kinds that fields refer to, in the order in which a reader meets them."""
    found: dict[str, None] = {}

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in found:
                found[name] = None
                visit(definitions[name].get("properties", {}))
            for key, value in node.items():
                if key not in ("$defs", "default", "discriminator", "examples"):
                    visit(value)
        elif isinstance(node, list):
            for item in node:
                visit(item)

    visit(schema.get("properties", {}))
    return list(found)
