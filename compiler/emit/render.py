"""Templates to text. Undefined names and a printed None stop the build; every spec string goes through a filter.

`{% cause "model.norm" %} … {% endcause %}` around lines of a template says which key of the spec made them. The tags
leave nothing in the text; `render` returns the line ranges beside it, for the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension

from .layout import fit, nested
from .literals import literal, prose, shell, unit_argument, unit_value, yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2.parser import Parser

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
_BEGIN, _END = "\x02", "\x03"
"""Control characters that mark a caused block inside rendered text; `literal` and `prose` let none through."""


@dataclass(frozen=True)
class Block:
    """Lines `first` to `last`, counted from 1 and both included, that exist because of `key` of the spec."""

    first: int
    last: int
    key: str


@dataclass(frozen=True)
class Rendered:
    """The text of a file and the causes of its blocks, in the order of their first lines."""

    text: str
    blocks: tuple[Block, ...]


class _Cause(Extension):
    """The tag `{% cause "key" %}`."""

    tags = {"cause"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        key = parser.parse_expression()
        body = parser.parse_statements(("name:endcause",), drop_needle=True)
        begin = nodes.Output([nodes.TemplateData(_BEGIN), key, nodes.TemplateData("\n")], lineno=line)
        end = nodes.Output([nodes.TemplateData(_END + "\n")], lineno=line)
        return [begin, *body, end]


def _finalize(value: Any) -> Any:
    if value is None:
        raise ValueError("a template printed None: its view has no value there, or it lacks an `if`")
    if isinstance(value, float):
        return repr(value)
    return value


@cache
def environment() -> jinja2.Environment:
    """The one Jinja environment: strict, with tags at the left margin that leave no trace."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # no HTML; the filters below are the escapes
        finalize=_finalize,
        extensions=[_Cause],
    )
    env.filters["literal"] = literal
    env.filters["prose"] = prose
    env.filters["shell"] = shell
    env.filters["yaml"] = yaml
    env.filters["unit_value"] = unit_value
    env.filters["unit_argument"] = unit_argument
    env.filters["fit"] = fit
    env.filters["nested"] = nested
    return env


def render(template: str, names: Mapping[str, Any]) -> Rendered:
    """Render `templates/<template>` with the given names."""
    return _take_marks(environment().get_template(template).render(names))


def _take_marks(marked: str) -> Rendered:
    """Remove the marks of caused blocks from the text and note the lines that they enclosed."""
    lines: list[str] = []
    open_blocks: list[tuple[int, str]] = []
    blocks: list[Block] = []
    for line in marked.splitlines(keepends=True):
        if line.startswith(_BEGIN):
            open_blocks.append((len(lines) + 1, line[1:].rstrip("\n")))
        elif line.startswith(_END):
            first, key = open_blocks.pop()
            if len(lines) >= first:
                blocks.append(Block(first=first, last=len(lines), key=key))
        else:
            lines.append(line)
    return Rendered(text="".join(lines), blocks=tuple(sorted(blocks, key=lambda b: (b.first, -b.last, b.key))))
