"""torchrun: one script, the same on every node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..emit.literals import shell
from .environment import variables
from .target import Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import Torchrun
    from .facts import Server, TrainJob


def files(deploy: Torchrun, train: TrainJob | None, serve: Server | None) -> Files:
    assert train is not None
    script = launch_file(
        "torchrun.sh",
        "torchrun/torchrun.sh.j2",
        job=train,
        variables=variables(train.machines, deploy.network, deploy.environment, is_torchrun=True),
        python=shell(deploy.python),
        max_restarts=deploy.max_restarts,
        rendezvous_port=deploy.rendezvous_port,
    )
    return Files((script,))
