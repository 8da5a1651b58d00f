"""Slices of TPUs: what their makers call them, which hosts they have, and what mesh axes take of their sides.

Names are Google's: of the compiler (libtpu), of node pools (GKE), of the Cloud TPU API and its runtime images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.hardware import Accelerator, Hardware


@dataclass(frozen=True)
class Generation:
    """One generation of TPUs."""

    compiler: str
    node_pool: str
    api: str | None
    """None: it is rented through GKE alone."""
    runtime: str | None
    """Image of a host with nothing but drivers and Python."""


GENERATIONS = {
    "v4": Generation("v4", "tpu-v4-podslice", "V4", "tpu-ubuntu2204-base"),
    "v5e": Generation("v5e", "tpu-v5-lite-podslice", "V5LITE_POD", "v2-alpha-tpuv5-lite"),
    "v5p": Generation("v5p", "tpu-v5p-slice", "V5P", "v2-alpha-tpuv5"),
    "v6e": Generation("v6e", "tpu-v6e-slice", "V6E", "v2-alpha-tpuv6e"),
    "v7x": Generation("tpu7x", "tpu7x", None, None),
}
_ALIASES = {"ironwood": "v7x", "trillium": "v6e", "v7": "v7x"}
_LARGEST_HOST = 8
"""Chips of a single host, where a torus has two sides; larger slices have hosts of four."""
_CHIPS_OF_A_HOST = 4


def generation_of(accelerator: Accelerator) -> Generation | None:
    """None for an accelerator that resembles no TPU of the catalog."""
    name = (accelerator.like or accelerator.name or "").removeprefix("tpu-")
    return GENERATIONS.get(_ALIASES.get(name, name))


@dataclass(frozen=True)
class Slices:
    """The slices of a spec."""

    generation: Generation
    device: str
    count: int
    topology: str
    chips: int
    """Of a slice."""
    chips_of_a_host: int

    @property
    def hosts(self) -> int:
        """Of a slice."""
        return self.chips // self.chips_of_a_host

    @property
    def words(self) -> str:
        hosts = f"{self.hosts} hosts" if self.hosts > 1 else "one host"
        one = f"{self.topology} x {self.device}, {hosts}"
        return f"{self.count} slices of {one} each" if self.count > 1 else f"a slice of {one}"


def slices_of(hardware: Hardware) -> Slices | None:
    """None where there are no TPUs, or nobody says how they are wired."""
    generation = generation_of(hardware.accelerator)
    if hardware.accelerator.kind != "tpu" or hardware.topology is None or generation is None:
        return None
    chips = hardware.num_devices // hardware.slices
    is_flat = hardware.topology.count("x") == 1
    host = min(chips, _CHIPS_OF_A_HOST) if not is_flat or chips > _LARGEST_HOST else chips
    device = hardware.accelerator.name or hardware.accelerator.like or "TPU"
    return Slices(generation, device, hardware.slices, hardware.topology, chips, host)


def num_hosts(hardware: Hardware, *, chips: int) -> int:
    """Hosts that start a program of so many TPUs together: all that are wired together, or as many as it takes where nobody says."""
    slices = slices_of(hardware)
    if slices is not None:
        return slices.count * slices.hosts
    taken = chips if hardware.topology is None else hardware.num_devices
    return -(-taken // (hardware.per_node or hardware.accelerator.per_node))


def torus_words(axes: tuple[tuple[str, int], ...], torus: tuple[int, ...] | None, *, slices: int = 1) -> str:
    """`tp takes 4 along the 1st side; dp_shard …`: of axes, outermost first."""
    if torus is None:
        return ""
    extents = (*torus, slices)
    places = (*("along the 1st", "along the 2nd", "along the 3rd")[: len(torus)], "slices")
    found, stride = [], 1
    for name, size in reversed(axes):
        parts = []
        for side, extent in enumerate(extents):
            below = math.prod(extents[:side])
            first, last = max(stride, below), min(stride * size, below * extent)
            if last > first:
                parts.append(f"{last // first} {places[side]}")
        found.append(f"{name} takes {' and '.join(parts)}" if parts else f"{name} takes none")
        stride *= size
    return "; ".join(found)
