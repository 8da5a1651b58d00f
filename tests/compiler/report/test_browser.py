"""Pages in a real browser: nothing complains, nothing is fetched, every chart is drawn with all of its marks inside its frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import CHROMIUM, Opened, chromium, open_page

from llmc.compiler.pipeline import plan_file
from llmc.compiler.report.page import page_of, view_of
from llmc.compiler.report.shapes import Chart

from .specs import PIPELINE, SEARCHED, SERVED

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright", reason="playwright is not installed (make setup)")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not unpacked (make node)")

SPECS = {"pipeline": PIPELINE, "searched": SEARCHED, "served": SERVED}
TRAINING = {"memory", "time", "timeline", "mesh", "roofline", "pareto"}
SERVING = {
    "serve-memory",
    "serve-latency",
    "serve-request",
    "serve-time",
    "serve-mesh",
    "serve-roofline",
    "serve-pareto",
}

MEASURE = """
() => [...document.querySelectorAll('svg')].map(svg => {
  const frame = svg.getBoundingClientRect(), box = svg.viewBox.baseVal;
  const shapes = [...svg.querySelectorAll('rect, circle, path, text')];
  const attributes = shapes.flatMap(shape => [...shape.attributes].map(each => each.value));
  const marks = [...svg.querySelectorAll('.mark')];
  const outside = shapes.filter(shape => {
    const b = shape.getBBox();
    return b.x < -0.5 || b.y < -0.5 || b.x + b.width > box.width + 0.5 || b.y + b.height > box.height + 0.5;
  });
  const unpainted = marks.filter(mark => {
    const style = getComputedStyle(mark);
    return style.fill === 'none' || style.fill === 'rgb(0, 0, 0)' || style.visibility !== 'visible';
  });
  const texts = [...svg.querySelectorAll('text')].filter(text => text.getBBox().width === 0);
  return {
    id: svg.id, width: frame.width, height: frame.height, marks: marks.length, shapes: shapes.length,
    wrong: attributes.filter(value => /NaN|Infinity|undefined|None/.test(value)),
    outside: outside.map(shape => shape.outerHTML), unpainted: unpainted.length,
    empty: texts.length, untitled: marks.filter(mark => !mark.querySelector('title')).length,
  };
})
"""
OVERLAPS = """
() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text.value, text.tick')].map(text => [text.textContent, text.getBBox()]);
  return texts.flatMap(([one, a], index) => texts.slice(index + 1).filter(([, b]) =>
    a.x + 1 < b.x + b.width && b.x + 1 < a.x + a.width && a.y + 3 < b.y + b.height && b.y + 3 < a.y + a.height
  ).map(([other]) => `${svg.id}: ${one} on ${other}`));
})
"""


@dataclass(frozen=True)
class Drawn:
    opened: Opened
    path: Path
    charts: dict[str, Chart]
    measured: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module", params=list(SPECS))
def drawn(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Drawn]:
    folder = tmp_path_factory.mktemp(request.param)
    spec, path = folder / "spec.yaml", folder / "page.html"
    spec.write_text(SPECS[request.param])
    entry = plan_file(spec)
    path.write_text(page_of(entry, file="spec.yaml"), encoding="utf-8")
    view = view_of(entry, file="spec.yaml")
    charts = {part.id: part for section in view.sections for part in section.parts if isinstance(part, Chart)}
    opened = open_page(browser, path)
    measured = {each["id"]: each for each in opened.page.evaluate(MEASURE)}
    yield Drawn(opened, path, charts, measured)
    opened.page.context.close()


def test_nothing_complains_and_nothing_is_fetched(drawn: Drawn):
    assert drawn.opened.told == []
    assert [address for address in drawn.opened.asked if not address.startswith("data:")] == [drawn.path.as_uri()]


def test_every_chart_is_there(drawn: Drawn):
    expected = SERVING if "serve-memory" in drawn.charts else TRAINING
    assert set(drawn.measured) == set(drawn.charts) == expected


def test_every_datum_has_its_mark(drawn: Drawn):
    for id, chart in drawn.charts.items():
        found = drawn.measured[id]
        assert found["marks"] == chart.num_marks > 0, id
        assert found["shapes"] == len(chart.shapes), id
        assert (found["untitled"], found["unpainted"], found["wrong"]) == (0, 0, []), id
        assert found["width"] >= 800, id
        assert found["height"] >= 60, id


def test_nothing_lies_outside_its_frame(drawn: Drawn):
    for id, found in drawn.measured.items():
        assert found["outside"] == [], id
        assert found["empty"] == 0, id


def test_figures_do_not_lie_on_each_other(drawn: Drawn):
    assert drawn.opened.page.evaluate(OVERLAPS) == []


def test_a_narrow_screen_scrolls_charts_and_not_the_page(drawn: Drawn, browser: Browser):
    opened = open_page(browser, drawn.path, width=400)
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    opened.page.context.close()
    assert wide <= 400


def test_it_reads_without_scripts_and_in_the_dark(drawn: Drawn, browser: Browser):
    opened = open_page(browser, drawn.path, scripts=False, dark=True)
    shown = opened.page.locator("svg").count()
    title = opened.page.locator("h1").inner_text()
    image = opened.page.screenshot()
    opened.page.context.close()
    assert (shown, bool(title), opened.told) == (len(drawn.charts), True, [])
    assert image != drawn.opened.page.screenshot()


def test_tables_open_by_keyboard(drawn: Drawn):
    page = drawn.opened.page
    first = page.locator("details").first
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.get_attribute("open") is not None
    assert first.locator("table").is_visible()
