"""Slurm: a batch job that starts one task a rank, is told before its time ends, and queues itself again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..emit.literals import shell
from .environment import variables
from .target import Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import Slurm
    from .facts import Machines, Server, TrainJob


@dataclass(frozen=True)
class Option:
    """`#SBATCH --name=value`. The language admits no value that could end the line or needs quotes."""

    name: str
    value: str
    key: str


def files(deploy: Slurm, train: TrainJob | None, serve: Server | None) -> Files:
    assert train is not None
    if deploy.signal_s is not None:
        train = replace(train, signal_s=math.ceil(deploy.signal_s), signal_reason="as the spec says")
    script = launch_file(
        "train.sbatch",
        "slurm/train.sbatch.j2",
        job=train,
        options=tuple(_options(deploy, train)),
        variables=variables(train.machines, deploy.network, deploy.environment),
        srun_arguments=tuple(_srun_arguments(deploy)),
        python=shell(deploy.python),
        requeue=deploy.requeue,
        max_restarts=deploy.max_restarts,
    )
    return Files((script,))


def _options(deploy: Slurm, train: TrainJob) -> Iterator[Option]:
    for name in ("partition", "account", "qos", "constraint"):
        value = getattr(deploy, name)
        if value is not None:
            yield Option(name, value, f"deploy.{name}")
    if deploy.time_limit_h is not None:
        yield Option("time", _hours(deploy.time_limit_h), "deploy.time_limit_h")
    yield Option("signal", f"B:USR1@{train.signal_s}", "deploy.signal_s")
    yield Option("requeue" if deploy.requeue else "no-requeue", "", "deploy.requeue")
    yield from _placement(train.machines, deploy.nodes_per_switch)


def _placement(machines: Machines, nodes_per_switch: int | None) -> Iterator[Option]:
    """Few switches, waited for up to a day; and whole racks where fast links join them."""
    if machines.domain_nodes > 1:
        yield Option("segment", str(machines.domain_nodes), "hardware.accelerator")
    if nodes_per_switch is not None:
        switches = math.ceil(machines.nodes / nodes_per_switch)
        yield Option("switches", f"{switches}@1-00:00:00", "deploy.nodes_per_switch")


def _srun_arguments(deploy: Slurm) -> Iterator[str]:
    if deploy.container is not None:
        yield f"--container-image={shell(deploy.container)}"
        yield '--container-mounts="$PROGRAM:$PROGRAM,$RUN_DIR:$RUN_DIR,$SLURM_SUBMIT_DIR:$SLURM_SUBMIT_DIR"'
        yield '--container-workdir="$SLURM_SUBMIT_DIR"'


def _hours(hours: float) -> str:
    """Slurm's days-hours:minutes:seconds."""
    minutes, seconds = divmod(round(hours * 3600), 60)
    whole_hours, minutes = divmod(minutes, 60)
    days, whole_hours = divmod(whole_hours, 24)
    return f"{days}-{whole_hours:02}:{minutes:02}:{seconds:02}"
