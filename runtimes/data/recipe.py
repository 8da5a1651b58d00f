"""What a corpus is made from: sources, cleaning, tokenizer, split. Frozen, printable, part of the fingerprint.

A generated `data.py` holds one of these as literals:

    RECIPE = DataRecipe(
        sources=[PythonStdlib(), PathSource("notes/**/*.txt", weight=0.5)],
        clean=Clean(min_chars=200, dedup="minhash"),
        tokenizer=TrainBPE(vocab_size=4096),
        valid_fraction=0.02,
        seed=0,
    )

A `weight` says how often a source's documents are in the training stream: 1.0 once; 2.5 twice, and half of
them a third time; 0.3 three documents in ten. Which ones is decided by a hash of the document's text and the
seed, so the choice is the same on every machine and a change of one source leaves the others as they were.
A held-out document is in the validation stream at most once, whatever its weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .errors import DataError


def _check_weight(weight: float, *, label: str) -> None:
    if not (math.isfinite(weight) and 0 < weight <= 1000):
        raise DataError(
            f"the weight of {label} is {weight}",
            help="give a weight above 0 and at most 1000: 1.0 is every document once, 0.3 three in ten",
        )


@dataclass(frozen=True)
class PathSource:
    """Files by glob, read relative to the `root` that `prepare` is given.

    `.jsonl`, `.ndjson` (also `.gz`) and `.parquet` hold a document a row in the field `text`; any other file is one
    document of UTF-8 text (also `.gz`).
    """

    path: str
    text: str | None = None  # field with the text, `text` where it is not given; an error for plain text files
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_weight(self.weight, label=self.label)

    @property
    def label(self) -> str:
        return self.path


@dataclass(frozen=True)
class EntryPoint:
    """A Python function `module:function` that takes nothing and yields documents: str, or dict with the field `text`.

    Whether a corpus can be reused is decided without running it: the fingerprint has the source of its module
    and `revision`. Change `revision` when the data behind the function changes.
    """

    call: str
    text: str = "text"
    revision: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_weight(self.weight, label=self.label)
        module, _, function = self.call.partition(":")
        names = [*module.split("."), *function.split(".")]
        if not all(name.isidentifier() for name in names):
            raise DataError(f"`{self.call}` is not an entry point", help="write it as `module:function`")

    @property
    def label(self) -> str:
        return self.call


@dataclass(frozen=True)
class PythonStdlib:
    """The sources of the running Python's standard library, without its tests (`stdlib.py` says why)."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_weight(self.weight, label=self.label)

    @property
    def label(self) -> str:
        return "python-stdlib"


Source = PathSource | EntryPoint | PythonStdlib


@dataclass(frozen=True)
class Clean:
    """What is left out besides empty documents. Applied in this order: too short, exact duplicate, other language, near duplicate."""

    min_chars: int = 0  # characters without leading and trailing white space
    dedup: Literal["minhash", "exact"] | None = None  # minhash removes exact duplicates too
    languages: Sequence[str] | None = None  # ISO 639 codes as fastText's lid.176 has them; None keeps every language
    unicode: Literal["nfc"] | None = "nfc"

    def __post_init__(self) -> None:
        if self.languages is not None:
            object.__setattr__(self, "languages", tuple(self.languages))
        if self.min_chars < 0:
            raise DataError(f"min_chars is {self.min_chars}", help="give 0 or more characters")
        if self.dedup not in ("minhash", "exact", None):
            raise DataError(f"`{self.dedup}` is not a way to remove duplicates", help="use minhash, exact or null")
        if self.unicode not in ("nfc", None):
            raise DataError(f"`{self.unicode}` is not a Unicode form used here", help="use nfc or null")
        if self.languages == ():
            raise DataError("`languages` is empty, which would remove everything", help="name a language, or give null")


@dataclass(frozen=True)
class TrainBPE:
    """A byte-level BPE tokenizer trained on the training documents, with exactly `vocab_size` tokens."""

    vocab_size: int


@dataclass(frozen=True)
class TokenizerFile:
    """An existing `tokenizer.json`; each of its ids must be below the model's `vocab_size`."""

    path: str
    vocab_size: int
    end_of_text: str | None = None  # the token put after each document; None: one of the usual names


Tokenizer = TrainBPE | TokenizerFile


@dataclass(frozen=True)
class DataRecipe:
    """Everything that decides the bytes of a prepared corpus, apart from the contents of the sources."""

    sources: Sequence[Source]
    tokenizer: Tokenizer
    clean: Clean = field(default_factory=Clean)
    valid_fraction: float = 0.01  # of documents
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        if not self.sources:
            raise DataError("the recipe has no source", help="give at least one, for example python-stdlib")
        if not 0 <= self.valid_fraction < 1:
            raise DataError(
                f"valid_fraction is {self.valid_fraction}", help="give a share from 0 (no validation) to below 1"
            )

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values, each union member with its `kind`."""
        return {
            "sources": [{"kind": type(source).__name__, **asdict(source)} for source in self.sources],
            "clean": asdict(self.clean),
            "tokenizer": {"kind": type(self.tokenizer).__name__, **asdict(self.tokenizer)},
            "valid_fraction": self.valid_fraction,
            "seed": self.seed,
        }
