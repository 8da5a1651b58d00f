"""A prepared corpus on disk, opened for reading.

    tokenizer.json               the tokenizer, as the library `tokenizers` writes it
    train.bin, valid.bin         token ids, uint16 or uint32 little-endian; each document followed by end-of-text
    train.documents.npy, …       int64 [documents + 1]: where each document starts, and the end
    train.names.jsonl, …         the name of each document, a JSON string a line
    index.json                   dtype, counts, recipe, fingerprint, what cleaning removed

Nothing in it is code: ids come by memory map, offsets by np.load without pickle, the rest is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = ("train", "valid")

FORMAT = "llmc-corpus"
VERSION = 1  # part of every fingerprint: raise it when the same recipe would give other bytes
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def dtype_name(vocab_size: int) -> str:
    """The smallest unsigned type that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class Corpus:
    """Token streams of both splits with what is known about them; cheap to open, nothing is read before it is used."""

    folder: Path
    index: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str, *, vocab_size: int | None = None) -> Corpus:
        """Checks that `folder` is a whole corpus, whose tokens a model with this vocabulary has."""
        folder = Path(folder)
        index = read_index(folder)
        if index is None:
            raise DataError(f"{folder} is not a prepared corpus", help="prepare it first, or give its folder")
        if index.get("version") != VERSION:
            raise DataError(
                f"{folder} has format version {index.get('version')}, this llmc reads {VERSION}",
                help="remove the folder and prepare it again",
            )
        corpus = cls(folder, index)
        try:
            corpus._check()
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder} is damaged: {error}", help="remove the folder and prepare the corpus again"
            ) from error
        if vocab_size is not None and corpus.vocab_size > vocab_size:
            raise DataError(
                f"{folder} has a vocabulary of {corpus.vocab_size}, the model one of {vocab_size}",
                help="give a corpus that was prepared for this model",
            )
        return corpus

    def _check(self) -> None:
        for split in SPLITS:
            found, wanted = self._file(split, "bin").stat().st_size, self.num_tokens(split) * self.dtype.itemsize
            if found != wanted:
                raise ValueError(f"{split}.bin has {found} bytes, index.json says {wanted}")
            if len(self.document_starts(split)) != self.num_documents(split) + 1:
                raise ValueError(f"{split}.documents.npy does not have {self.num_documents(split)} documents")
        if not self.fingerprint:
            raise ValueError("index.json has no fingerprint")
        if not 0 <= self.end_of_text_id < self.vocab_size:
            raise ValueError(f"end of text is token {self.end_of_text_id} of {self.vocab_size}")
        if not (self.folder / "tokenizer.json").is_file():
            raise ValueError("tokenizer.json is missing")

    def _file(self, split: Split, suffix: str) -> Path:
        return self.folder / f"{split}.{suffix}"

    @property
    def fingerprint(self) -> str:
        return str(self.index["fingerprint"])

    @property
    def dtype(self) -> np.dtype:
        return DTYPES[self.index["dtype"]]

    @property
    def vocab_size(self) -> int:
        """Every id is below it: the model's vocabulary, which may be larger than the tokenizer's."""
        return int(self.index["vocab_size"])

    @property
    def end_of_text_id(self) -> int:
        return int(self.index["end_of_text"]["id"])

    def num_tokens(self, split: Split) -> int:
        """Tokens in the stream, end-of-text tokens included."""
        return int(self.index["splits"][split]["tokens"])

    def num_documents(self, split: Split) -> int:
        return int(self.index["splits"][split]["documents"])

    def tokens(self, split: Split) -> np.ndarray:
        """The stream, memory-mapped and read-only: uint16 or uint32 [tokens]."""
        if self.num_tokens(split) == 0:  # nothing can be mapped
            return np.empty(0, self.dtype)
        return np.memmap(self._file(split, "bin"), dtype=self.dtype, mode="r")

    def document_starts(self, split: Split) -> np.ndarray:
        """Where each document starts in the stream, and the stream's end: int64 [documents + 1].

        Packed windows cross documents. This is where a mask that keeps attention within a document, or
        positions that restart, would come from: np.searchsorted(starts, position, side="right") - 1.
        """
        return np.load(self._file(split, "documents.npy"), mmap_mode="r", allow_pickle=False)

    def document_name(self, split: Split, document: int) -> str:
        """`source/file` or `file:line`; reads the list of names up to it."""
        with self._file(split, "names.jsonl").open(encoding="utf-8") as lines:
            return json.loads(next(islice(lines, document, None)))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from .tokenizer import load_tokenizer

        return load_tokenizer(self.folder / "tokenizer.json")


def read_index(folder: Path) -> dict[str, Any] | None:
    """index.json of a corpus; None where `folder` does not have one that says it is ours."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) and index.get("format") == FORMAT else None
