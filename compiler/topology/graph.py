"""The machine as a graph: devices, switches and wires, with what each wire carries.

    node      kind: device | switch | nic | rail | spine, and which node and pod it is in
    edge      bytes_per_s (one direction), latency_s, level: node | network | pod | torus

A node's devices hang on a switch, or each on each other (a mesh); every device has a port on the rail of its place in the node, rails
meet in the spine of their pod, and pods meet above. A torus has its wires and nothing else. Planning does not need the graph: the
closed forms of machine.py give the same bandwidths, which tests check against cuts of this graph.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import networkx as nx

from ..cost.collectives import Link

if TYPE_CHECKING:
    from .machine import Machine
    from .torus import Torus


def topology_graph(machine: Machine) -> nx.Graph:
    """All of a machine; thousands of devices take seconds."""
    if machine.torus is None:
        return _switched(machine)
    graph = nx.Graph()
    for first in range(0, machine.num_devices, machine.domain):
        _add_torus(graph, machine.torus, first=first)
    if machine.num_devices > machine.domain:
        _add_network(graph, machine)
    return graph


def _add_torus(graph: nx.Graph, torus: Torus, *, first: int) -> None:
    """One slice, whose devices have the numbers from `first` on."""
    places = list(itertools.product(*(range(side) for side in reversed(torus.sides))))
    number = {place[::-1]: index for index, place in enumerate(places, start=first)}  # the first side changes fastest
    for place, index in number.items():
        graph.add_node(index, kind="device", place=place)
    for place, index in number.items():
        for side, (extent, closes) in enumerate(zip(torus.sides, torus.closes, strict=True)):
            following = place[side] + 1
            if following == extent and (not closes or extent <= 2):
                continue
            other = (*place[:side], following % extent, *place[side + 1 :])
            _wire(graph, index, number[other], torus.link, level="torus")


def _switched(machine: Machine) -> nx.Graph:
    graph = nx.Graph()
    domain = machine.domain
    for device in range(machine.num_devices):
        graph.add_node(device, kind="device", node=device // domain)
    for first in range(0, machine.num_devices, domain):
        devices = range(first, first + domain)
        if machine.is_mesh:
            wire = Link(machine.fast.latency_s, machine.fast.bytes_per_s / max(1, domain - 1))
            for one, other in itertools.combinations(devices, 2):
                _wire(graph, one, other, wire, level="node")
        elif domain > 1:
            switch = f"node {first // domain}"
            graph.add_node(switch, kind="switch")
            for device in devices:
                _wire(graph, device, switch, machine.fast, level="node")
    if machine.num_devices > domain:
        _add_network(graph, machine)
    return graph


def _add_network(graph: nx.Graph, machine: Machine) -> None:
    pod_size = machine.pod_size or machine.num_devices
    for device in range(machine.num_devices):
        pod, rail = device // pod_size, device % machine.domain
        leaf = f"pod {pod} rail {rail}"
        if leaf not in graph:
            graph.add_node(leaf, kind="rail", pod=pod)
            nodes = -(-pod_size // machine.domain)
            wide = Link(machine.slow.latency_s, nodes * machine.slow.bytes_per_s)
            _wire(graph, leaf, f"pod {pod} spine", wide, level="network")
            graph.nodes[f"pod {pod} spine"].update(kind="spine", pod=pod)
        _wire(graph, device, leaf, machine.slow, level="network")
    num_pods = -(-machine.num_devices // pod_size)
    for pod in range(num_pods if num_pods > 1 else 0):
        narrow = Link(machine.slow.latency_s, pod_size * machine.pod_bytes_per_s)
        _wire(graph, f"pod {pod} spine", "core", narrow, level="pod")
        graph.nodes["core"].update(kind="spine")


def _wire(graph: nx.Graph, one: object, other: object, link: Link, *, level: str) -> None:
    graph.add_edge(one, other, bytes_per_s=link.bytes_per_s, latency_s=link.latency_s, level=level)
