"""The page as text: what it says is what was planned, it needs nothing from elsewhere, it can be read."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmc.compiler.pipeline import PlanEntry, plan_file
from llmc.compiler.report.page import page_of, view_of
from llmc.compiler.report.sections import TableOf
from llmc.compiler.report.serve_steps import classes_of, steps_of, works_of
from llmc.compiler.report.shapes import Chart

from .specs import PIPELINE, SEARCHED, SERVED

SPECS = {"pipeline": PIPELINE, "searched": SEARCHED, "served": SERVED}


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlanEntry]:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(text)
    found = {name: plan_file(folder / f"{name}.yaml") for name in SPECS}
    assert {name: entry.exit_code for name, entry in found.items()} == dict.fromkeys(SPECS, 0)
    return found


@pytest.fixture(scope="module")
def pages(entries: dict[str, PlanEntry]) -> dict[str, str]:
    return {name: page_of(entry, file=f"{name}.yaml") for name, entry in entries.items()}


def charts(entry: PlanEntry) -> dict[str, Chart]:
    view = view_of(entry, file="spec.yaml")
    return {part.id: part for section in view.sections for part in section.parts if isinstance(part, Chart)}


class Reader(HTMLParser):
    """Collects what matters of the markup: tags with their attributes, and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("name", SPECS)
def test_a_page_needs_nothing_from_elsewhere(name: str, pages: dict[str, str]):
    reader = Reader(pages[name])
    assert {tag for tag, _ in reader.tags} & {"script", "img", "iframe", "object", "embed", "base", "form"} == set()
    addresses = [attrs[key] for _, attrs in reader.tags for key in ("src", "href", "xlink:href") if key in attrs]
    assert addresses
    assert all(address is not None and address.startswith(("#", "data:,")) for address in addresses)
    assert re.findall(r"url\(|@import|https?:", pages[name]) == []


@pytest.mark.parametrize("name", SPECS)
def test_ids_are_unique_and_references_lead_somewhere(name: str, pages: dict[str, str]):
    reader = Reader(pages[name])
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [each for _, attrs in reader.tags for each in (attrs.get("aria-labelledby") or "").split()]
    links = [str(attrs["href"])[1:] for _, attrs in reader.tags if str(attrs.get("href", "")).startswith("#")]
    assert set(named) | set(links) <= set(ids)


@pytest.mark.parametrize("name", SPECS)
def test_every_chart_has_words_for_those_who_do_not_see_it(name: str, entries: dict[str, PlanEntry]):
    for chart in charts(entries[name]).values():
        assert chart.title
        assert chart.about.endswith(".")
        assert chart.table is None or chart.table.rows
        marks = [shape for shape in chart.shapes if shape.is_mark]
        assert marks
        assert all(shape.title for shape in marks)


def test_a_name_is_written_as_text(tmp_path: Path):
    """A spec is untrusted: an accelerator can be called anything."""
    hostile = "<script>alert(1)</script>"
    spec = tmp_path / "spec.yaml"
    device = f'{{name: "{hostile}", kind: gpu, memory_gib: 80, memory_gb_s: 2000, peak_tflops: {{bf16: 300}}, inter_node: {{gb_s: 25, link: "{hostile}"}}}}'
    spec.write_text(PIPELINE.replace("h100-sxm-80g", device))
    page = page_of(plan_file(spec), file=f"{hostile}.yaml")
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_the_figures_of_the_page_are_those_of_the_plan(entries: dict[str, PlanEntry]):
    entry = entries["pipeline"]
    assert entry.train is not None
    assert entry.plan.train is not None
    found = charts(entry)
    memory = found["memory"].table
    assert memory is not None
    peaks = [float(row[-1]) for row in memory.rows]
    assert max(peaks) == pytest.approx(entry.plan.train.predicted.memory_gib.peak, abs=0.05)
    time = found["time"].table
    assert time is not None
    assert time.rows[0][0] == "step"
    assert {row[2] for row in time.rows[1:]} <= {"measured", "fitted", "assumed"}


