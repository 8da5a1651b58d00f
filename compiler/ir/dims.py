"""The alphabet of dimensions, one for the whole project, and the line in which an op states its own.

A line reads like an einsum with names: `"B T D, D F -> B T F"`. Terms before the arrow are first the values an op reads,
then its parameters; the term after it is what it writes. From the line follow shapes, FLOPs, parameters and legal splits:

    a dim in a value and in the result           may be split freely                    (B, T; H in attention)
    a dim in a parameter and in the result       may be split freely, column-parallel   (F in D F)
    a dim in a value and in a parameter only     is summed: a split needs a reduction   (D in D F)
    a dim in a parameter only                    is looked up: partial results add up   (V in V D, E in E D F)
    a dim marked with `!`                        is needed whole: a split needs a gather (the D a norm runs over)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Number = TypeVar("Number", int, float)

ALPHABET: dict[str, str] = {
    "B": "batch",
    "T": "query tokens",
    "S": "key tokens",
    "D": "model",
    "F": "feed-forward",
    "V": "vocab",
    "H": "query heads",
    "K": "key/value heads",
    "C": "head size",
    "E": "experts",
    "X": "experts a token visits",
    "W": "several projections side by side",
    "P": "rows of a table of positions",
    "Q": "query latent",
    "L": "key/value latent",
    "N": "part of a head without position",
    "R": "part of a head that is rotated",
    "U": "value head size",
    "O": "one",
}
"""Letter -> meaning. The first ten are printed at the top of generated files."""

FREE = ("B", "T", "S")
"""Dims that the workload binds, and not the model."""

Split = Literal["free", "reduce", "lookup", "whole"]


@dataclass(frozen=True)
class Term:
    """The dims of one value or parameter; `whole` are those an op cannot take in parts."""

    dims: tuple[str, ...]
    whole: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return " ".join(f"{dim}!" if dim in self.whole else dim for dim in self.dims)

    def size(self, sizes: Mapping[str, Number]) -> Number:
        """Number of elements; a mean batch may be a fraction."""
        return math.prod(sizes[dim] for dim in self.dims)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Line:
    """A parsed line: what is read, what is written."""

    inputs: tuple[Term, ...]
    output: Term

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {self.output}".lstrip()

    @property
    def dims(self) -> tuple[str, ...]:
        """Every dim once, in order of appearance."""
        return tuple(dict.fromkeys(dim for term in (*self.inputs, self.output) for dim in term.dims))

    def split(self, dim: str, *, num_values: int) -> Split:
        """What splitting `dim` over devices asks for; the first `num_values` inputs are values, the rest parameters."""
        if any(dim in term.whole for term in self.inputs):
            return "whole"
        in_values = any(dim in term.dims for term in self.inputs[:num_values])
        if dim in self.output.dims:
            return "free"
        return "reduce" if in_values else "lookup"


@lru_cache(maxsize=1024)
def parse_line(text: str) -> Line:
    """`"B T D!, D -> B T D"` -> Line."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"a line of dims needs an arrow: {text!r}")
    inputs = tuple(_parse_term(term) for term in left.split(",")) if left.strip() else ()
    return Line(inputs=inputs, output=_parse_term(right))


def _parse_term(text: str) -> Term:
    dims = tuple(dim.rstrip("!") for dim in text.split())
    unknown = [dim for dim in dims if dim not in ALPHABET]
    if unknown:
        raise ValueError(f"not in the alphabet of dims: {', '.join(unknown)}")
    return Term(dims=dims, whole=frozenset(dim.rstrip("!") for dim in text.split() if dim.endswith("!")))
