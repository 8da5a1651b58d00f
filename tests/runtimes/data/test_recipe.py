"""A recipe rejects what cannot mean anything, when it is made."""

from __future__ import annotations

import json

import pytest

from llmc.runtimes.data import Clean, DataError, DataRecipe, EntryPoint, PathSource, PythonStdlib, TrainBPE


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1001.0])
def test_a_weight_is_a_positive_number(weight: float) -> None:
    with pytest.raises(DataError, match=r"weight of a\.txt"):
        PathSource("a.txt", weight=weight)


@pytest.mark.parametrize("call", ["module", "module:", ":function", "a b:c", "os:system('x')", "../x:y"])
def test_an_entry_point_is_two_dotted_names(call: str) -> None:
    with pytest.raises(DataError, match="is not an entry point"):
        EntryPoint(call)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_chars": -1}, "min_chars"),
        ({"dedup": "simhash"}, "simhash"),
        ({"unicode": "nfkc"}, "nfkc"),
        ({"languages": []}, "would remove everything"),
    ],
)
def test_cleaning_knows_its_choices(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Clean(**fields)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_validation_takes_less_than_everything(fraction: float) -> None:
    with pytest.raises(DataError, match="valid_fraction"):
        DataRecipe(sources=[PythonStdlib()], tokenizer=TrainBPE(300), valid_fraction=fraction)


def test_a_recipe_needs_a_source() -> None:
    with pytest.raises(DataError, match="no source"):
        DataRecipe(sources=[], tokenizer=TrainBPE(300))


def test_recipes_are_equal_hashable_and_json_whatever_sequence_they_are_given() -> None:
    from_lists = DataRecipe(sources=[PathSource("x")], tokenizer=TrainBPE(300), clean=Clean(languages=["en"]))
    from_tuples = DataRecipe(sources=(PathSource("x"),), tokenizer=TrainBPE(300), clean=Clean(languages=("en",)))
    assert from_lists == from_tuples
    assert hash(from_lists) == hash(from_tuples)
    assert json.loads(json.dumps(from_lists.to_json()))["sources"][0] == {
        "kind": "PathSource",
        "path": "x",
        "text": None,
        "weight": 1.0,
    }


def test_an_error_prints_what_is_wrong_and_what_to_do() -> None:
    assert str(DataError("no file", help="add one")) == "no file\nhelp: add one"
