"""A server on several devices: its processes find each other, and each gets its place on the axis that cuts the model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from ...launch.ranks import take_place
from ...serving.ranks import MEETS_S, Ranks
from .mesh import Axis

_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@contextmanager
def replica(size: int, *, device: str) -> Iterator[tuple[Axis, Ranks]]:
    """All ranks of this replica, which are started if nobody has; when the block is left on rank 0, they end.

    The process ends here: threads of gloo may abort an interpreter that takes itself apart.
    """
    place = take_place(size)
    ranks = Ranks(place, size=size)
    status = 1
    try:
        store = FileStore(str(place.meeting / "store"), size) if place.meeting is not None else None
        if store is not None and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else is to connect
        if device != "cpu":
            torch.get_device_module(device).set_device(place.local_rank)
        dist.init_process_group(
            _BACKENDS[device],
            store=store,
            rank=place.rank,
            world_size=size,
            timeout=timedelta(seconds=MEETS_S),
            device_id=torch.device(device, place.local_rank) if device != "cpu" else None,
        )
        ranks.connect(store or dist.distributed_c10d._get_default_store())
        assert dist.group.WORLD is not None
        yield Axis(dist.group.WORLD, place.rank, size), ranks
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except Exception as error:
        if not hasattr(error, "help"):
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            print(f"error on rank {place.rank}: {error}", file=sys.stderr)
    if status == 0 or place.rank == 0:
        ranks.end()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
