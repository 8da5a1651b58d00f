"""What launch files need to know of the plan, whatever their target: shapes, sizes and times, worked out once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...spec.units import GIB
from ..planner.layout import ORDER
from ..topology.slices import Slices, slices_of, torus_words

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..lower.serving import ServeView
    from ..planner.plan import Plan

Fabric = Literal["infiniband", "roce", "efa", "slingshot", "ethernet", "unknown"]
"""The network between nodes."""

_FABRICS: tuple[tuple[str, Fabric], ...] = (
    ("infiniband", "infiniband"),
    ("roce", "roce"),
    ("efa", "efa"),
    ("slingshot", "slingshot"),
    ("ethernet", "ethernet"),
)
_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "huawei": "huawei.com/Ascend910"}
"""Vendor -> what its device plugin calls a device on Kubernetes."""

_LEAST_SIGNAL_S = 120
_SAVED_BYTES_PER_S = 10**9
"""What a node is expected to write of a checkpoint, at least: slow network storage."""
_READ_BYTES_PER_S = 200 * 10**6
"""What weights are read at, at least: object storage by way of a slow mount."""
_ROUNDED_PER_S = 20 * 10**6
"""Weights that a server rounds to few bits, at least. Measured: 28 to 85 million on two cores that others used as well."""
ENDPOINTS_S = 10
"""From the end of a pod being decided to the last proxy that sends it no more requests (kube-proxy, ingress)."""
ROUTER_SUFFIX = "-router"
"""Of the job under which Prometheus scrapes the router, after the server's own."""
EXIT_S = 10
"""What a server takes to close its sockets and leave, after the last answer."""


@dataclass(frozen=True)
class Machines:
    """The nodes of one program."""

    nodes: int
    per_node: int
    """Processes of the program on a node: one a device."""
    device: str
    kind: str
    vendor: str
    fabric: Fabric
    fabric_words: str
    domain_nodes: int
    """Nodes that one fast-link domain joins, in equal groups: of a rack's 18, 32 nodes use 16 each. 1 without such."""
    has_switched_links: bool
    """Whether the fast links go through a switch that can add (NVLink 4 and later)."""

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    @property
    def words(self) -> str:
        nodes = f"{self.nodes} nodes x " if self.nodes > 1 else ""
        return f"{nodes}{self.per_node} x {self.device}"

    @property
    def resource(self) -> str | None:
        """The name of a device on Kubernetes; None for CPUs."""
        return _RESOURCES.get(self.vendor) if self.kind in ("gpu", "npu") else None


@dataclass(frozen=True)
class TrainJob:
    """One training run on machines."""

    name: str
    origin: str
    machines: Machines
    steps: int
    signal_s: int
    signal_reason: str
    slices: Slices | None = None
    """Of TPUs, whose programs have a process a host."""
    torus_words: str = ""
    """What the axes of the mesh take of a slice."""

    @property
    def words(self) -> str:
        return self.slices.words if self.slices is not None else self.machines.words

    @property
    def object_name(self) -> str:
        return object_name(self.name)


@dataclass(frozen=True)
class Server:
    """One server: replicas, each of one or several devices."""

    name: str
    origin: str
    machines: Machines
    """Of one replica."""
    replicas: int
    tp: int
    pp: int
    port: int
    max_running: int
    max_waiting: int
    drain_s: int
    start_s: int
    start_reason: str
    memory_gib: int
    """Of a replica's process, for weights on their way to the device, or staying where the CPU computes."""
    asks_keys: bool = False
    has_tls: bool = False
    has_rates: bool = False
    has_kernels: bool = False
    """Whether kernels are compiled where it runs."""
    is_scaled: bool = False
    """Whether something else than the plan decides how many replicas run."""

    @property
    def object_name(self) -> str:
        return object_name(self.name)

    @property
    def router_job(self) -> str:
        return f"{self.object_name}{ROUTER_SUFFIX}"

    @property
    def probe_port(self) -> int | None:
        """Where probes and metrics need no key; None: with the rest."""
        return probe_port_of(self.port) if self.asks_keys else None

    @property
    def scheme(self) -> str:
        return "https" if self.has_tls else "http"

    @property
    def words(self) -> str:
        return f"{self.replicas} {'replica' if self.replicas == 1 else 'replicas'} on {self.machines.words}" + (
            " each" if self.replicas > 1 else ""
        )

    @property
    def grace_s(self) -> int:
        """From the end being decided to the kill: what every accepted request may need."""
        return ENDPOINTS_S + self.drain_s + EXIT_S

    @property
    def grace_reason(self) -> str:
        return (
            f"{ENDPOINTS_S} s until no proxy sends more, {self.drain_s} s for the longest answer, {EXIT_S} s to leave"
        )


def probe_port_of(port: int) -> int:
    """A hundred away: those between are for replicas."""
    return port + 100 if port + 100 < 2**16 else port - 100


