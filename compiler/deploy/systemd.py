"""systemd: a unit for each replica, one for the router where there are several, a target for all, and nginx before them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .docker import nginx, own_variables, replicas_of
from .environment import Variable
from .facts import EXIT_S
from .guards import LOADED
from .serving import replica_address, router_command, serve_command
from .target import Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import Systemd
    from .facts import Server, TrainJob


@dataclass(frozen=True)
class Unit:
    """What templates/deploy/systemd/server.service.j2 needs of one process, under the name `unit`."""

    name: str
    what: str
    command: tuple[str, ...]
    flags: tuple[str, ...]
    """Words of the command that are ours, with specifiers of systemd."""
    has_kernels: bool
    variables: tuple[Variable, ...]
    credentials: tuple[str, ...]
    user: str
    folder: str
    stop_s: int
    stop_reason: str


def files(deploy: Systemd, train: TrainJob | None, serve: Server | None) -> Files:
    """Replicas listen on the ports after nginx's, and the router on the one after theirs."""
    assert serve is not None
    units = [
        _unit(
            deploy,
            serve,
            name=f"{serve.name}-{number}",
            what=f"replica {number}",
            words=serve_command(at_port(serve, number), deploy.weights, guards=None, host="127.0.0.1"),
            flags=LOADED.flags(serve, probe_port=at_port(serve, number).probe_port),
            has_kernels=serve.has_kernels,
            variables=(*_devices(replica.devices), *own_variables(deploy.environment)),
        )
        for number, replica in enumerate(replicas_of(serve))
    ]
    behind = at_port(serve, 0)
    if serve.replicas > 1:
        known = tuple(replica_address(at_port(serve, number), "127.0.0.1") for number in range(serve.replicas))
        behind = at_port(serve, serve.replicas)
        router = _unit(
            deploy,
            serve,
            name=f"{serve.name}-router",
            what="router of all replicas",
            words=router_command(behind, known, guards=None, host="127.0.0.1"),
            flags=LOADED.flags(serve, probe_port=behind.probe_port),
            has_kernels=False,
            variables=(),
        )
        units.append(router)
    names = tuple(f"{unit.name}.service" for unit in units)
    found = tuple(
        launch_file(name, "systemd/server.service.j2", server=serve, unit=unit)
        for name, unit in zip(names, units, strict=True)
    )
    target = launch_file(f"{serve.name}.target", "systemd/server.target.j2", server=serve, units=names)
    secrets = f"/etc/llmc/{serve.name}"
    return Files((*found, target)) + nginx(
        serve, f"127.0.0.1:{behind.port}", certificate=f"{secrets}/tls.crt", key=f"{secrets}/tls.key"
    )


def at_port(server: Server, number: int) -> Server:
    """The server as it listens behind nginx."""
    return replace(server, port=server.port + 1 + number)


def _unit(
    deploy: Systemd,
    server: Server,
    *,
    name: str,
    what: str,
    words: tuple[str, ...],
    flags: tuple[str, ...],
    has_kernels: bool,
    variables: tuple[Variable, ...],
) -> Unit:
    programs = ("serve.py", "router.py")
    program = tuple(f"{deploy.folder}/{word}" if word in programs else word for word in words[1:])
    credentials = (("keys",) if server.asks_keys else ()) + (("tls.crt", "tls.key") if server.has_tls else ())
    return Unit(
        name=name,
        what=what,
        command=(deploy.python, *program),
        flags=flags,
        has_kernels=has_kernels,
        variables=variables,
        credentials=credentials,
        user=deploy.user,
        folder=deploy.folder,
        stop_s=server.drain_s + EXIT_S,
        stop_reason=f"{server.drain_s} s for the longest answer, {EXIT_S} s to leave",
    )


def _devices(devices: tuple[str, ...]) -> tuple[Variable, ...]:
    if not devices:
        return ()
    return (Variable("CUDA_VISIBLE_DEVICES", ",".join(devices), "the devices of this replica", "serve.layout"),)