def test_the_classes_of_a_decode_step_sum_to_it(entries: dict[str, PlanEntry]):
    entry = entries["served"]
    assert entry.serve is not None
    assert entry.spec is not None
    assert entry.spec.serve is not None
    chosen = entry.serve.found.good[0]
    step, prompt = steps_of(chosen, entry.spec.serve)
    whole = chosen.engine.decode_step_s(step.decoding, context=step.context)
    assert sum(classes_of(chosen.engine, step).values()) == pytest.approx(whole)
    prompt_s = sum(work.seconds for work in works_of(chosen.engine, prompt))
    assert 0.5 * chosen.engine.prefill_s(prompt.prompt) < prompt_s < chosen.engine.prefill_s(prompt.prompt)


def test_no_class_beats_its_roof(entries: dict[str, PlanEntry]):
    """What is left out of a class' bytes or FLOPs would show here."""
    for name, id in (("pipeline", "roofline"), ("served", "serve-roofline")):
        table = charts(entries[name])[id].table
        assert table is not None
        shares = [int(row[-1].removesuffix("%")) for row in table.rows if row[-1]]
        assert len(shares) >= 3
        assert all(0 < share <= 100 for share in shares), (name, table.rows)


def test_limits_are_told_with_their_inequality(entries: dict[str, PlanEntry]):
    entry = entries["served"]
    assert entry.plan.serve is not None
    assert entry.plan.serve.limits
    view = view_of(entry, file="spec.yaml")
    table = next(p for s in view.sections for p in s.parts if isinstance(p, TableOf) and p.title.startswith("Limits"))
    assert [row[0] for row in table.rows] == [limit.name for limit in entry.plan.serve.limits]


def test_marks_are_as_many_as_the_data(entries: dict[str, PlanEntry]):
    entry = entries["pipeline"]
    assert entry.train is not None
    layout, found = entry.train.chosen.layout, charts(entry)
    passes = 2 * layout.grad_accumulation * layout.virtual_stages * layout.pp
    assert found["timeline"].num_marks == passes
    assert found["mesh"].num_marks == layout.devices
    assert entry.train.auto is not None
    assert found["pareto"].num_marks == len(entry.train.found.fitting) + 1  # and what auto would choose
    ranks = entry.train.work.ranks(layout)
    assert len({shape.y for shape in found["memory"].shapes if shape.is_mark and shape.shape == "rect"}) == len(ranks)


def test_the_whole_mesh_is_named(entries: dict[str, PlanEntry]):
    titles = [shape.title for shape in charts(entries["pipeline"])["mesh"].shapes if shape.is_mark]
    assert len(set(titles)) == len(titles)
    assert titles[0] == "device 0: tp 0, dp_shard 0, pp 0"
    assert titles[-1] == "device 15: tp 1, dp_shard 1, pp 3"


def test_runners_up_bear_the_numbers_of_the_front(entries: dict[str, PlanEntry]):
    view = view_of(entries["searched"], file="spec.yaml")
    table = next(p for s in view.sections for p in s.parts if isinstance(p, TableOf) and p.title.startswith("Runners"))
    labels = {s.text for s in charts(entries["searched"])["pareto"].shapes if s.shape == "text" and s.style == "value"}
    assert labels == {"chosen", *(row[0] for row in table.rows)}
    assert all(row[-1] for row in table.rows)


def test_the_same_plan_is_the_same_page(entries: dict[str, PlanEntry], pages: dict[str, str]):
    assert page_of(entries["served"], file="served.yaml") == pages["served"]


def test_a_plan_that_does_not_fit_says_so(tmp_path: Path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SEARCHED.replace("per_node: 8", "per_node: 1").replace("h100-sxm-80g", "t4"))
    entry = plan_file(spec)
    assert entry.exit_code == 3
    page = page_of(entry, file="spec.yaml")
    assert "error P201" in page
    assert 'id="memory"' in page
    assert 'id="timeline"' not in page


# Colours


def _palettes(root: Path) -> list[dict[str, str]]:
    css = (root / "templates/report/style.css").read_text()
    return [
        dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(scheme: int, root: Path):
    """WCAG 2 AA: 4.5 for text, 3 for what carries meaning."""
    palette = _palettes(root)[scheme]
    assert _contrast(palette["ink"], palette["paper"]) >= 7
    for name in ("soft", "accent", "limit"):
        assert _contrast(palette[name], palette["paper"]) >= 4.5, name
    for index in range(1, 9):
        colour = palette[f"c{index}"]
        assert _contrast(colour, palette["paper"]) >= 3, index
        assert _contrast(palette["inside"], colour) >= 4.5, index
