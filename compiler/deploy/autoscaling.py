"""What adds and removes replicas: a HorizontalPodAutoscaler or a ScaledObject of KEDA, on metrics of the table.

Two thresholds, both from the plan: how full a replica's batch is, and how much waits.

    running > RUNNING_SHARE * max_batch       the batch is nearly full, and requests are about to wait
    waiting > WAITING_SHARE * max_waiting     the queue is on its way to the bound at which requests are refused
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .target import Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import Kubernetes
    from .facts import Server

RUNNING_SHARE = 0.8
WAITING_SHARE = 0.25

_KINDS = {
    "deployment": ("apps/v1", "Deployment"),
    "leader_worker_set": ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
}
"""Serving objects that can be scaled from outside -> their kind."""


def can_scale(kind: str) -> bool:
    return kind in _KINDS


@dataclass(frozen=True)
class Threshold:
    """Replicas are added while the mean of `metric` over them is above `value`."""

    metric: str
    value: int
    reason: str


def thresholds(server: Server) -> tuple[Threshold, ...]:
    running = max(1, int(RUNNING_SHARE * server.max_running))
    waiting = max(1, int(WAITING_SHARE * server.max_waiting))
    return (
        Threshold("llmc_requests_running", running, f"{RUNNING_SHARE:.0%} of a batch of {server.max_running}"),
        Threshold("llmc_requests_waiting", waiting, f"{WAITING_SHARE:.0%} of the {server.max_waiting} that may wait"),
    )


def autoscaler_files(deploy: Kubernetes, server: Server, *, kind: str, max_replicas: int) -> Files:
    api, name = _KINDS[kind]
    names = {
        "server": server,
        "namespace": deploy.namespace,
        "thresholds": thresholds(server),
        "scaled_api": api,
        "scaled_kind": name,
        "min_replicas": min(server.replicas, max_replicas),
        "max_replicas": max_replicas,
    }
    if deploy.autoscaler == "keda":
        address = {"prometheus": deploy.prometheus}
        return Files((launch_file("autoscale.yaml", "kubernetes/keda.yaml.j2", **names, **address),))
    scaler = launch_file("autoscale.yaml", "kubernetes/hpa.yaml.j2", **names)
    return Files((scaler, launch_file("monitoring/adapter.yaml", "kubernetes/adapter.yaml.j2", **names)))
