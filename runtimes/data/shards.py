"""Documents to token files: encode in batches, append, remember where each document starts."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .corpus import SPLITS, Split
from .tokenizer import pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_CHARS = 1 << 21  # encoded at once by all threads: about 200 MB while it lasts


@dataclass(frozen=True)
class Passage:
    """A document, or the part of one that goes to a split."""

    split: Split
    source: int  # index into the recipe's sources
    name: str
    text: str


class ShardWriter:
    """One split's files, written front to back."""

    def __init__(self, folder: Path, split: Split, *, dtype: np.dtype, end_of_text_id: int) -> None:
        self._tokens = (folder / f"{split}.bin").open("wb")
        self._names = (folder / f"{split}.names.jsonl").open("w", encoding="utf-8")
        self._starts_path = folder / f"{split}.documents.npy"
        self._dtype = dtype
        self._end_of_text_id = end_of_text_id
        self._num_tokens = 0
        self._starts = array("q", [0])

    def extend(self, ids: list[int]) -> None:
        self._tokens.write(np.array(ids, self._dtype).tobytes())
        self._num_tokens += len(ids)

    def end_document(self, name: str) -> int:
        """Returns the tokens of the document that ends here, its end-of-text token included."""
        self.extend([self._end_of_text_id])
        self._names.write(json.dumps(name) + "\n")
        self._starts.append(self._num_tokens)
        return self._starts[-1] - self._starts[-2]

    @property
    def counts(self) -> dict[str, int]:
        return {"tokens": self._num_tokens, "documents": len(self._starts) - 1}

    def close(self) -> None:
        """Everything is on the disk afterwards, so that the folder may be renamed into its place."""
        for stream in (self._tokens, self._names):
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        with self._starts_path.open("wb") as stream:
            np.save(stream, np.array(self._starts, np.int64), allow_pickle=False)
            os.fsync(stream.fileno())


def write_shards(
    passages: Iterable[Passage],
    *,
    folder: Path,
    tokenizer: Tokenizer,
    dtype: np.dtype,
    end_of_text_id: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, dict[str, int]], dict[int, dict[str, int]]]:
    """Writes all passages in order; `advance` is told the characters done.

    Returns the counts of each split, and the tokens of each source in each split.
    """
    writers = {split: ShardWriter(folder, split, dtype=dtype, end_of_text_id=end_of_text_id) for split in SPLITS}
    tokens_of: dict[int, dict[str, int]] = {}
    for piece, ids in _encoded(_pieces(passages), tokenizer):
        writer = writers[piece.passage.split]
        writer.extend(ids)
        if piece.is_last:
            counts = tokens_of.setdefault(piece.passage.source, dict.fromkeys(SPLITS, 0))
            counts[piece.passage.split] += writer.end_document(piece.passage.name)
        advance(len(piece.text))
    for writer in writers.values():
        writer.close()
    return {split: writer.counts for split, writer in writers.items()}, tokens_of


@dataclass(frozen=True)
class _Piece:
    passage: Passage
    text: str
    is_last: bool


def _pieces(passages: Iterable[Passage]) -> Iterator[_Piece]:
    for passage in passages:
        remaining = len(passage.text)
        for text in pieces(passage.text):
            remaining -= len(text)
            yield _Piece(passage, text, is_last=remaining == 0)


def _encoded(stream: Iterable[_Piece], tokenizer: Tokenizer) -> Iterator[tuple[_Piece, list[int]]]:
    """Each piece with its ids; pieces are encoded together, since the library's threads share a batch."""
    batch: list[_Piece] = []
    num_chars = 0
    for piece in stream:
        batch.append(piece)
        num_chars += len(piece.text)
        if num_chars >= BATCH_CHARS:
            yield from _encode(batch, tokenizer)
            batch, num_chars = [], 0
    yield from _encode(batch, tokenizer)


def _encode(batch: list[_Piece], tokenizer: Tokenizer) -> Iterator[tuple[_Piece, list[int]]]:
    encodings = tokenizer.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
    return zip(batch, (encoding.ids for encoding in encodings), strict=True)
