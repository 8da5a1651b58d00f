"""One self-contained page of a plan: no network, no script, readable as text and as pictures."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from ..planner.figures import big
from .sections import Page, Section, Words
from .shapes import number

if TYPE_CHECKING:
    from ..pipeline import PlanEntry

TEMPLATES = Path(__file__).resolve().parents[2] / "templates/report"


def page_of(entry: PlanEntry, *, file: str) -> str:
    """HTML of a plan that has a training or a serving half."""
    return _environment().get_template("page.html.j2").render(page=view_of(entry, file=file))


def view_of(entry: PlanEntry, *, file: str) -> Page:
    """What the template is given."""
    assert entry.spec is not None
    sections: list[Section] = []
    if entry.train is not None and entry.train.plan is not None:
        from .train_page import train_sections

        sections += train_sections(entry.train, entry.spec)
    if entry.serve is not None and entry.serve.plan is not None:
        from .serve_page import serve_sections

        sections += serve_sections(entry.serve, entry.spec)
    sections.append(Section("about", "About these figures", (Words(ABOUT),)))
    told = tuple((f"{each.severity} {each.code}", each.message) for each in entry.diagnostics)
    return Page(entry.plan.name, _subtitle(entry), file, tuple(sections), told, _version())


ABOUT = (
    "Every figure is a prediction of llmc's cost model from this spec; nothing was run. Constants are measured, fitted on "
    "published measurements, or assumed; `llmc plan --top 3` names them term by term, `llmc backtest` scores the model."
)


def _subtitle(entry: PlanEntry) -> str:
    machine = entry.train.work.machine if entry.train else entry.serve.machine if entry.serve else None
    size = f"{big(entry.plan.model.parameters)} parameters" if entry.plan.model is not None else ""
    if machine is None:
        return size
    where = machine.accelerator if machine.num_devices == 1 else f"{machine.num_devices:,} × {machine.accelerator}"
    return f"{size} on {where}"


def _version() -> str:
    try:
        return version("llmc-compiler")
    except PackageNotFoundError:
        return "from a checkout"


@cache
def _environment() -> jinja2.Environment:
    """Everything that is printed is escaped: names come from a spec, which is untrusted text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["n"] = number
    return environment
