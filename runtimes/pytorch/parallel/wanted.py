"""Which gradients a backward pass is for, told to autograd functions that would do more.

Schedules that compute the gradients of weights later go through a stage twice; torch's own ops know what is asked of them,
functions of Python do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

BackwardPass = Literal["full", "input", "weight"]


@dataclass
class _Wanted:
    inputs: bool = True
    weights: bool = True


WANTED = _Wanted()
"""Of the pass that is under way: there is one at a time, whichever thread runs it."""


@contextmanager
def backward_for(which: BackwardPass) -> Iterator[None]:
    WANTED.inputs, WANTED.weights = which != "weight", which != "input"
    try:
        yield
    finally:
        WANTED.inputs = WANTED.weights = True
