"""How a server's process is started, whoever starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .facts import Server
    from .guards import Guards


def serve_command(
    server: Server, weights: str | None, *, guards: Guards | None, host: str = "0.0.0.0", is_set: bool = False
) -> tuple[str, ...]:
    """The words of the command, in the program's folder: it starts all ranks of its machine.

    With `is_set` they are those of each pod of a LeaderWorkerSet, one a machine.
    """
    options = ("--host", host, "--port", str(server.port), *(("--weights", weights) if weights is not None else ()))
    options += guards.flags(server, probe_port=server.probe_port) if guards is not None else ()
    command = ("python", "serve.py", *options)
    if not is_set or server.machines.nodes == 1:
        return command
    # Kubernetes fills in what the LeaderWorkerSet controller sets, in words of a command whatever the order of variables
    place = (f"NNODES={server.machines.nodes}", "NODE_RANK=$(LWS_WORKER_INDEX)")
    return ("env", *place, "MASTER_ADDR=$(LWS_LEADER_ADDRESS)", "MASTER_PORT=29500", *command)


def router_command(
    server: Server, replicas: tuple[str, ...], *, guards: Guards | None, host: str = "0.0.0.0"
) -> tuple[str, ...]:
    """The router before replicas that run already; each is `URL` or `URL,PROBES`."""
    known = tuple(word for replica in replicas for word in ("--replica", replica))
    options = ("--host", host, "--port", str(server.port))
    options += guards.flags(server, probe_port=server.probe_port) if guards is not None else ()
    return ("python", "router.py", *options, *known)


def replica_address(server: Server, host: str) -> str:
    """Of one replica, as the router is told it."""
    address = f"{server.scheme}://{host}:{server.port}"
    return f"{address},{server.scheme}://{host}:{server.probe_port}" if server.probe_port is not None else address
