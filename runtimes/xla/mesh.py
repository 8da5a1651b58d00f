"""The mesh of a program, laid on the torus as its plan says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..common.errors import RunError
from . import device


def take_mesh(axes: Mapping[str, int], *, torus: tuple[int, ...] | None = None) -> device.Mesh:
    """A mesh with these axes, outermost first.

    The plan numbers devices along the first side of the torus, then the second, then the third; neighbours along the last axis
    are neighbours in that order.
    """
    size, found = math.prod(axes.values()), device.num_devices()
    if size != found:
        raise RunError(
            f"this program is for {size} devices, and there {'is' if found == 1 else 'are'} {found}",
            help=f"start it on a slice of {size}, or try it on this machine with PJRT_DEVICE=CPU CPU_NUM_DEVICES={size}",
        )
    numbers = in_order(device.coordinates(), torus=torus, count=size)
    return device.make_mesh(np.array(numbers).reshape(tuple(axes.values())), tuple(axes))


def in_order(coordinates: Sequence[tuple[int, ...]] | None, *, torus: tuple[int, ...] | None, count: int) -> list[int]:
    """Device numbers in the plan's order; without coordinates (CPU devices) the runtime's own."""
    if coordinates is None or torus is None:
        return list(range(count))
    sides = tuple(max(each) + 1 for each in zip(*coordinates, strict=True))
    while len(sides) > len(torus) and sides[-1] == 1:
        sides = sides[:-1]
    if sides != torus:
        shapes = ("x".join(map(str, each)) for each in (torus, sides))
        raise RunError(
            "this program is for a slice of {}, and this is one of {}".format(*shapes), help="build it for that"
        )
    return sorted(range(count), key=lambda number: coordinates[number][::-1])
