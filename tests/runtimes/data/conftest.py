"""Small made-up text, so that a whole corpus is prepared in a few hundredths of a second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.runtimes.data import Clean, Corpus, DataRecipe, PathSource, TrainBPE, prepare

WORDS = [
    "the",
    "a",
    "token",
    "layer",
    "head",
    "model",
    "trains",
    "on",
    "text",
    "with",
    "many",
    "words",
    "of",
    "every",
    "kind",
    "and",
    "learns",
    "to",
    "go",
    "on",
]


def made_up_text(seed: int, *, num_words: int = 120) -> str:
    """Words in random order, a line break now and then: no two seeds give near duplicates."""
    choose = random.Random(seed)
    return "".join(choose.choice(WORDS) + choose.choice(["\n", " ", " ", f" {seed} "]) for _ in range(num_words))


@pytest.fixture
def write_texts(tmp_path: Path) -> Callable[..., Path]:
    """Writes one text file a document into a folder under tmp_path."""

    def write(folder: str, texts: list[str]) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts):
            (tmp_path / folder / f"{number:04}.txt").write_bytes(text.encode())
        return tmp_path / folder

    return write


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, rows: list[object]) -> Path:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def make_corpus(tmp_path: Path, write_texts: Callable[..., Path]) -> Callable[..., Corpus]:
    """A prepared corpus of `num_documents` made-up texts."""

    def make(num_documents: int = 40, *, first: int = 0, name: str = "corpus", valid_fraction: float = 0.1) -> Corpus:
        write_texts(f"texts-{name}", [made_up_text(first + number) for number in range(num_documents)])
        recipe = DataRecipe(
            sources=[PathSource(f"texts-{name}/*.txt")],
            clean=Clean(min_chars=1, dedup="minhash"),
            tokenizer=TrainBPE(vocab_size=300),
            valid_fraction=valid_fraction,
        )
        return prepare(recipe, tmp_path / name, root=tmp_path)

    return make
