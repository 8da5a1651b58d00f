"""How a server's process is started, whoever starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .facts import Server


def serve_command(
    server: Server, weights: str | None, *, host: str = "0.0.0.0", is_set: bool = False
) -> tuple[str, ...]:
    """The words of the command, in the program's folder. With `is_set` they are those of each pod of a LeaderWorkerSet."""
    options = ("--host", host, "--port", str(server.port), *(("--weights", weights) if weights is not None else ()))
    if server.machines.ranks == 1:
        return ("python", "serve.py", *options)
    torchrun = ("python", "-m", "torch.distributed.run", f"--nproc-per-node={server.machines.per_node}")
    if is_set:  # Kubernetes fills in what the LeaderWorkerSet controller sets
        nodes = (f"--nnodes={server.machines.nodes}", "--node-rank=$(LWS_WORKER_INDEX)")
        torchrun += (*nodes, "--master-addr=$(LWS_LEADER_ADDRESS)", "--master-port=29500")
    else:
        torchrun += ("--standalone",)
    return (*torchrun, "serve.py", *options)
