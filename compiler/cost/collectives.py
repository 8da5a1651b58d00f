"""Seconds that a collective takes: alpha-beta for each algorithm, hierarchical where a group spans nodes.

`size_bytes` is what every rank ends up with (all-gather), starts from (reduce-scatter, all-reduce, all-to-all) or sends
(send). A link's bandwidth is one direction of one device. Volumes: Thakur et al. 2005; constants on 8 × H100 NVLink:
all-reduce 17 µs and 219 GB/s, all-gather 13 µs and 342 GB/s, reduce-scatter 11 µs and 354 GB/s (measured, public).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """What a ring step pays: a latency, and a bandwidth in one direction."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Group:
    """The ranks of a collective: `inside` ranks on fast links, in each of `across` nodes on slow ones.

    All ranks of a node send at once, so a ring over nodes moves 1/inside of the data through each device's NIC ("rails").
    """

    inside: int
    across: int
    fast: Link
    slow: Link

    @property
    def size(self) -> int:
        return self.inside * self.across


def all_gather_s(size_bytes: float, group: Group) -> float:
    """(n−1) · α + (n−1)/n · size/β on each level; inside the node all of it, across 1/inside of it."""
    across = _ring_s(size_bytes / group.inside, group.across, group.slow)
    return across + _ring_s(size_bytes, group.inside, group.fast)


def reduce_scatter_s(size_bytes: float, group: Group) -> float:
    """As all-gather, in the other direction."""
    return all_gather_s(size_bytes, group)


def all_reduce_s(size_bytes: float, group: Group) -> float:
    """Reduce-scatter, then all-gather."""
    return 2 * all_gather_s(size_bytes, group)


def all_to_all_s(size_bytes: float, group: Group) -> float:
    """(n−1)/n · size/β: of what a rank holds, the share for ranks elsewhere takes the slow links."""
    n = group.size
    if n == 1:
        return 0.0
    elsewhere = (n - group.inside) / n * size_bytes
    nearby = (group.inside - 1) / n * size_bytes
    latency = (group.inside - 1) * group.fast.latency_s + (group.across - 1) * group.slow.latency_s
    return latency + max(nearby / group.fast.bytes_per_s, elsewhere / group.slow.bytes_per_s)


def send_s(size_bytes: float, link: Link) -> float:
    """One message to a neighbour."""
    return link.latency_s + size_bytes / link.bytes_per_s


def _ring_s(size_bytes: float, ranks: int, link: Link) -> float:
    if ranks == 1:
        return 0.0
    return (ranks - 1) * (link.latency_s + size_bytes / ranks / link.bytes_per_s)
