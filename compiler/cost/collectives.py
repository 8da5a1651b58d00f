"""Seconds that a collective takes: alpha-beta for each algorithm, by the narrowest hop where a group spans nodes.

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
    fast_exchange: float = 1.0
    """Of the fast links' rate, what an all-to-all gets: less on a torus, where data for far ranks passes through others."""
    slow_exchange: float = 1.0
    """Of the slow links' rate: less where the network is narrower above a pod."""

    @property
    def size(self) -> int:
        return self.inside * self.across


def all_gather_s(size_bytes: float, group: Group) -> float:
    """(n−1)/n · size/β, and a latency for each hop of the ring.

    A ring through several nodes leaves each of them once for every NIC of its members there and re-enters it, all hops at
    the same time: β is that of the narrower of fast links and of `inside` NICs, and the two are not added up.
    """
    n = group.size
    if n == 1:
        return 0.0
    slow_hops = group.across if group.across > 1 else 0
    latency = max(0, n - 1 - slow_hops) * group.fast.latency_s + slow_hops * group.slow.latency_s
    return latency + (n - 1) / n * size_bytes / _ring_bytes_per_s(group)


def reduce_scatter_s(size_bytes: float, group: Group) -> float:
    """As all-gather, in the other direction."""
    return all_gather_s(size_bytes, group)


def broadcasts_s(size_bytes: float, group: Group) -> float:
    """As all-gather, but each rank's part goes round when the one before has arrived: the latency of all hops, once a rank."""
    return all_gather_s(size_bytes, group) + (group.size - 1) * all_gather_s(0.0, group)


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
    return latency + _both_s(group, nearby=nearby, elsewhere=elsewhere)


def dispatch_s(size_bytes: float, group: Group, *, copies: int) -> float:
    """Rows of `size_bytes` in all, each to `copies` ranks at random: once to every node that needs it, and inside of it from there.

    Of n nodes, n (1 − (1 − 1/n)^copies) need a row (DeepEP, HybridEP).
    """
    if group.across == 1:
        return all_to_all_s(copies * size_bytes, group)
    n = group.across
    nodes = n * (1 - (1 - 1 / n) ** copies)
    elsewhere = nodes * (n - 1) / n * size_bytes
    nearby = copies * (group.inside - 1) / group.inside * size_bytes
    latency = (group.inside - 1) * group.fast.latency_s + (n - 1) * group.slow.latency_s
    return latency + _both_s(group, nearby=nearby, elsewhere=elsewhere)


def _both_s(group: Group, *, nearby: float, elsewhere: float) -> float:
    """Fast and slow links at the same time."""
    fast, slow = group.fast.bytes_per_s * group.fast_exchange, group.slow.bytes_per_s * group.slow_exchange
    return max(nearby / fast, elsewhere / slow)


def send_s(size_bytes: float, link: Link) -> float:
    """One message to a neighbour."""
    return link.latency_s + size_bytes / link.bytes_per_s


def _ring_bytes_per_s(group: Group) -> float:
    if group.across == 1:
        return group.fast.bytes_per_s
    through_nics = group.inside * group.slow.bytes_per_s
    return min(group.fast.bytes_per_s, through_nics) if group.inside > 1 else through_nics
