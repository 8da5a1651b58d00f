"""Docker: an image, a compose file with one service a replica, and nginx before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .environment import Variable
from .image import dockerfile
from .serving import serve_command
from .target import Files, launch_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...spec.deploy import Docker
    from .facts import Server, TrainJob


@dataclass(frozen=True)
class Replica:
    """A service of the compose file and the devices it has to itself."""

    name: str
    devices: tuple[str, ...]


def files(deploy: Docker, train: TrainJob | None, serve: Server | None) -> Files:
    assert serve is not None
    replicas = replicas_of(serve)
    compose = launch_file(
        "compose.yaml",
        "docker/compose.yaml.j2",
        server=serve,
        compose_name=serve.object_name,
        image=deploy.image or serve.name,
        command=serve_command(serve, deploy.weights),
        replicas=replicas,
        variables=own_variables(deploy.environment),
        weights=deploy.weights,
    )
    addresses = tuple(f"{replica.name}:{serve.port}" for replica in replicas)
    return dockerfile(has_train=train is not None, server=serve) + Files((compose,)) + nginx(serve, addresses)


def replicas_of(server: Server) -> tuple[Replica, ...]:
    """Consecutive devices for each."""
    size = server.machines.ranks
    has_devices = server.machines.kind == "gpu"
    return tuple(
        Replica(f"server-{number}", tuple(str(number * size + index) for index in range(size)) if has_devices else ())
        for number in range(server.replicas)
    )


def own_variables(environment: Mapping[str, str]) -> tuple[Variable, ...]:
    return tuple(Variable(name, value, "from the spec", "deploy.environment") for name, value in environment.items())


def nginx(server: Server, addresses: tuple[str, ...]) -> Files:
    """nginx.conf: who is asked next, and nothing held back of a stream."""
    conf = launch_file(
        "nginx.conf",
        "shared/nginx.conf.j2",
        server=server,
        addresses=addresses,
        tries=min(3, len(addresses)) if len(addresses) > 1 else 1,
    )
    return Files((conf,))
