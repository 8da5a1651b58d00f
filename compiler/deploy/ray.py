"""Ray: a Ray Train job, and a Ray Serve application. What they do is in runtimes/launch/; here are the plan's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .docker import own_variables
from .environment import variables
from .target import Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import Ray
    from .facts import Server, TrainJob


def files(deploy: Ray, train: TrainJob | None, serve: Server | None) -> Files:
    found = Files()
    if train is not None:
        names = {
            "job": train,
            "variables": variables(train.machines, deploy.network, deploy.environment),
            "max_restarts": deploy.max_restarts,
            "storage": deploy.storage,
        }
        found += Files((launch_file("ray_train.py", "ray/ray_train.py.j2", **names),))
    if serve is not None:
        view = {
            "server": serve,
            "devices": serve.machines.per_node if serve.machines.kind == "gpu" else 0,
            "arguments": ("--weights", deploy.weights) if deploy.weights is not None else (),
            "variables": own_variables(deploy.environment),
        }
        app = launch_file("ray_serve.py", "ray/ray_serve.py.j2", **view)
        found += Files((app, launch_file("ray_serve.yaml", "ray/ray_serve.yaml.j2", server=serve)))
    return found
