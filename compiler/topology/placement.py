"""Where the axes of a layout lie on a machine: the ranks of a group, as runs of equal distance.

    tp 2 · dp_shard 4, tp innermost:   the group of dp_shard is 4 ranks, 2 devices apart: ((4, 2),)

Axes that follow each other make one run; with another axis between them, two. The ranks of ep are the first of cp × dp_shard.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ..cost.collectives import Group
from .torus import Factor, split

if TYPE_CHECKING:
    from ..planner.layout import Axis, Layout
    from .machine import Machine


def runs(layout: Layout, *axes: Axis) -> tuple[Factor, ...]:
    """The ranks of a group over some axes, innermost first; a run of 1 is left out."""
    return _merged(tuple((getattr(layout, axis), layout.stride(axis)) for axis in axes))


@lru_cache(maxsize=4096)
def _merged(axes: tuple[Factor, ...]) -> tuple[Factor, ...]:
    found: list[Factor] = []
    for size, stride in sorted(axes, key=lambda run: run[1]):
        if size == 1:
            continue
        if found and found[-1][1] * found[-1][0] == stride:
            found[-1] = (found[-1][0] * size, found[-1][1])
        else:
            found.append((size, stride))
    return tuple(found)


def group(layout: Layout, machine: Machine, *axes: Axis) -> Group:
    """The group of an axis, or of several together."""
    return machine.group_of(runs(layout, *axes))


def expert_groups(layout: Layout, machine: Machine) -> tuple[Group, Group]:
    """(ranks that divide the experts, ranks that hold the same ones and share their states)"""
    inner, outer = split(runs(layout, "cp", "dp_shard"), first=layout.ep)
    return machine.group_of(inner), machine.group_of(outer)
