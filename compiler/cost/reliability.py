"""Checkpoints and failures: how long a checkpoint takes, how often to write one, and what share of the time trains.

    write      bytes / min(nodes · rate of a node, rate of the storage)
    interval   Young 1974: √(2δM); Daly 2006, eq. 20, closer where writing takes long
    goodput    Daly 2006, eq. 13: interval / (M · e^(R/M) · (e^((interval + δ)/M) − 1))

δ: seconds that a checkpoint stops training; M: mean time between failures of the whole machine; R: seconds to restart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HOUR_S = 3600.0

DEVICE_MTBF_S = 50_600 * HOUR_S
"""Of a device with its share of host and network: Meta counted 419 unexpected interruptions in 54 days on 16,384 H100
(The Llama 3 Herd of Models, 2024, section 3.3.4). Carried over to other devices."""
RESTART_S = 600.0
"""Noticing a failure, replacing a node, starting and loading (assumed)."""


@dataclass(frozen=True)
class Reliability:
    """What failures cost a long training."""

    mtbf_s: float
    """Of the whole machine."""
    write_s: float
    """One checkpoint, from the first byte to the last."""
    stop_s: float
    """What of it stops training."""
    interval_s: float
    """Training between checkpoints that loses least."""
    goodput: float
    """Share of the time that trains and is not done again."""


def checkpoint_bytes(parameters: float, *, moments: float) -> float:
    """What a checkpoint holds: fp32 weights and what the optimizer keeps a parameter; 2-byte copies are cast again."""
    return parameters * (4.0 + moments)


def write_s(
    size_bytes: float, *, nodes: int, node_bytes_per_s: float, storage_bytes_per_s: float | None = None
) -> float:
    """All nodes write their shards at once; a shared storage may be narrower than all of them."""
    rate = nodes * node_bytes_per_s
    return size_bytes / (rate if storage_bytes_per_s is None else min(rate, storage_bytes_per_s))


def machine_mtbf_s(num_devices: int, *, device_mtbf_s: float = DEVICE_MTBF_S) -> float:
    """Failures of devices are independent and any of them stops all."""
    return device_mtbf_s / num_devices


def best_interval_s(*, stop_s: float, mtbf_s: float) -> float:
    """Daly's higher-order estimate: √(2δM) · (1 + √(δ/2M)/3 + (δ/2M)/9) − δ; M where a checkpoint takes longer than 2M."""
    if stop_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = stop_s / (2 * mtbf_s)
    return math.sqrt(2 * stop_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stop_s


def goodput_share(*, interval_s: float, stop_s: float, mtbf_s: float, restart_s: float = RESTART_S) -> float:
    """Time that is trained over time that passes, where failures come at random and lose what is since the last checkpoint."""
    exponent = (interval_s + stop_s) / mtbf_s
    if exponent + restart_s / mtbf_s > 600:
        return 0.0
    return interval_s / (mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1(exponent))


def reliability(
    size_bytes: float,
    *,
    num_devices: int,
    nodes: int,
    node_bytes_per_s: float,
    storage_bytes_per_s: float | None = None,
    host_bytes_per_s: float | None = None,
    device_mtbf_s: float = DEVICE_MTBF_S,
    restart_s: float = RESTART_S,
    interval_s: float | None = None,
) -> Reliability:
    """Checkpoints of `size_bytes` in all, written by every node.

    `host_bytes_per_s`: of a device to its host's memory, where training goes on as soon as the state is copied there.
    `interval_s`: what the program does; None: what loses least, though no more often than storage takes the last one.
    """
    whole_s = write_s(
        size_bytes, nodes=nodes, node_bytes_per_s=node_bytes_per_s, storage_bytes_per_s=storage_bytes_per_s
    )
    stop_s = whole_s if host_bytes_per_s is None else min(whole_s, size_bytes / num_devices / host_bytes_per_s)
    mtbf_s = machine_mtbf_s(num_devices, device_mtbf_s=device_mtbf_s)
    if interval_s is None:
        interval_s = max(best_interval_s(stop_s=stop_s, mtbf_s=mtbf_s), whole_s - stop_s)
    share = goodput_share(interval_s=interval_s, stop_s=stop_s, mtbf_s=mtbf_s, restart_s=restart_s)
    return Reliability(mtbf_s=mtbf_s, write_s=whole_s, stop_s=stop_s, interval_s=interval_s, goodput=share)
