"""One process a host; all devices of all hosts work as one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from . import device


def run_hosts(main: Callable[[], None]) -> NoReturn:
    """Run a generated program on this host. The hosts of a slice find each other; what they agree on goes by gloo.

    A fault with a `help` is printed and ends this process with status 1.
    """
    status = 0
    device.start()
    try:
        join_hosts()
        main()
        dist.barrier()
    except Exception as error:
        if not hasattr(error, "help"):
            raise
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of gloo may abort an interpreter that takes itself apart


def join_hosts() -> None:
    """A group of one process a host."""
    if device.num_hosts() == 1:
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        return
    import torch_xla.distributed.xla_backend  # noqa: F401  # pyright: ignore[reportMissingImports]

    dist.init_process_group("gloo", init_method="xla://", rank=device.host_number(), world_size=device.num_hosts())
