"""Ranks of which one does not come to a collective; not a test module, see test_hang.py.

    python hanging.py FOLDER WORLD_SIZE HOW: `stop` (SIGSTOP) or `sleep`

PyTorch is imported once, and ranks are forks of this process. Prints the ranks' exit statuses.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

os.environ["TORCH_FR_BUFFER_SIZE"] = "2000"

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from llmc.runtimes.pytorch.parallel.hang import HangWatch

HANG_S = 1.5


def run_rank(rank: int, folder: Path, world_size: int, how: str) -> None:
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), world_size), rank=rank, world_size=world_size
    )
    mesh = init_device_mesh("cpu", (world_size // 2, 2), mesh_dim_names=("dp", "tp"))
    watch = HangWatch(folder, hang_s=HANG_S)
    watch.start()
    values = torch.ones(3)
    for step in range(1, 5):
        watch.beat(step)
        dist.all_reduce(values, group=mesh["tp"].get_group())
        if step == 3 and rank == world_size - 1:
            stand_still(how)
        dist.all_reduce(values, group=mesh["tp"].get_group())
        dist.all_reduce(torch.ones(2))


def stand_still(how: str) -> None:
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        time.sleep(60)


def main() -> None:
    folder, world_size, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    children = []
    for rank in range(world_size):
        child = os.fork()
        if child == 0:
            run_rank(rank, folder, world_size, how)
            os._exit(0)
        children.append(child)
    stopped = children.pop() if how == "stop" else None
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if stopped is not None:
        os.kill(stopped, signal.SIGKILL)
        os.waitpid(stopped, 0)
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
