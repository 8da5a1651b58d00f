"""A sample is shown as the loss sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.runtimes.data import Clean, Corpus, DataRecipe, PathSource, TrainBPE, prepare, show_sample


def test_a_sample_names_its_documents_and_shows_every_token(tmp_path: Path, write_texts: Callable[..., Path]) -> None:
    write_texts("texts", ["one two", "three"])
    recipe = DataRecipe(
        sources=[PathSource("texts/*")], clean=Clean(min_chars=1), tokenizer=TrainBPE(260), valid_fraction=0
    )
    corpus = prepare(recipe, tmp_path / "corpus", root=tmp_path)
    assert show_sample(corpus, 1, seq_len=6, rows=3) == (
        "window 1 of 2 in train: tokens 6 to 12 of the stream\n"
        "  texts/0000.txt: its tokens 6 to 7 of 8\n"
        "  texts/0001.txt: its tokens 0 to 4 of 6\n"
        "the loss counts all 6 predictions alike; attention crosses from one document into the next\n"
        "\n"
        "o│<|endoftext|>│t│h│r│e│e\n"
        "\n"
        "position  input                       target\n"
        "       0      82 'o'                       0 '<|endoftext|>'\n"
        "       1       0 '<|endoftext|>'          87 't'\n"
        "       2      87 't'                      75 'h'\n"
        "       …"
    )


def test_a_sample_that_is_not_there_is_refused(make_corpus: Callable[..., Corpus]) -> None:
    corpus = make_corpus()
    assert "in valid" in show_sample(corpus, 0, seq_len=16, split="valid")
    with pytest.raises(IndexError, match="window 100000 of"):
        show_sample(corpus, 100_000)
