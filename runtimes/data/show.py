"""One sample as the loss sees it: which tokens go in, which are predicted, from which documents."""

from __future__ import annotations

import numpy as np

from .corpus import Corpus, Split
from .loader import TokenLoader


def show_sample(corpus: Corpus, index: int, *, seq_len: int = 256, split: Split = "train", rows: int = 12) -> str:
    """Window `index` of a split as text: its documents, all of it token by token, and the first `rows` predictions.

    A window is the same whatever the order in which training takes it.
    """
    loader = TokenLoader(corpus, split, seq_len, batch=1, shuffle=False)
    if not 0 <= index < loader.num_windows:
        raise IndexError(f"window {index} of {loader.num_windows}")
    window = loader.read(np.array([index]))[0]  # [seq_len + 1]
    start = index * seq_len
    return "\n".join(
        [
            f"window {index} of {loader.num_windows:,} in {split}: tokens {start:,} to {start + seq_len:,} of the stream",
            *_documents(corpus, split, start=start, stop=start + seq_len + 1),
            f"the loss counts all {seq_len} predictions alike; attention crosses from one document into the next",
            "",
            "│".join(_visible(corpus, token) for token in window),
            "",
            f"{'position':>8}  {'input':<28}target",
            *(
                f"{position:>8}  {_cell(corpus, window[position]):<28}{_cell(corpus, window[position + 1])}"
                for position in range(min(rows, seq_len))
            ),
            *([f"{'…':>8}"] if rows < seq_len else []),
        ]
    )


def _documents(corpus: Corpus, split: Split, *, start: int, stop: int) -> list[str]:
    starts = corpus.document_starts(split)  # [documents + 1]
    first = int(np.searchsorted(starts, start, side="right")) - 1
    last = int(np.searchsorted(starts, stop, side="left"))
    return [
        f"  {corpus.document_name(split, document)}: its tokens {max(start, begin) - begin:,} to "
        f"{min(stop, end) - begin - 1:,} of {end - begin:,}"
        for document in range(first, last)
        for begin, end in [(int(starts[document]), int(starts[document + 1]))]
    ]


def _visible(corpus: Corpus, token: int) -> str:
    """The token's text; a byte that is no whole character alone is shown as �."""
    return corpus.tokenizer.decode([int(token)], skip_special_tokens=False)


def _cell(corpus: Corpus, token: int) -> str:
    return f"{int(token):>6} {_visible(corpus, token)!r}"
