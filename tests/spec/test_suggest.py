"""Did you mean: the nearest name first, and none where nothing is near."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.spec.suggest import by_closeness, did_you_mean, distance, listing

WORD = st.text(st.sampled_from("abcd_"), max_size=8)


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "ab", 1), ("abc", "acb", 1), ("abc", "xyz", 3), ("", "abc", 3)],
)
def test_distance_counts_inserts_deletes_replacements_and_swaps(a: str, b: str, edits: int):
    assert distance(a, b) == edits


@given(WORD, WORD)
def test_distance_is_symmetric_and_bounded(a: str, b: str):
    assert distance(a, b) == distance(b, a)
    assert abs(len(a) - len(b)) <= distance(a, b) <= max(len(a), len(b))
    assert (distance(a, b) == 0) == (a == b)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("hedas", "num_heads"), ("num_head", "num_heads"), ("optimiser", "optimizer"), ("gka", "gqa"), ("Swiglu", "swiglu"),
        ("llama3-8b", "llama-3-8b"), ("h100", "h100-sxm-80g"), ("vocab", "vocab_size"),
    ],
)  # fmt: skip
def test_typing_errors_find_what_was_meant(typed: str, meant: str):
    known = [
        "num_heads",
        "num_layers",
        "optimizer",
        "gqa",
        "mha",
        "swiglu",
        "gelu",
        "llama-3-8b",
        "h100-sxm-80g",
        "vocab_size",
    ]
    assert by_closeness(typed, known)[0] == meant or did_you_mean(typed, known)[0] == meant


@pytest.mark.parametrize("typed", ["", "zzz", "quetzalcoatl"])
def test_nothing_is_meant_by_what_is_far_from_all(typed: str):
    assert did_you_mean(typed, ["num_heads", "optimizer", "swiglu"]) == []


@given(st.lists(WORD, max_size=8), WORD)
def test_all_known_names_are_listed_once(known: list[str], typed: str):
    assert sorted(by_closeness(typed, known)) == sorted(set(known))


def test_a_long_list_is_cut():
    assert listing(["a", "b", "c"], at_most=2) == "`a`, `b`, …"
    assert listing(["a", "b"], at_most=2) == "`a`, `b`"
