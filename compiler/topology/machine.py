"""The machine of a spec in base units: devices, their links, and the groups that mesh axes make on them.

Devices that fast links join (a node, a rack), the network between those, and above a pod a narrower one; a torus has its own
arithmetic (torus.py). A mesh axis of `size` ranks that lie `stride` devices apart takes the fast links as far as they reach.
graph.py draws the same machine as a graph, and tests hold both to the same bandwidths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...spec.units import GB, GIB
from ..cost.collectives import Group, Link
from ..cost.constants import DeviceConstants, constants_of
from .measured import MeasuredProduct, MeasuredServer, measured_products, measured_server
from .torus import Factor, Torus, split

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
    cores: int = 1
    """Of a device, that tensor parallelism counts one by one."""
    op_s: float | None = None
    """Of starting and ending a small op, where somebody measured it."""
    measured_products: Mapping[str, MeasuredProduct] = field(default_factory=dict)
    """PyTorch's, by format, where somebody measured them."""
    measured_server: MeasuredServer | None = None

    host_memory_bytes: float | None = None
    """Of a node; None: not known."""
    host_bytes_per_s: float | None = None
    """Of that memory."""
    pod_size: int | None = None
    """Devices between which the network is as wide as their ports; beyond, it is `pod_bytes_per_s` a device."""
    pod_bytes_per_s: float = math.inf
    is_mesh: bool = False
    """Whether fast links are a wire to each of the others: a group that is not all of them has only some of the wires."""
    torus: Torus | None = None
    _groups: dict[tuple[Factor, ...], Group] = field(default_factory=dict, init=False, repr=False, compare=False)

    def group(self, size: int, *, stride: int = 1) -> Group:
        """The ranks of one axis group: `size` devices, `stride` apart."""
        return self.group_of(((size, stride),))

    def group_of(self, factors: tuple[Factor, ...]) -> Group:
        """The ranks of a group that takes several runs, as (ranks, devices between neighbours), innermost first."""
        if factors not in self._groups:
            self._groups[factors] = self._group_of(factors)
        return self._groups[factors]

    def _group_of(self, factors: tuple[Factor, ...]) -> Group:
        size, inside = math.prod(size for size, _ in factors), _inside(factors, reach=self.domain)
        if self.torus is not None:
            here, _ = split(factors, first=inside)  # of a slice
            share = self.torus.exchange_share(here)
            return Group(inside, size // inside, self.torus.ring_link(here), self.slow, fast_exchange=share)
        fast, slow, exchange = self.fast, self.slow, 1.0
        if self.is_mesh and 1 < inside < self.domain:
            fast = replace(fast, bytes_per_s=fast.bytes_per_s * (inside - 1) / (self.domain - 1))
        if self.pod_size is not None and size > (in_pod := _inside(factors, reach=self.pod_size)):
            # A ring leaves a pod once for each NIC of a node, and has the share of all its ranks in the pod.
            width = in_pod / inside * self.pod_bytes_per_s
            narrow = replace(slow, bytes_per_s=min(slow.bytes_per_s, width))
            beyond = (size - in_pod) / (size - inside) * narrow.bytes_per_s / self.pod_bytes_per_s
            slow, exchange = narrow, min(1.0, 1 / beyond)
        return Group(inside, size // inside, fast, slow, slow_exchange=exchange)

    @property
    def devices_of_host(self) -> int:
        """Devices that share the memory of one host."""
        return min(self.per_node, self.num_devices)

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


def _inside(factors: tuple[Factor, ...], *, reach: int) -> int:
    """Ranks of a group that lie in one block of so many devices."""
    inside = 1
    for size, stride in factors:
        within = max(1, reach // stride)
        inside *= math.gcd(size, within) if size > within else size
    return inside


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
    host = hardware.host
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
        cores=device.cores,
        op_s=device.op_us * 1e-6 if device.op_us is not None else None,
        measured_products=measured_products(device),
        measured_server=measured_server(device),
        host_memory_bytes=host.memory_gib * GIB if host is not None else None,
        host_bytes_per_s=host.memory_gb_s * GB if host is not None and host.memory_gb_s is not None else None,
        pod_size=hardware.pod.devices if hardware.pod is not None else None,
        pod_bytes_per_s=_pod_bytes_per_s(
            hardware, within=(slow or DEFAULT_INTER_NODE_BYTES_PER_S) * constants.network_share
        ),
        is_mesh=device.intra_node.is_mesh,
        torus=_torus(hardware),
    )


def _pod_bytes_per_s(hardware: Hardware, *, within: float) -> float:
    return within / hardware.pod.oversubscription if hardware.pod is not None else math.inf


def _torus(hardware: Hardware) -> Torus | None:
    """Of the sides that a spec gives; without them it is not known which shape the devices have."""
    wires = hardware.accelerator.torus
    if wires is None or hardware.topology is None:
        return None
    sides = tuple(int(side) for side in hardware.topology.split("x"))
    multiple = wires.wrap_multiple
    closes = tuple(multiple is not None and side % multiple == 0 for side in sides)
    return Torus(sides, closes, Link(FAST_LATENCY_S, wires.gb_s * GB * FAST_SHARE))


def _domain(hardware: Hardware, *, num_devices: int, per_node: int) -> int:
    """Devices that fast links join, in equal groups: of a rack's 72, 256 devices use 64 each."""
    device = hardware.accelerator
    if hardware.topology is not None:
        return num_devices // hardware.slices
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
