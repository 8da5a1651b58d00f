"""Diagnostics as text: carets under the right columns, whatever the line holds."""

from __future__ import annotations

from inspect import cleandoc

import pytest

from llmc.spec.diagnostics import Label, diagnose
from llmc.spec.rendering import MAX_COLUMNS, render, render_all
from llmc.spec.source import SourceText, Span


def span(text: str, piece: str, *, name: str = "spec.yaml", nth: int = 0) -> Span:
    """The nth occurrence of a piece of a text."""
    start = -1
    for _ in range(nth + 1):
        start = text.index(piece, start + 1)
    return Span(SourceText(name, text), start, start + len(piece))


def test_a_diagnostic_looks_like_a_good_compilers():
    text = "model:\n" * 13 + "    hedas: 16\n"
    diagnostic = diagnose(
        "S104", "`hedas` is not a field of MLA attention", span=span(text, "hedas"), help="did you mean `heads`?"
    )
    assert render(diagnostic) == cleandoc(
        """
        error[S104 unknown-field]: `hedas` is not a field of MLA attention
          --> spec.yaml:14:5
           |
        14 |     hedas: 16
           |     ^^^^^
        help: did you mean `heads`?
        """
    )


def test_labels_stand_in_the_order_of_the_text_and_gaps_are_shown():
    text = "a: 1\nb: 2\nc: 3\nd: 4\n"
    source = SourceText("spec.yaml", text)
    diagnostic = diagnose(
        "S301",
        "one says 1, four says 4",
        span=Span(source, 18, 19),
        label="four",
        labels=[Label("one", span=Span(source, 3, 4)), Label("two", span=Span(source, 8, 9))],
        notes=["a note"],
    )
    assert render(diagnostic) == cleandoc(
        """
        error[S301 batch-contradiction]: one says 1, four says 4
         --> spec.yaml:4:4
          |
        1 | a: 1
          |    - one
        2 | b: 2
          |    - two
        ...
        4 | d: 4
          |    ^ four
          = a note
        """
    )


def test_a_label_in_another_file_has_its_own_excerpt():
    here, there = span("a: 1\n", "a"), span("b: 2\n", "b", name="base.yaml")
    text = render(diagnose("S301", "they disagree", span=here, labels=[Label("there", span=there)]))
    assert text.splitlines()[1:] == [
        " --> spec.yaml:1:1",
        "  |",
        "1 | a: 1",
        "  | ^",
        " ::: base.yaml:1:1",
        "  |",
        "1 | b: 2",
        "  | - there",
    ]


def caret_line(text: str, piece: str) -> tuple[str, str]:
    lines = render(diagnose("S104", "x", span=span(text, piece))).splitlines()
    return lines[3].partition("| ")[2], lines[4].partition("| ")[2]


def test_a_tab_is_as_wide_in_the_line_as_above_the_caret():
    assert caret_line("a:\tvalue\n", "value") == ("a:    value", "      ^^^^^")


@pytest.mark.parametrize(
    ("text", "caret"),
    [
        ("名前: value\n", "      ^^^^^"),  # two wide characters, four columns
        ("e\u0301: value\n", "   ^^^^^"),  # an accent of its own has no width
        ("ａ: value\n", "    ^^^^^"),  # a full-width letter
    ],
)
def test_wide_and_combining_characters_shift_the_caret_by_their_width(text: str, caret: str):
    assert caret_line(text, "value")[1] == caret


def test_what_a_terminal_would_obey_is_shown_as_an_escape():
    shown, caret = caret_line("a: \u202evalue\n", "value")
    assert shown == "a: \\u202evalue"
    assert caret == " " * 9 + "^^^^^"
    assert "\x1b" not in render(diagnose("S104", "a \x1b[31mred\x1b[0m field", span=span("a: 1", "a")))


@pytest.mark.parametrize("before", [0, 40, 95, 100, 400, 2000])
@pytest.mark.parametrize("after", [0, 30, 500])
def test_a_long_line_is_cut_around_the_caret(before: int, after: int):
    text = "x" * before + "VALUE" + "y" * after
    shown, caret = caret_line(text, "VALUE")
    assert len(shown) <= MAX_COLUMNS
    assert shown[caret.index("^") : caret.rindex("^") + 1] == "VALUE"
    assert ("…" in shown) == (before + after + 5 > MAX_COLUMNS - 4)


def test_a_span_at_the_end_of_the_file_has_a_caret_behind_the_last_character():
    text = "model: {"
    lines = render(diagnose("S101", "x", span=Span(SourceText("s", text), 8, 8))).splitlines()
    assert lines[-1] == "  |         ^"


def test_a_span_on_an_empty_file_renders():
    assert render(diagnose("S110", "x", span=Span(SourceText("s", ""), 0, 0))).splitlines()[-1] == "  | ^"


def test_a_span_over_several_lines_marks_the_first():
    text = "model:\n  a: 1\n  b: 2\n"
    lines = render(diagnose("S104", "x", span=Span(SourceText("s", text), 9, 20))).splitlines()
    assert lines[-2:] == ["2 |   a: 1", "  |   ^^^^"]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_lines_are_counted_alike_for_all_line_breaks(line_break: str):
    text = line_break.join(["a: 1", "b: 2", "c: 3"])
    found = span(text, "c")
    assert (found.line, found.column, found.source.line(3)) == (3, 1, "c: 3")


def test_a_diagnostic_without_a_place_is_its_headline():
    assert render(diagnose("S102", "there is no file x")) == "error[S102 unreadable-file]: there is no file x"


def test_several_are_separated_by_an_empty_line():
    one = diagnose("S102", "there is no file x")
    assert render_all([one, one]).count("\n\n") == 1


def test_json_has_the_names_that_tools_read():
    diagnostic = diagnose("S104", "no field", span=span("a:\n  b: 1\n", "b"), help="did you mean `c`?")
    assert diagnostic.to_json() == {
        "code": "LLMC-S104",
        "severity": "error",
        "message": "no field",
        "file": "spec.yaml",
        "line": 2,
        "column": 3,
        "hint": "did you mean `c`?",
    }


def test_painting_changes_nothing_but_colour():
    diagnostic = diagnose("S104", "x", span=span("a: 1\n", "a"), notes=["n"], help="h")
    painted = render(diagnostic, paint=lambda text, role: f"<{role}>{text}</>")
    assert "<error>error[S104 unknown-field]</>" in painted
    plain = painted.replace("</>", "")
    for role in ("error", "message", "gutter", "label", "help"):
        plain = plain.replace(f"<{role}>", "")
    assert plain == render(diagnostic)
