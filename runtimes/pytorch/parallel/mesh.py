"""Processes of a run and the axes along which they are arranged."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ...common.errors import RunError

_LONG = timedelta(days=2)
"""What others wait for rank 0 to prepare a corpus."""
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}
_RECORDED = "2000"
"""Latest collectives that PyTorch's flight recorder keeps; it is made with the first process group."""


@dataclass(frozen=True)
class Axis:
    """One axis of the mesh as this rank sees it: the ranks that differ along it alone."""

    group: dist.ProcessGroup
    rank: int
    size: int


def axis(mesh: DeviceMesh, name: str) -> Axis:
    """The axis `name` of a mesh."""
    part = mesh[name]
    return Axis(part.get_group(), part.get_local_rank(), part.size())


def joined(mesh: DeviceMesh, *names: str, into: str) -> DeviceMesh:
    """Adjacent axes of a mesh as a single one, which the mesh knows as `into` from now on."""
    return mesh[names]._flatten(into)


def split(mesh: DeviceMesh, name: str, *, inner: int) -> Axis:
    """The ranks of an axis in runs of `inner` neighbours: the run of this rank."""
    part = mesh[name]
    runs = part._unflatten(0, (part.size() // inner, inner), (f"{name}_outer", f"{name}_inner"))
    return axis(runs, f"{name}_inner")


def run_processes(
    main: Callable[[], None],
    *,
    device: str,
    world_size: int,
    records_collectives: bool = False,
    times_collectives: bool = False,
) -> NoReturn:
    """Run a generated program as one of `world_size` processes, which torchrun or its like has started.

    A fault with a `help` is printed and ends this process with status 1; torchrun then ends the others. Collectives are recorded
    for hang.py and timed for stragglers.py.
    """
    status = 0
    if records_collectives or times_collectives:
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", _RECORDED)
    if times_collectives:
        os.environ.setdefault("TORCH_NCCL_ENABLE_TIMING", "1")
    try:
        with process_group(device, world_size=world_size):
            main()
    except Exception as error:
        if not hasattr(error, "help"):
            raise
        print(f"error on rank {os.environ.get('RANK', '?')}: {error}", file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of gloo may abort an interpreter that takes itself apart


@contextmanager
def process_group(device: str, *, world_size: int) -> Iterator[None]:
    """Join the other processes; on a machine with accelerators, take the one of this process' place."""
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != world_size:
        raise RunError(
            f"this program is for {world_size} processes, and {found} {'was' if found == 1 else 'were'} started",
            help=f"start it with `torchrun --nproc-per-node {world_size} train.py` on one machine, or `llmc run train`",
        )
    if device != "cpu":
        torch.get_device_module(device).set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend=_BACKENDS[device])
    yield
    dist.barrier()
    dist.destroy_process_group()


def cpu_group() -> dist.ProcessGroup:
    """Another group of all ranks, for what they exchange beside training."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def is_first_rank() -> bool:
    """Whether this process is the one that writes what is written once."""
    return dist.get_rank() == 0


@contextmanager
def first_rank_first(what: str) -> Iterator[None]:
    """Rank 0 goes through the block before all others, however long that takes; `what` names it, once a run."""
    store = dist.distributed_c10d._get_default_store()
    if not is_first_rank():
        store.wait([what], _LONG)
    yield
    if is_first_rank():
        store.set(what, "done")


def agreed(fact: bool, *, device: str) -> bool:
    """Whether it holds on every rank: what differs from rank to rank must not decide what they do together."""
    held = torch.tensor(int(fact), device=device)
    dist.all_reduce(held, op=dist.ReduceOp.MIN)
    return bool(held.item())
