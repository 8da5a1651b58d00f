"""Who trains, who validates, how often: decided by a document's text and the seed, and by nothing else."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtimes.data import Clean, Corpus, DataRecipe, PathSource, TrainBPE, prepare
from llmc.runtimes.data.corpus import SPLITS
from llmc.runtimes.data.split import num_copies, two_fractions

from .conftest import made_up_text


def recipe_of(*sources: PathSource, valid_fraction: float = 0.2, dedup: str | None = "exact") -> DataRecipe:
    clean = Clean(min_chars=1, dedup=dedup)  # pyright: ignore[reportArgumentType]
    return DataRecipe(sources=sources, clean=clean, tokenizer=TrainBPE(280), valid_fraction=valid_fraction)


def names(corpus: Corpus, split: str) -> list[str]:
    return [corpus.document_name(split, number) for number in range(corpus.num_documents(split))]


@given(st.text(), st.integers(0, 2**32 - 1))
def test_fractions_are_in_the_unit_interval_and_repeat(text: str, seed: int) -> None:
    first = two_fractions(text, seed=seed)
    assert first == two_fractions(text, seed=seed)
    assert all(0 <= fraction < 1 for fraction in first)


def test_fractions_are_spread_evenly_and_do_not_follow_each_other() -> None:
    pairs = [two_fractions(f"document {number}", seed=0) for number in range(4000)]
    quarters = Counter((int(2 * split), int(2 * weight)) for split, weight in pairs)
    assert len(quarters) == 4
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in quarters.values())
    other_seed = [two_fractions(f"document {number}", seed=1) for number in range(4000)]
    assert not set(pairs) & set(other_seed)


@pytest.mark.parametrize(("weight", "mean"), [(1.0, 1.0), (0.3, 0.3), (2.5, 2.5), (3.0, 3.0)])
def test_copies_average_to_the_weight(weight: float, mean: float) -> None:
    copies = [num_copies(weight, (number + 0.5) / 1000) for number in range(1000)]
    assert sum(copies) / 1000 == pytest.approx(mean)
    assert max(copies) - min(copies) <= 1


def test_a_new_source_moves_no_document(tmp_path: Path, write_texts: Callable[..., Path]) -> None:
    write_texts("old", [made_up_text(number) for number in range(60)])
    write_texts("new", [made_up_text(100 + number) for number in range(60)])
    alone = prepare(recipe_of(PathSource("old/*")), tmp_path / "alone", root=tmp_path)
    both = prepare(recipe_of(PathSource("new/*"), PathSource("old/*")), tmp_path / "both", root=tmp_path)
    for split in SPLITS:
        assert names(alone, split) == [name for name in names(both, split) if name.startswith("old")]


def test_weights_repeat_and_subsample_documents(tmp_path: Path, write_texts: Callable[..., Path]) -> None:
    write_texts("much", [made_up_text(number) for number in range(60)])
    write_texts("little", [made_up_text(100 + number) for number in range(200)])
    sources = (PathSource("much/*", weight=2.5), PathSource("little/*", weight=0.25))
    corpus = prepare(recipe_of(*sources), tmp_path / "corpus", root=tmp_path)
    train, valid = Counter(names(corpus, "train")), Counter(names(corpus, "valid"))
    assert {train[name] for name in train if name.startswith("much")} == {2, 3}
    assert {train[name] for name in train if name.startswith("little")} == {1}
    assert set(valid.values()) == {1}
    assert not set(train) & set(valid)
    little = corpus.index["sources"][1]
    assert little["read"] == 200
    assert 30 <= little["kept"] <= 70
    assert little["kept"] + little["not_selected"] == 200
    tokens = [row["tokens"]["train"] for row in corpus.index["sources"]]
    assert sum(tokens) == corpus.num_tokens("train")


def test_copies_are_a_whole_pass_apart(tmp_path: Path, write_texts: Callable[..., Path]) -> None:
    write_texts("texts", [made_up_text(number) for number in range(30)])
    corpus = prepare(recipe_of(PathSource("texts/*", weight=2.0)), tmp_path / "corpus", root=tmp_path)
    train = names(corpus, "train")
    assert train[: len(train) // 2] == train[len(train) // 2 :] == sorted(set(train))


def test_equal_texts_are_on_one_side_even_when_duplicates_stay(
    tmp_path: Path, write_texts: Callable[..., Path]
) -> None:
    write_texts("a", [made_up_text(number) for number in range(40)])
    write_texts("b", [made_up_text(number) for number in range(40)])
    corpus = prepare(recipe_of(PathSource("[ab]/*"), dedup=None), tmp_path / "corpus", root=tmp_path)
    sides = [{name.split("/")[1] for name in names(corpus, split)} for split in SPLITS]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("num_documents", [1, 3])
def test_a_few_long_documents_give_the_end_of_the_longest(
    tmp_path: Path, write_texts: Callable[..., Path], num_documents: int
) -> None:
    texts = [made_up_text(number, num_words=2000 + number) for number in range(num_documents)]
    write_texts("texts", texts)
    corpus = prepare(recipe_of(PathSource("texts/*"), valid_fraction=0.02), tmp_path / "corpus", root=tmp_path)
    assert corpus.index["split_by"] == "end of the longest document"
    longest = max(texts, key=len)
    held_out = corpus.tokenizer.decode(corpus.tokens("valid")[:-1].tolist())
    assert longest.endswith("\n" + held_out)
    assert len(held_out) == pytest.approx(0.02 * sum(map(len, texts)), rel=0.25)
    assert corpus.num_documents("train") == num_documents
    trained_on = corpus.tokenizer.decode(corpus.tokens("train").tolist(), skip_special_tokens=True)
    assert len(trained_on) + len(held_out) == sum(map(len, texts))


def test_no_validation_when_none_is_asked_for(tmp_path: Path, write_texts: Callable[..., Path]) -> None:
    write_texts("texts", [made_up_text(number) for number in range(10)])
    corpus = prepare(recipe_of(PathSource("texts/*"), valid_fraction=0.0), tmp_path / "corpus", root=tmp_path)
    assert corpus.num_tokens("valid") == 0
    assert corpus.tokens("valid").shape == (0,)
    assert corpus.num_documents("train") == 10


def test_another_seed_holds_out_other_documents(tmp_path: Path, write_texts: Callable[..., Path]) -> None:
    write_texts("texts", [made_up_text(number) for number in range(60)])
    recipe = recipe_of(PathSource("texts/*"))
    held_out = [
        names(prepare(dataclasses.replace(recipe, seed=seed), tmp_path / f"{seed}", root=tmp_path), "valid")
        for seed in (0, 1)
    ]
    assert held_out[0] != held_out[1]
