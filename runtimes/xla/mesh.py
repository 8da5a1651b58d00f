"""The mesh of a program, laid on the torus as its plan says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..common.errors import RunError
from . import device


def take_mesh(axes: Mapping[str, int], *, torus: tuple[int, ...] | None = None, slices: int = 1) -> device.Mesh:
    """A mesh with these axes, outermost first.

    The plan numbers devices along the first side of the torus, then the second, then the third, then slice by slice; neighbours
    along the last axis are neighbours in that order.
    """
    size, found = math.prod(axes.values()), device.num_devices()
    if size != found:
        raise RunError(
            f"this program is for {size} devices, and there {'is' if found == 1 else 'are'} {found}",
            help=f"start it on a slice of {size}, or try it on this machine with PJRT_DEVICE=CPU CPU_NUM_DEVICES={size}",
        )
    numbers = in_order(device.places(), torus=torus, slices=slices, count=size)
    return device.make_mesh(np.array(numbers).reshape(tuple(axes.values())), tuple(axes))


def in_order(
    places: Sequence[tuple[int, tuple[int, ...]]] | None, *, torus: tuple[int, ...] | None, slices: int, count: int
) -> list[int]:
    """Device numbers in the plan's order, from (slice, coordinates) of each; without them (CPU devices) the runtime's own."""
    if places is None or torus is None:
        return list(range(count))
    sides = tuple(max(each) + 1 for each in zip(*(at for _, at in places), strict=True))
    while len(sides) > len(torus) and sides[-1] == 1:
        sides = sides[:-1]
    found = len({number for number, _ in places})
    if (sides, found) != (torus, slices):
        told = (f"{each} x {'x'.join(map(str, shape))}" for each, shape in ((slices, torus), (found, sides)))
        raise RunError("this program is for slices of {}, and here are {}".format(*told), help="build it for these")
    return sorted(range(count), key=lambda number: (places[number][0], places[number][1][::-1]))
