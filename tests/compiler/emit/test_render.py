"""Rendering: strict names, no printed None, marks that leave no trace."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from llmc.compiler.emit import render as rendering
from llmc.compiler.emit.layout import fit
from llmc.compiler.emit.render import Block, environment, render


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Renders a text as a template."""
    environment.cache_clear()
    monkeypatch.setattr(rendering, "TEMPLATES", tmp_path)

    def write(text: str, **names: object):
        (tmp_path / "t.j2").write_text(text)
        return render("t.j2", names)

    yield write
    environment.cache_clear()


def test_an_undefined_name_stops_the_build(template) -> None:
    with pytest.raises(jinja2.UndefinedError):
        template("{{ missing }}")


def test_a_printed_none_stops_the_build(template) -> None:
    with pytest.raises(ValueError, match="None"):
        template("{{ x }}", x=None)


def test_tags_at_the_left_margin_leave_the_code_as_it_is(template) -> None:
    text = "a\n{% if x %}\n    b = {{ x }}\n{% else %}\n    c\n{% endif %}\nd\n"
    assert template(text, x=1e-05).text == "a\n    b = 1e-05\nd\n"


def test_spec_strings_are_not_templates(template) -> None:
    assert template("{{ x | literal }}\n", x="{{ 7 * 7 }}").text == '"{{ 7 * 7 }}"\n'


def test_causes_become_line_ranges_and_leave_no_trace(template) -> None:
    text = (
        'one\n{% cause "a" %}\ntwo\n{% cause "a.b" %}\nthree\nfour\n{% endcause %}\n{% endcause %}\n'
        '{% cause "empty" %}\n{% endcause %}\nfive\n'
    )
    rendered = template(text)
    assert rendered.text == "one\ntwo\nthree\nfour\nfive\n"
    assert rendered.blocks == (Block(2, 4, "a"), Block(3, 4, "a.b"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("    f(a)\n", "    f(a)\n"),
        (f"    {'f' * 60}({'a' * 40}, {'b' * 20})\n", f"    {'f' * 60}(\n        {'a' * 40}, {'b' * 20}\n    )\n"),
        (
            f"f({'a' * 80}, g({'b' * 20}, c), {'d' * 30}) -> e:\n",
            f"f(\n    {'a' * 80},\n    g({'b' * 20}, c),\n    {'d' * 30},\n) -> e:\n",
        ),
    ],
)
def test_fit_breaks_lines_as_the_formatter_does(line: str, expected: str) -> None:
    assert fit(line) == expected
