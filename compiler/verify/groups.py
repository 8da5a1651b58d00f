"""Ranks of the world <-> axes of a layout.

Axes lie as the layout orders them, by default pp outermost, then dp_replicate, dp_shard, cp, tp. Experts see dp_shard x cp as
same_experts x ep.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from ..planner.layout import ORDER

if TYPE_CHECKING:
    from ..planner.layout import Layout

AXES = tuple(reversed(ORDER))
OF_EXPERTS = ("same_experts", "ep")


def ranks_along(layout: Layout, rank: int, axes: str) -> tuple[int, ...]:
    """The ranks that differ from `rank` along these axes alone (`dp_shard+cp`), itself included; `world` is all."""
    if axes == "world":
        return tuple(range(layout.devices))
    free = axes.split("+")
    sizes = _sizes(layout, of_experts=any(name in OF_EXPERTS for name in free))
    place = _place(rank, sizes)
    spans = [range(size) if name in free else (place[name],) for name, size in sizes.items()]
    return tuple(sorted(_rank(where, list(sizes.values())) for where in product(*spans)))


def coordinates(layout: Layout, rank: int) -> dict[str, int]:
    """Where a rank stands along each axis."""
    return _place(rank, _sizes(layout, of_experts=False))


def _sizes(layout: Layout, *, of_experts: bool) -> dict[str, int]:
    """Axes from the outermost to the innermost."""
    if not of_experts:
        return {name: getattr(layout, name) for name in reversed(layout.order or ORDER)}
    experts = {"same_experts": layout.shards // layout.ep, "ep": layout.ep}
    return {"pp": layout.pp, "dp_replicate": layout.dp_replicate, **experts, "tp": layout.tp}


def _place(rank: int, sizes: dict[str, int]) -> dict[str, int]:
    place: dict[str, int] = {}
    for name in reversed(sizes):
        rank, place[name] = divmod(rank, sizes[name])
    return place


def _rank(where: tuple[int, ...], sizes: list[int]) -> int:
    number = 0
    for index, size in zip(where, sizes, strict=True):
        number = number * size + index
    return number


def kv_group(layout: Layout, rank: int, copies: int) -> tuple[int, ...]:
    """The neighbours along tp that hold the same key/value head."""
    start = rank - rank % layout.tp % copies
    return tuple(range(start, start + copies))


def known_axes(layout: Layout) -> Iterator[str]:
    """Axes with more than one rank and the joined ones that programs communicate over, the plainest first."""
    several = [name for name in reversed(AXES) if getattr(layout, name) > 1]
    yield from several
    data = [name for name in ("dp_replicate", "dp_shard", "cp") if name in several]
    for joined in ("dp_shard+cp", "+".join(data)):
        if "+" in joined and all(name in several for name in joined.split("+")):
            yield joined
    if layout.ep > 1:
        yield from ("ep", "same_experts", "dp_replicate+same_experts")
    yield "world"


def axis_of(layout: Layout, rank: int, group: tuple[int, ...]) -> str | None:
    """The plainest axis whose ranks these are; None: no axis of the layout."""
    return next((name for name in known_axes(layout) if ranks_along(layout, rank, name) == tuple(sorted(group))), None)
