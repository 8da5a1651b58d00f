"""Docker: an image, a compose file with one service a replica, the router where there are several, and nginx before all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .environment import Variable
from .guards import COMPOSED
from .image import dockerfile
from .serving import replica_address, router_command, serve_command
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
    addresses = tuple(replica_address(serve, replica.name) for replica in replicas)
    has_router = len(replicas) > 1
    compose = launch_file(
        "compose.yaml",
        "docker/compose.yaml.j2",
        server=serve,
        compose_name=serve.object_name,
        image=deploy.image or serve.name,
        command=serve_command(serve, deploy.weights, guards=COMPOSED),
        router_command=router_command(serve, addresses, guards=COMPOSED) if has_router else None,
        replicas=replicas,
        variables=own_variables(deploy.environment),
        weights=deploy.weights,
        secrets=(*(("keys",) if serve.asks_keys else ()), *(("tls.crt", "tls.key") if serve.has_tls else ())),
    )
    behind = f"{'router' if has_router else 'server-0'}:{serve.port}"
    found = dockerfile(has_train=train is not None, server=serve) + Files((compose,))
    return found + nginx(serve, behind, certificate=COMPOSED.tls_cert, key=COMPOSED.tls_key)


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


def nginx(server: Server, behind: str, *, certificate: str, key: str) -> Files:
    """nginx.conf: the face to the world, before a replica or the router of several; nothing held back of a stream."""
    names = {"server": server, "behind": behind, "certificate": certificate, "private_key": key}
    return Files((launch_file("nginx.conf", "shared/nginx.conf.j2", **names),))
