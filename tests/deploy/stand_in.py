"""What a launcher sees of a generated train.py, without a model: see trees.py."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--max-steps", type=int, default=STEPS)
    parser.add_argument("--fail-at", type=int, help="rank 1 dies by its own hand at this step of the first start")
    parser.add_argument("--step-s", type=float, default=0.0)
    args = parser.parse_args()

    stopping = torch.zeros(1)
    signal.signal(signal.SIGTERM, lambda *_: stopping.fill_(1))
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    assert rank == int(os.environ["RANK"])
    assert world == int(os.environ["WORLD_SIZE"])
    args.run_dir.mkdir(parents=True, exist_ok=True)
    metrics = args.run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if args.resume and metrics.exists() else []
    first = json.loads(lines[-1])["step"] if lines else 0
    dist.barrier()
    note(args.run_dir, {"rank": rank, "world": world, "local": os.environ["LOCAL_RANK"], "first": first})
    for step in range(first + 1, min(STEPS, args.max_steps) + 1):
        if step == args.fail_at and rank == 1 and first == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        total = torch.ones(1) * (rank + 1)
        dist.all_reduce(total)
        assert total.item() == world * (world + 1) / 2
        time.sleep(args.step_s)
        if rank == 0:
            with metrics.open("a") as stream:
                stream.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
        stop = stopping.clone()
        dist.all_reduce(stop, dist.ReduceOp.MAX)
        if stop.item():
            break
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def note(run_dir: Path, facts: dict[str, object]) -> None:
    """A line a start and rank."""
    environment = {
        key: value for key, value in os.environ.items() if key.startswith(("OMP_", "TORCH_", "GLOO_", "OWN_"))
    }
    with (run_dir / "starts.jsonl").open("a") as stream:
        stream.write(json.dumps({**facts, "environment": environment}) + "\n")


if __name__ == "__main__":
    main()
