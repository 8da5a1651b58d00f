"""Where the axes of a layout lie on the machine: how far apart the ranks of a group are, and which links join them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .layout import ORDER

if TYPE_CHECKING:
    from ..topology.machine import Machine
    from .layout import Layout


@dataclass(frozen=True)
class AxisPlace:
    """One axis of more than one rank."""

    name: str
    size: int
    stride: int
    """Devices between neighbours of a group."""
    leaves_node: bool
    """Whether a group needs the network between nodes (or racks)."""
    link: str
    """`NVLink4 450 GB/s`"""

    @property
    def span(self) -> int:
        """Devices from the first to the last of a group."""
        return self.size * self.stride


def axes_of(layout: Layout, machine: Machine) -> tuple[AxisPlace, ...]:
    """The axes of a layout from the innermost to the outermost, then ep, whose ranks are taken out of dp_shard × cp."""
    order = layout.order or ORDER
    places = [
        _place(name, getattr(layout, name), layout.stride(name), machine) for name in order if getattr(layout, name) > 1
    ]
    if layout.ep > 1:
        places.append(_place("ep", layout.ep, layout.tp, machine))
    return tuple(places)


def coordinates(layout: Layout, device: int) -> dict[str, int]:
    """Which rank of each axis a device is."""
    return {name: device // layout.stride(name) % getattr(layout, name) for name in ORDER}


def _place(name: str, size: int, stride: int, machine: Machine) -> AxisPlace:
    leaves = size * stride > machine.domain
    link = machine.slow_link if leaves else machine.fast_link
    return AxisPlace(name, size, stride, leaves, link or ("the network" if leaves else "links inside a node"))
