"""Queued resources of Cloud TPU: the request, and a script that asks, waits, sends the program and runs it on all hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...spec.deploy import Network
from ..emit.literals import json_text, shell
from .environment import variables
from .target import FOLDER, Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import QueuedResource
    from ..topology.slices import Slices
    from .facts import Server, TrainJob


def files(deploy: QueuedResource, train: TrainJob | None, serve: Server | None) -> Files:
    assert train is not None
    assert train.slices is not None
    script = launch_file(
        "queued_resource.sh",
        "queued_resource/queued_resource.sh.j2",
        job=train,
        project=deploy.project,
        zone=deploy.zone,
        run_dir=deploy.run_dir,
        max_restarts=deploy.max_restarts,
        nodes=_nodes(train, train.slices),
        variables=variables(train.machines, Network(), deploy.environment),
        python=shell(deploy.python),
    )
    return Files((script,), {f"{FOLDER}/queued_resource.json": json_text(_request(deploy, train, train.slices))})


def _nodes(train: TrainJob, slices: Slices) -> tuple[str, ...]:
    """What the slices are called: a request of several numbers them."""
    name = train.object_name
    return (name,) if slices.count == 1 else tuple(f"{name}-{number}" for number in range(slices.count))


def _request(deploy: QueuedResource, train: TrainJob, slices: Slices) -> dict[str, Any]:
    """The body of projects.locations.queuedResources.create, version 2 of the API."""
    parent = f"projects/{deploy.project}/locations/{deploy.zone}"
    node = {
        "acceleratorConfig": {"type": slices.generation.api, "topology": slices.topology},
        "runtimeVersion": deploy.runtime or slices.generation.runtime,
    }
    prefix = train.object_name
    named: dict[str, Any] = {"nodeId": prefix}
    if slices.count > 1:
        named = {"multisliceParams": {"nodeCount": slices.count, "nodeIdPrefix": prefix}}
    tier = {"spot": {}} if deploy.spot else {"guaranteed": {}}
    if deploy.reservation is not None:
        tier = {"reservationName": f"{parent}/reservations/{deploy.reservation}", "guaranteed": {}}
    return {"tpu": {"nodeSpec": [{"parent": parent, **named, "node": node}]}, **tier}
