"""Collectives in a program that XLA has compiled, from its text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

PERMUTE = "collective-permute"
KINDS = ("all-gather", "all-reduce", "all-to-all", PERMUTE, "reduce-scatter")
_LINE = re.compile(rf"= (?P<type>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_BODY = re.compile(r"\bbody=%([\w.\-]+)")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")
_BITS = re.compile(r"\d+")


RING = "ring"
"""Permutations in a loop: XLA multiplies with a matrix whose parts go round all devices of a group, and prints no count of its turns."""


@dataclass(frozen=True)
class Collective:
    kind: str
    num_bytes: int
    """Of the result on one device; of an asynchronous one, of the largest array that it names."""
    group: tuple[int, ...]
    """The devices of the first group; of a permutation, its first pair."""


def collectives_of(text: str) -> Iterator[Collective]:
    """Permutations last. The body of a loop counts once; one that permutes is a ring, of parts of that size."""
    bodies, computation = set(_BODY.findall(text)), ""
    rings: dict[str, Collective] = {}
    hops: list[Collective] = []
    for line in text.splitlines():
        if named := _COMPUTATION.match(line):
            computation = named[1]
        elif (found := _collective(line)) is not None:
            if found.kind != PERMUTE:
                yield found
            elif computation in bodies:
                rings.setdefault(computation, replace(found, kind=RING))
            else:
                hops.append(found)
    for ring in rings.values():  # whose first hop is before the loop
        first = next((each for each in hops if each.num_bytes == ring.num_bytes), None)
        if first is not None:
            hops.remove(first)
    yield from hops
    yield from rings.values()


def _collective(line: str) -> Collective | None:
    found = _LINE.search(line)
    if found is None:
        return None
    sizes = [_num_bytes(*shape) for shape in _SHAPE.findall(found["type"])]
    is_one = bool(found["start"]) and found["kind"] != "all-reduce"
    return Collective(found["kind"], max(sizes) if is_one else sum(sizes), _group(line))


def _num_bytes(dtype: str, dims: str) -> int:
    count = math.prod(int(dim) for dim in dims.split(",") if dim)
    bits = _BITS.search(dtype)
    return count * int(bits[0]) // 8 if bits else count


def _group(line: str) -> tuple[int, ...]:
    if found := _LISTED.search(line):
        return tuple(int(each) for each in found[1].split(","))
    if found := _PAIRS.search(line):
        return int(found[1]), int(found[2])
    if found := _NAMED.search(line):
        return _along(found[1], found[2])
    if found := _COUNTED.search(line):
        shape, reshaped = _numbers(found[1]), _numbers(found[2])
        return _first_group(shape[-1] if len(shape) > 1 else shape[0], reshaped, _numbers(found[3] or ""))
    return ()


def _along(mesh: str, axes: str) -> tuple[int, ...]:
    """The first group along some axes of a mesh, `'axis_0'=2,'axis_1'=4`, whose devices are numbered over all of them."""
    sizes = {name.strip(" '"): int(size) for name, size in (each.split("=") for each in mesh.split(","))}
    named = [name.strip(" '") for name in axes.split(",")]
    found, stride = [0], math.prod(sizes.values())
    for name, size in sizes.items():
        stride //= size
        if name in named:
            found = [first + place * stride for first in found for place in range(size)]
    return tuple(sorted(found))


def _first_group(size: int, dims: list[int], order: list[int]) -> tuple[int, ...]:
    """The first `size` of all devices, numbered over `dims` and read in this order of the dims."""
    order = order or list(range(len(dims)))
    strides = [math.prod(dims[dim + 1 :]) for dim in range(len(dims))]
    found = []
    for number in range(size):
        device = 0
        for dim in reversed(order):
            number, place = divmod(number, dims[dim])
            device += place * strides[dim]
        found.append(device)
    return tuple(sorted(found))


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]
