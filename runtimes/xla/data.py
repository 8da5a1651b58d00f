"""Batches of one size: each other size would be another graph to compile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..common.errors import RunError
from ..data.loader import TokenLoader


def whole_batches(loader: TokenLoader, most: int) -> Iterator[np.ndarray]:
    """The first `most` batches of a split, without a last one that is smaller."""
    found = 0
    for windows in loader.sweep(most, even=True):
        if len(windows) == loader.batch:
            found += 1
            yield windows
    if not found:
        raise RunError(
            f"the {loader.split} split has {loader.num_windows} windows, and a batch of this host is {loader.batch}",
            help="add text, or hold out a larger share for validation",
        )
