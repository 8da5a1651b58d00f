"""Run one step of a generated training program as ranks of a world that is not there, and tell what each did.

    python -m llmc.runtimes.pytorch.dryrun.run BUILD_DIR --ranks 0 5 …   -> one JSON object a line, a rank each

Each rank builds its part of the model as the program does, then takes a step on micro-batches of fake tokens. A step
repeats itself from micro-batch to micro-batch, so --micro-batches few of them tell about many.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import resource
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from .device_ops import ops_of_accelerators
from .fakes import plain_fakes
from .memory import LiveBytes
from .seen_ops import SeenOps
from .traffic import Call, Traffic
from .world import fake_world


class DryProgram:
    """The modules of a build folder, imported as the program imports them."""

    def __init__(self, folder: Path, *, device: str = "gpu") -> None:
        self.device = device
        sys.path.insert(0, str(folder))
        self.train: Any
        self.parallel: Any
        self.train, self.parallel = (importlib.import_module(name) for name in ("train", "parallel"))
        self.world_size: int = self.parallel.WORLD_SIZE

    is_whole = True

    def keep_layers(self, number: int) -> None:
        """Build models of the first few layers: what ranks do together does not depend on depth, nor which ops they call."""
        self.is_whole = False
        if hasattr(self.parallel, "STAGES"):
            self.parallel.STAGES = [
                {stage: layers[:number] for stage, layers in stages.items()} for stages in self.parallel.STAGES
            ]
            return
        whole = self.parallel.Model

        def first_layers(*args: Any, **kwargs: Any) -> torch.nn.Module:
            model = whole(*args, **kwargs)
            model.layers = model.layers[:number]
            return model

        self.parallel.Model = first_layers

    def run(self, rank: int, *, micro_batches: int | None) -> dict[str, Any]:
        """One step of one rank."""
        train = self.train
        count = train.GRAD_ACCUMULATION if micro_batches is None else min(micro_batches, train.GRAD_ACCUMULATION)
        train.GRAD_ACCUMULATION, kept = count, train.GRAD_ACCUMULATION
        try:
            with fake_world(rank, self.world_size):
                place = self.parallel.take_place("cpu")
                with plain_fakes(), ops_of_accelerators(self.device):
                    return {"rank": rank, "micro_batches": count, **self._step(place, count)}
        finally:
            train.GRAD_ACCUMULATION = kept

    def _batch(self, place: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a micro-batch, [B, T] as this rank has them."""
        context = place.cp.size if hasattr(place, "cp") else 1
        shape = (self.train.MICRO_BATCH, self.train.SEQ_LEN // context)
        return torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)

    def _precision(self) -> dict[str, torch.autocast]:
        """What a program hands on whose narrow numbers are autocast's doing."""
        if "precision" not in inspect.signature(self.train.accumulate_gradients).parameters:
            return {}
        is_fp16 = hasattr(self.train, "SCALE")
        return {"precision": torch.autocast("cpu", dtype=torch.float16 if is_fp16 else torch.bfloat16)}

    def _step(self, place: Any, micro_batches: int) -> dict[str, Any]:
        train, memory, traffic, ops = self.train, LiveBytes(), Traffic(), SeenOps()
        with memory.counting() if self.is_whole else nullcontext():
            model, optimizer = train.build(place)
            optimizer_step(optimizer, model)  # the first step makes the moments, the second is like all others
            parameters = _bytes_of(model.parameters())
            batches = [self._batch(place) for _ in range(micro_batches)]
            memory.restart_peak()
            with traffic.recording(), nullcontext() if self.is_whole else ops:
                train.accumulate_gradients(model, place, batches, **self._precision())
                peak_of_passes = memory.peak
                gradients = _bytes_of(each.grad for each in model.parameters())
                train.update(optimizer, lr=train.LR)
                if hasattr(model, "balance_experts"):
                    model.balance_experts()
        if not self.is_whole:
            return {"ops": sorted(ops.names), **_as_json(traffic.calls)}
        states = [each for state in optimizer.state.values() for each in state.values()]
        # Moments are there all the time. Those on the host are not what the device holds, nor is what an update there works with.
        is_on_host = getattr(optimizer, "is_on_host", False)
        moments = _bytes_of(each for each in states if isinstance(each, torch.Tensor) and each.dim())
        return {
            "states": {
                "parameters": parameters,
                "gradients": gradients,
                "optimizer": moments,
                "peak": peak_of_passes - moments if is_on_host else memory.peak,
            },
            **_as_json(traffic.calls),
        }


def optimizer_step(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    optimizer.zero_grad()


def _bytes_of(tensors: Any) -> int:
    locals_ = (each.to_local() if isinstance(each, DTensor) else each for each in tensors if each is not None)
    return sum(each.nbytes for each in locals_)


def _as_json(calls: list[Call]) -> dict[str, Any]:
    """Groups once, calls by their numbers: a group of 2,048 ranks comes in thousands of calls."""
    groups = list(dict.fromkeys(call.ranks for call in calls))
    numbers = {ranks: number for number, ranks in enumerate(groups)}
    events = []
    for call in calls:
        event: dict[str, Any] = {"kind": call.kind}
        if call.ranks:
            event["group"] = numbers[call.ranks]
        if call.shapes:
            event |= {"num_bytes": call.num_bytes, "shapes": call.shapes}
        if call.message is not None:
            event |= {"message": call.message}
        if call.peer is not None:
            event |= {"peer": call.peer}
        events.append(event)
    return {"groups": groups, "events": events}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dryrun")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[0])
    parser.add_argument("--micro-batches", type=int, nargs="+", help="at most so many; several: a step of each")
    parser.add_argument(
        "--layers",
        type=int,
        help="of the model or of each stage, from the first on, and what they hold is not counted; all of them if not given",
    )
    parser.add_argument("--device", default="gpu", help="kind of device that the program is for")
    args = parser.parse_args()
    torch.set_num_threads(1)
    program = DryProgram(args.folder.resolve(), device=args.device)
    if args.layers is not None:
        program.keep_layers(args.layers)
    for rank in args.ranks:
        for count in args.micro_batches or (None,):
            print(json.dumps(program.run(rank, micro_batches=count)), flush=True)
    print(
        f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB", file=sys.stderr
    )


if __name__ == "__main__":
    main()
