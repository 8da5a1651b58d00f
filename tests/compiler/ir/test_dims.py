"""A line of dims says shapes, sums and what may be split."""

from __future__ import annotations

import pytest

from llmc.compiler.ir.dims import parse_line


def test_a_line_reads_back_as_it_was_written():
    line = "B T D!, D -> B T D"
    assert str(parse_line(line)) == line


@pytest.mark.parametrize("line", ["B T D", "B T Z -> B T Z"])
def test_a_line_that_means_nothing_is_refused(line: str):
    with pytest.raises(ValueError, match=r"arrow|alphabet"):
        parse_line(line)


@pytest.mark.parametrize(
    ("line", "num_values", "dim", "split"),
    [
        ("B T D, D F -> B T F", 1, "T", "free"),
        ("B T D, D F -> B T F", 1, "F", "free"),
        ("B T D, D F -> B T F", 1, "D", "reduce"),
        ("B T D!, D -> B T D", 1, "D", "whole"),
        ("B T, V D -> B T D", 1, "V", "lookup"),
        ("B T X D, E D F -> B T X F", 1, "E", "lookup"),
        ("B T H C, B S K C, B S K C -> B T H C", 3, "H", "free"),
        ("B T H C, B S K C, B S K C -> B T H C", 3, "S", "reduce"),
    ],
)
def test_splits_follow_from_the_line(line: str, num_values: int, dim: str, split: str):
    assert parse_line(line).split(dim, num_values=num_values) == split
