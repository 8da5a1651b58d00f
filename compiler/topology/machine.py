"""The machine of a spec in base units: devices, their links, and the groups that mesh axes make on them.

Two levels today: devices that fast links join (a node, a rack, a torus), and the network between those. A mesh axis of
`size` ranks that lie `stride` devices apart takes the fast links as far as they reach. The full topology graph with rails,
tori and several levels replaces `group` and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...spec.units import GB, GIB
from ..cost.collectives import Group, Link
from ..cost.constants import DeviceConstants, constants_of

if TYPE_CHECKING:
    from ...spec.hardware import Accelerator, Hardware

TERA = 10**12

FAST_SHARE = 0.76
"""Of a fast link's datasheet bandwidth: 342 of 450 GB/s in an all-gather over 8 × H100 (measured, public)."""
FAST_LATENCY_S = 1.8e-6
"""A ring step inside a node: 12.8 µs for the 7 steps of an all-gather over 8 × H100 (measured, public)."""
SLOW_LATENCY_S = 5.0e-6
"""A ring step between nodes (assumed)."""
DEFAULT_INTER_NODE_BYTES_PER_S = 12.5e9
"""100 Gb/s a device, where neither the spec nor the catalog knows the network (assumed)."""
DEFAULT_INTRA_NODE_BYTES_PER_S = 32e9
"""PCIe 4 x16, where nothing better is known (assumed)."""


@dataclass(frozen=True)
class Machine:
    """Equal devices in equal nodes."""

    accelerator: str
    kind: str
    num_devices: int
    per_node: int
    domain: int
    """Devices that the fast links join."""
    memory_bytes: float
    memory_bytes_per_s: float
    peak_flops_per_s: dict[str, float]
    fast: Link
    slow: Link
    fast_link: str | None
    slow_link: str | None
    knows_network: bool
    """Whether the bandwidth between nodes is known, and not assumed."""
    constants: DeviceConstants
    price_per_hour_usd: float | None
    tdp_w: float | None

    def group(self, size: int, *, stride: int = 1) -> Group:
        """The ranks of one axis group: `size` devices, `stride` apart."""
        reach = max(1, self.domain // stride)
        inside = math.gcd(size, reach) if size > reach else size
        return Group(inside=inside, across=size // inside, fast=self.fast, slow=self.slow)

    @property
    def power_factor(self) -> float:
        """What a device's power limit makes of its clock under load, against the family's usual limit."""
        usual = self.constants.usual_tdp_w
        return 1.0 if usual == 0 or self.tdp_w is None else (self.tdp_w / usual) ** self.constants.power_exponent

    def peak(self, precision: str) -> float:
        """FLOP/s of the matrix units in a precision; a format that they lack runs at the next wider one's rate."""
        for name in _FALLBACKS.get(precision, (precision, "bf16", "fp16", "fp32")):
            if name in self.peak_flops_per_s:
                return self.peak_flops_per_s[name]
        return max(self.peak_flops_per_s.values())


_FALLBACKS = {
    "fp32": ("fp32", "bf16", "fp16"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "mxfp8": ("fp8", "bf16", "fp16", "fp32"),
    "nvfp4": ("fp4", "fp8", "bf16", "fp32"),
}


def machine_of(hardware: Hardware) -> Machine:
    """The machine that a spec describes."""
    device = hardware.accelerator
    per_node = hardware.per_node or device.per_node
    num_devices = hardware.num_devices
    is_torus = device.torus is not None
    domain = _domain(hardware, num_devices=num_devices, per_node=min(per_node, num_devices))
    fast = _fast_bytes_per_s(hardware)
    slow = _slow_bytes_per_s(hardware) if num_devices > domain else None
    peak = device.peak_tflops
    peaks = {
        "fp32": peak.fp32,
        "bf16": peak.bf16,
        "fp16": peak.fp16,
        "fp8": peak.fp8,
        "fp4": peak.fp4,
        "int8": peak.int8,
    }
    name = device.name or device.like or "accelerator"
    constants = constants_of(architecture=device.architecture, kind=device.kind)
    return Machine(
        accelerator=name,
        kind=device.kind,
        num_devices=num_devices,
        per_node=per_node,
        domain=domain,
        memory_bytes=device.memory_gib * GIB,
        memory_bytes_per_s=device.memory_gb_s * GB,
        peak_flops_per_s={label: value * TERA for label, value in peaks.items() if value is not None},
        fast=Link(FAST_LATENCY_S, (fast or DEFAULT_INTRA_NODE_BYTES_PER_S) * FAST_SHARE),
        slow=Link(SLOW_LATENCY_S, (slow or DEFAULT_INTER_NODE_BYTES_PER_S) * constants.network_share),
        fast_link=_named(device.intra_node.link, fast) if not is_torus else _named("torus", fast),
        slow_link=_named(device.inter_node.link, slow),
        knows_network=slow is not None or num_devices <= domain,
        constants=constants,
        price_per_hour_usd=hardware.price_per_hour_usd,
        tdp_w=device.tdp_w,
    )


def _domain(hardware: Hardware, *, num_devices: int, per_node: int) -> int:
    """Devices that fast links join, in equal groups: of a rack's 72, 256 devices use 64 each."""
    device = hardware.accelerator
    if hardware.topology is not None:
        return num_devices
    joined = device.intra_node.domain or 0
    reach = joined if joined > device.per_node else per_node  # a rack of several hosts, or what one host holds
    return max(size for size in range(1, min(reach, num_devices) + 1) if num_devices % size == 0)


def _fast_bytes_per_s(hardware: Hardware) -> float | None:
    device: Accelerator = hardware.accelerator
    if hardware.intra_node_gb_s is not None:
        return hardware.intra_node_gb_s * GB
    if device.torus is not None:
        return 2 * device.torus.gb_s * GB  # both links of the axis that a ring runs along
    return device.intra_node.gb_s * GB if device.intra_node.gb_s is not None else None


def _slow_bytes_per_s(hardware: Hardware) -> float | None:
    gb_s = hardware.inter_node_gb_s or hardware.accelerator.inter_node.gb_s
    return gb_s * GB if gb_s is not None else None


def _named(link: str | None, bytes_per_s: float | None) -> str | None:
    if bytes_per_s is None:
        return link
    return f"{link or 'network'} {bytes_per_s / GB:g} GB/s"
