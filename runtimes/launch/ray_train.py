"""A training program as a Ray Train job: Ray places one worker a rank and starts all again when one fails.

Each worker starts `train.py` as a process with torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, …). Not inside
the worker: Ray runs a training function on a thread, where no program can handle signals, and keeps a process group of its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .process import end_with_parent


@dataclass(frozen=True)
class RayJob:
    """What the plan says of a job."""

    name: str
    num_ranks: int
    ranks_per_node: int
    use_gpu: bool
    max_failures: int
    storage: str | None
    environment: Mapping[str, str]


def run(job: RayJob, *, program: Path, arguments: Sequence[str]) -> None:
    """Run the job on the cluster at RAY_ADDRESS, or on this machine; raises if it fails more often than it may."""
    import ray  # pyright: ignore[reportMissingImports]
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # pyright: ignore[reportMissingImports]
    from ray.train.torch import TorchConfig, TorchTrainer  # pyright: ignore[reportMissingImports]

    if not ray.is_initialized():
        ray.init()
    per_rank = {"CPU": 1.0, **({"GPU": 1.0} if job.use_gpu else {})}
    trainer = TorchTrainer(
        _rank,
        train_loop_config={
            "program": str(program),
            "arguments": list(arguments),
            "folder": str(Path.cwd()),  # the run is in runs/ here, on storage that all nodes share
            **asdict(job),
        },
        torch_config=TorchConfig(backend="gloo"),  # only to agree on an address: train.py makes its own groups
        scaling_config=ScalingConfig(
            num_workers=job.num_ranks,
            use_gpu=job.use_gpu,
            resources_per_worker=per_rank,
            placement_strategy="PACK",  # ranks of a node are neighbours in the layout
        ),
        run_config=RunConfig(
            name=job.name, storage_path=job.storage, failure_config=FailureConfig(max_failures=job.max_failures)
        ),
    )
    trainer.fit()


def _rank(config: dict[str, Any]) -> None:
    """One worker: start the program and wait for it."""
    import ray.train  # pyright: ignore[reportMissingImports]

    context = ray.train.get_context()
    if context.get_local_world_size() != config["ranks_per_node"]:
        found = context.get_local_world_size()
        raise RuntimeError(f"the plan has {config['ranks_per_node']} ranks on each node, Ray has placed {found} here")
    address, port = _meeting_point(context.get_world_rank())
    ranks = {
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
        "MASTER_PORT": port,
    }
    variables = {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": address}
    command = [sys.executable, str(Path(config["program"], "train.py")), "--resume", *config["arguments"]]
    process = subprocess.Popen(
        command,
        cwd=config["folder"],
        env={**os.environ, **config["environment"], **variables},
        preexec_fn=end_with_parent,
    )
    status = process.wait()
    if status:
        raise RuntimeError(f"rank {context.get_world_rank()} ended with status {status}")


def _meeting_point(rank: int) -> tuple[str, int]:
    """The address of rank 0 and a port that is free there, told to all by Ray's own process group, which then goes."""
    import torch.distributed as dist

    found: list[Any] = [(_own_address(), _free_port()) if rank == 0 else None]
    dist.broadcast_object_list(found, src=0)
    dist.barrier()
    return found[0]


def _own_address() -> str:
    import ray.util  # pyright: ignore[reportMissingImports]

    return ray.util.get_node_ip_address()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