_LONGEST_OBJECT_NAME = 40
"""A pod's host name has 63 characters, and controllers append to the name of their object."""


def object_name(name: str) -> str:
    """A spec's name as objects of Kubernetes and series of Prometheus bear it: a DNS label."""
    return name.replace("_", "-").replace(".", "-")[:_LONGEST_OBJECT_NAME].rstrip("-")


def train_job(spec: Spec, plan: Plan, *, origin: str, steps: int) -> TrainJob:
    assert plan.train is not None
    predicted = plan.train.predicted
    machines = machines_of(spec, plan.train.layout.devices)
    held = predicted.memory_gib.parameters + predicted.memory_gib.optimizer
    save_s = held * machines.per_node * GIB / _SAVED_BYTES_PER_S
    signal_s = max(_LEAST_SIGNAL_S, math.ceil(2 * predicted.step_time_high_s + save_s))
    reason = f"two steps of {predicted.step_time_high_s:.3g} s and {save_s:.0f} s to save, at least {_LEAST_SIGNAL_S} s"
    slices = slices_of(spec.hardware)
    words = ""
    if slices is not None:
        layout, sides = plan.train.layout, tuple(int(side) for side in slices.topology.split("x"))
        axes = tuple((name, getattr(layout, name)) for name in reversed(layout.order or ORDER))
        words = torus_words(tuple(axis for axis in axes if axis[1] > 1), sides, slices=slices.count)
    return TrainJob(spec.name, origin, machines, steps, signal_s, reason, slices, words)


def server(spec: Spec, plan: Plan, *, view: ServeView, origin: str, port: int, is_scaled: bool) -> Server:
    assert plan.serve is not None
    layout, memory = plan.serve.layout, plan.serve.predicted.memory_gib
    devices = plan.serve.devices // layout.replicas
    weights_gib = memory.weights * devices
    start_reason = f"{weights_gib:.3g} GiB of weights at {_READ_BYTES_PER_S // 10**6} MB/s, and a minute"
    start_s = 60 + math.ceil(weights_gib * GIB / _READ_BYTES_PER_S)
    if (
        view.packed is not None and view.packed.is_rounded
    ):  # it reads a checkpoint of two bytes a weight at best, and rounds it
        assert plan.model is not None
        start_s = 60 + math.ceil(plan.model.parameters * (2 / _READ_BYTES_PER_S + 1 / _ROUNDED_PER_S))
        start_reason = (
            f"{plan.model.parameters:,} weights of 2 bytes at {_READ_BYTES_PER_S // 10**6} MB/s, rounded at"
            f" {_ROUNDED_PER_S // 10**6} million a second, and a minute"
        )
    machines = machines_of(spec, devices)
    on_host = memory.peak if machines.kind == "cpu" else memory.weights
    return Server(
        name=spec.name,
        origin=origin,
        machines=machines,
        replicas=layout.replicas,
        tp=layout.tp,
        pp=layout.pp,
        port=port,
        max_running=layout.max_batch,
        max_waiting=view.max_waiting,
        drain_s=view.drain_s,
        start_s=start_s,
        start_reason=start_reason,
        memory_gib=math.ceil(on_host * machines.per_node * 1.25) + 2,
        asks_keys=view.asks_keys,
        has_tls=view.has_tls,
        has_rates=view.requests_per_minute is not None,
        has_kernels=view.compiles_kernels,
        is_scaled=is_scaled,
    )


def machines_of(spec: Spec, devices: int) -> Machines:
    """The nodes that so many devices fill; fewer than a node has are on one."""
    hardware, accelerator = spec.hardware, spec.hardware.accelerator
    node_size = hardware.per_node or accelerator.per_node
    nodes = math.ceil(devices / node_size)
    link, fabric = accelerator.inter_node.link or "", _fabric(accelerator.inter_node.link)
    fast, domain = accelerator.intra_node.link or "", accelerator.intra_node.domain or 1
    return Machines(
        nodes=nodes,
        per_node=devices // nodes,
        device=accelerator.name or accelerator.like or accelerator.kind,
        kind=accelerator.kind,
        vendor=accelerator.vendor or "",
        fabric=fabric if nodes > 1 else "unknown",
        fabric_words=link,
        domain_nodes=_whole_domain(nodes, domain // node_size) if accelerator.torus is None else 1,
        has_switched_links=fast.startswith(("NVLink4", "NVLink5")) and domain >= 8,
    )


def _whole_domain(nodes: int, reach: int) -> int:
    """The largest group of nodes within reach of each other that divides all of them evenly, as the planner takes it."""
    return max(size for size in range(1, max(1, min(nodes, reach)) + 1) if nodes % size == 0)


def _fabric(link: str | None) -> Fabric:
    named = (link or "").lower()
    for start, fabric in _FABRICS:
        if named.startswith(start):
            return fabric
    return "unknown"
