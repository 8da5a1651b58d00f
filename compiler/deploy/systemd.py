"""systemd: a unit for each replica, a target for all, and nginx before them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .docker import nginx, own_variables, replicas_of
from .environment import Variable
from .facts import EXIT_S
from .serving import serve_command
from .target import Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import Systemd
    from .facts import Server, TrainJob


@dataclass(frozen=True)
class Unit:
    number: int
    port: int


def files(deploy: Systemd, train: TrainJob | None, serve: Server | None) -> Files:
    """Replicas listen on the ports after nginx's."""
    assert serve is not None
    replicas = replicas_of(serve)
    names = tuple(f"{serve.name}-{number}.service" for number in range(len(replicas)))
    found = Files()
    for number, (name, replica) in enumerate(zip(names, replicas, strict=True)):
        unit = Unit(number, serve.port + 1 + number)
        _, *words = serve_command(replace(serve, port=unit.port), deploy.weights, host="127.0.0.1")
        program = tuple(f"{deploy.folder}/serve.py" if word == "serve.py" else word for word in words)
        view = {
            "server": serve,
            "replica": unit,
            "user": deploy.user,
            "folder": deploy.folder,
            "command": (deploy.python, *program),
            "variables": (*_devices(replica.devices), *own_variables(deploy.environment)),
            "exit_s": EXIT_S,
        }
        found += Files((launch_file(name, "systemd/server.service.j2", **view),))
    target = launch_file(f"{serve.name}.target", "systemd/server.target.j2", server=serve, units=names)
    addresses = tuple(f"127.0.0.1:{serve.port + 1 + number}" for number in range(len(replicas)))
    return found + Files((target,)) + nginx(serve, addresses)


def _devices(devices: tuple[str, ...]) -> tuple[Variable, ...]:
    if not devices:
        return ()
    return (Variable("CUDA_VISIBLE_DEVICES", ",".join(devices), "the devices of this replica", "serve.layout"),)
