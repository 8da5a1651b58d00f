"""The text a model is trained on: where it comes from, how it is cleaned, tokenised and split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .base import Node
from .units import CountOrZero, Fraction, Positive, Seed


class NamedSource(Node):
    """Text that is on every machine."""

    source: Literal["python-stdlib"] = Field(description="python-stdlib: the sources of Python's standard library.")
    weight: Positive = Field(
        default=1.0,
        description="How many times this source's documents are in the training stream: 1.0 once, 0.3 three in ten, 2.5 twice and half of them a third time.",
    )


class PathSource(Node):
    """Files named by a glob."""

    path: str = Field(
        min_length=1, description="A glob, relative to the spec: text files, or .jsonl with the field `text`."
    )
    text: str | None = Field(default=None, description="The JSON field that holds a document's text.")
    weight: Positive = Field(
        default=1.0,
        description="How many times this source's documents are in the training stream: 1.0 once, 0.3 three in ten, 2.5 twice and half of them a third time.",
    )


class EntrySource(Node):
    """A Python function that yields documents."""

    entry: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:function; it yields texts, or mappings with a `text`.",
    )
    weight: Positive = Field(
        default=1.0,
        description="How many times this source's documents are in the training stream: 1.0 once, 0.3 three in ten, 2.5 twice and half of them a third time.",
    )


def _source_tag(value: Any) -> str | None:
    """The key that names a source's kind; None makes pydantic report the three it knows."""
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return next((key for key in ("source", "path", "entry") if key in keys), None)


Source = Annotated[
    Annotated[NamedSource, Tag("source")] | Annotated[PathSource, Tag("path")] | Annotated[EntrySource, Tag("entry")],
    Discriminator(
        _source_tag,
        custom_error_type="source_kind",
        custom_error_message="a source has one of the keys source, path, entry",
    ),
]


class Clean(Node):
    """What is left out before training."""

    min_chars: CountOrZero = Field(default=0, description="Documents shorter than this many characters are dropped.")
    dedup: Literal["exact", "minhash"] | None = Field(
        default=None, description="Drop equal documents, or nearly equal ones."
    )
    languages: tuple[str, ...] | None = Field(
        default=None, description="Languages to keep, as ISO 639-1 codes; null: all."
    )


class TrainTokenizer(Node):
    """A tokenizer trained on the data."""

    train: Literal["bpe"] = Field(description="Byte-level byte-pair encoding, as large as the model's vocab_size.")


class TokenizerFile(Node):
    """A tokenizer that exists."""

    path: str = Field(min_length=1, description="A tokenizer.json, relative to the spec.")


def _tokenizer_tag(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return next((key for key in ("train", "path") if key in keys), None)


Tokenizer = Annotated[
    Annotated[TrainTokenizer, Tag("train")] | Annotated[TokenizerFile, Tag("path")],
    Discriminator(
        _tokenizer_tag,
        custom_error_type="tokenizer_kind",
        custom_error_message="a tokenizer has one of the keys train, path",
    ),
]


class Split(Node):
    """How documents are divided."""

    valid: Fraction = Field(default=0.01, description="Share of the documents that only validation sees.")


class Data(Node):
    """The text a model is trained on."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = Field(description="Where the text comes from.")
    clean: Clean = Field(default_factory=Clean, description="What is left out before training.")
    tokenizer: Tokenizer = Field(description="The tokenizer: trained here, or a file.")
    split: Split = Field(default_factory=Split, description="How documents are divided.")
    seed: Seed = Field(default=0, description="Seed of the order of samples.")
