"""Batches of packed windows in a deterministic order that a cursor can resume.

The stream of a split is cut into windows of seq_len + 1 tokens with a stride of seq_len: window i is
stream[i*seq_len : (i+1)*seq_len + 1], so that each token of the windows is predicted exactly once. Windows cross
documents; the end-of-text token between two is an ordinary target, and attention sees the document before. At most
seq_len tokens at the end of the stream are not used.

Samples are counted over all ranks and epochs by one cursor: sample s is window permutation(s mod N) of epoch s // N.
A step of world_size ranks takes the next world_size * batch samples, rank r the r-th batch of them. The cursor is
therefore all that a checkpoint needs, and restoring it on another number of ranks repeats and drops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .corpus import Corpus, Split
from .errors import DataError
from .permutation import Permutation


class TokenLoader:
    """An endless iterator of int64 [batch, seq_len + 1]: inputs are [:, :-1], targets [:, 1:].

    `batch` is what this rank gets a step. Without `shuffle` the windows come in the order of the stream.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: Split,
        seq_len: int,
        batch: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        if seq_len < 1 or batch < 1 or not 0 <= rank < world_size:
            raise ValueError(f"seq_len {seq_len}, batch {batch}, rank {rank} of {world_size}")
        self.corpus, self.split, self.seq_len, self.batch = corpus, split, seq_len, batch
        self.seed, self.rank, self.world_size, self.shuffle = seed, rank, world_size, shuffle
        self.samples = 0  # the cursor: taken by all ranks so far
        self.num_windows = max(0, corpus.num_tokens(split) - 1) // seq_len
        if self.num_windows == 0:
            raise DataError(
                f"the {split} split has {corpus.num_tokens(split)} tokens, a window needs {seq_len + 1}",
                help="add text, take a shorter sequence, or hold out a larger share for validation",
            )
        self._tokens = corpus.tokens(split)
        self._permutation: tuple[int, Permutation] | None = None  # of the epoch used last

    @property
    def epoch(self) -> int:
        """Whole passes over the split that the cursor has behind it."""
        return self.samples // self.num_windows

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        """The next batch of this rank: int64 [batch, seq_len + 1]."""
        windows = self.windows_at(self.samples + self.rank * self.batch, count=self.batch)
        batch = self.read(windows)
        self.samples += self.world_size * self.batch
        return batch

    def sweep(self, num_batches: int | None = None, *, even: bool = False) -> Iterator[np.ndarray]:
        """Each window once in the order of the stream (validation), without moving the cursor.

        Ranks take turns; the last batch may be smaller. With `num_batches`, the first few batches of this rank. With
        `even`, what is left after the last full turn is left out, so that all ranks have as many batches.
        """
        rest = self.num_windows % self.world_size if even else 0
        if rest == self.num_windows:
            raise DataError(
                f"the {self.split} split has {self.num_windows} windows for {self.world_size} ranks",
                help="add text, take a shorter sequence, or hold out a larger share for validation",
            )
        own = np.arange(self.rank, self.num_windows - rest, self.world_size)
        for start in range(0, len(own), self.batch)[:num_batches]:
            yield self.read(own[start : start + self.batch])

    def windows_at(self, sample: int, *, count: int) -> np.ndarray:
        """The windows that samples [sample, sample + count) are: int64 [count]."""
        samples = np.arange(sample, sample + count)
        epochs, positions = np.divmod(samples, self.num_windows)
        if not self.shuffle:
            return positions
        windows = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            windows[of_epoch] = self._permutation_of(int(epoch))(positions[of_epoch])
        return windows

    def read(self, windows: np.ndarray) -> np.ndarray:
        """The tokens of windows [n] -> int64 [n, seq_len + 1]."""
        batch = np.empty((len(windows), self.seq_len + 1), np.int64)
        for row, start in enumerate(windows * self.seq_len):
            batch[row] = self._tokens[start : start + self.seq_len + 1]
        if batch.size and batch.max() >= self.corpus.vocab_size:  # a kernel would read beyond the embedding
            raise DataError(
                f"{self.corpus.folder} is damaged: token {batch.max()}, the vocabulary has {self.corpus.vocab_size}",
                help="remove the folder and prepare the corpus again",
            )
        return batch

    def _permutation_of(self, epoch: int) -> Permutation:
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (epoch, Permutation(self.num_windows, seed=self.seed, epoch=epoch))
        return self._permutation[1]

    def _identity(self) -> dict[str, Any]:
        """What a cursor counts samples of; it means nothing elsewhere."""
        return {
            "fingerprint": self.corpus.fingerprint,
            "split": self.split,
            "seq_len": self.seq_len,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def state(self) -> dict[str, Any]:
        """The cursor, as JSON values; the same on every rank."""
        return {**self._identity(), "samples": self.samples}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues after the batch before which `state` was taken, on any number of ranks and any batch size."""
        for key, mine in self._identity().items():
            if state.get(key) != mine:
                raise DataError(
                    f"the saved data position has {key} {state.get(key)!r}, this run has {mine!r}",
                    help="resume with the data and sequence length of the saved run, or start a new run",
                )
        samples = state.get("samples")
        if type(samples) is not int or samples < 0:
            raise DataError(f"the saved data position is {samples!r}", help="resume from another checkpoint")
        self.samples = samples
