"""Does a program for several devices do what the program for one device does? Both run here, in float64, on the same numbers.

    python -m llmc.runtimes.pytorch.parity alone FOLDER REFERENCE [--steps N]
    python -m llmc.runtimes.pytorch.parity ranks FOLDER REFERENCE      -> one JSON object: the largest differences

`alone` trains the one-device program of FOLDER on random tokens and keeps weights, losses and gradients in REFERENCE;
`ranks` starts a process for each rank of the program in FOLDER, gives it the same first weights and tokens, and compares
what each rank holds, piece by piece. Differences are shares of the norm of the whole tensor.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from .weights import named_tensors

LR = 1e-3
_TIMEOUT = timedelta(seconds=60)


def run_alone(folder: Path, reference: Path, *, steps: int) -> None:
    """Train for a few steps and keep what ranks are compared with."""
    train = _program(folder)
    torch.manual_seed(0)
    model = train.Model()
    train.init_weights(model)
    model = model.double()
    optimizer = train.make_optimizer(model)
    vocab = model.embed.weight.shape[0]
    sequences = train.MICRO_BATCH * train.GRAD_ACCUMULATION
    batches = torch.randint(0, vocab, (steps, sequences, train.SEQ_LEN + 1))
    kept = {f"first.{name}": each.detach().clone() for name, each in named_tensors(model).items()}
    losses = []
    for number, windows in enumerate(batches):

        def keep(*_: Any, number: int = number) -> None:
            for name, each in model.named_parameters():
                assert each.grad is not None
                kept[f"gradients.{number}.{name}"] = each.grad.clone()

        handle = optimizer.register_step_pre_hook(keep)
        turns = iter(windows.unflatten(0, (train.GRAD_ACCUMULATION, train.MICRO_BATCH)).numpy())
        told = {"step": number + 1} if hasattr(train, "estimate_curvature") else {}
        losses.append(train.train_step(model, optimizer, turns, lr=LR, **told)[0])
        handle.remove()
    kept |= {f"last.{name}": each.detach().clone() for name, each in named_tensors(model).items()}
    save_file({**kept, "batches": batches, "loss": torch.tensor(losses)}, reference)


def run_rank(folder: Path, reference: Path) -> dict[str, float]:
    """Train as this rank; the largest differences from the program for one device, in what the rank holds."""
    from .parallel.cuts import load_whole

    whole = load_file(reference)
    train = _program(folder)
    place = train.take_place("cpu")
    model, optimizer = train.build(place)
    model.double()
    load_whole(model, place.cuts, _part(whole, "first"))
    for name, buffer in model.named_buffers():
        if name.endswith("visits"):  # no part of the weights: zero at the start of a step
            buffer.zero_()
    worst = {"loss": 0.0, "gradient": 0.0, "weight": 0.0}
    for number, windows in enumerate(whole["batches"]):
        batches = list(train.on_device(_own_windows(windows, train, place), place))
        loss = train.accumulate_gradients(model, place, batches)[0].item()
        expected = whole["loss"][number].item()
        worst["loss"] = max(worst["loss"], abs(loss - expected) / abs(expected))
        gradients = [(name, each.grad) for name, each in model.named_parameters()]
        worst["gradient"] = max(worst["gradient"], _distance(gradients, _part(whole, f"gradients.{number}"), place))
        train.update(optimizer, lr=LR)
        if hasattr(train, "estimate_curvature") and number % train.CURVATURE_EVERY == 0:
            train.estimate_curvature(model, optimizer, place, batches[-1][0], step=number + 1)
        if hasattr(model, "balance_experts"):
            model.balance_experts()
    worst["weight"] = _distance(list(named_tensors(model).items()), _part(whole, "last"), place)
    return worst


def _program(folder: Path, name: str = "train") -> Any:
    """A module of a build folder."""
    sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def _own_windows(windows: Tensor, train: Any, place: Any) -> Iterator[Any]:
    """The micro-batches [B, T + 1] of this rank, from all of a step's windows."""
    rank, ranks = getattr(place, "data_rank", 0), getattr(train, "DATA_RANKS", 1)
    for turn in windows.unflatten(0, (train.GRAD_ACCUMULATION, ranks, train.MICRO_BATCH)):
        yield turn[rank].numpy()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): each for name, each in tensors.items() if name.startswith(f"{prefix}.")}


def _distance(found: list[tuple[str, Tensor | None]], expected: dict[str, Tensor], place: Any) -> float:
    from .parallel.cuts import box

    worst = 0.0
    for name, tensor in found:
        if tensor is None:
            return math.inf
        pieces = list(place.cuts.pieces(name, tensor))
        squares = sum((piece.tensor - box(expected[name], piece)).square().sum().item() for piece in pieces)
        worst = max(worst, math.sqrt(squares) / max(expected[name].norm().item(), 1e-30))
    return worst


def run_ranks(folder: Path, reference: Path) -> dict[str, Any]:
    """All ranks as processes of this machine."""
    world_size: int = _program(folder, "parallel").WORLD_SIZE
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "rank", str(folder), str(reference)]
        processes = [
            subprocess.Popen(
                [*command, "--rank", str(rank), "--world-size", str(world_size), "--store", f"{scratch}/store"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]
        answers = [process.communicate() for process in processes]
    failed = [
        {"rank": rank, "error": _last_words(said)}
        for rank, (process, (_, said)) in enumerate(zip(processes, answers, strict=True))
        if process.returncode
    ]
    if failed:
        return failed[0]
    found = [json.loads(line) for line, _ in answers]
    return {name: max(each[name] for each in found) for name in found[0]}


def _last_words(said: str) -> str:
    """The last line of a traceback, without torch's marks of ranks and places."""
    lines = [re.sub(r"\[\S*(rank\d+|\.cpp:\d+)\]:? ?", "", line) for line in said.strip().splitlines()]
    return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")


def main() -> None:
    parser = argparse.ArgumentParser(prog="parity")
    parser.add_argument("what", choices=("alone", "ranks", "rank"))
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("reference", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--world-size", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["LLMC_KERNELS"] = "eager"  # fused kernels know no float64
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    if args.what == "alone":
        run_alone(args.folder, args.reference, steps=args.steps)
    elif args.what == "ranks":
        print(json.dumps(run_ranks(args.folder, args.reference)))
    else:
        store = FileStore(args.store, args.world_size)
        dist.init_process_group("gloo", store=store, rank=args.rank, world_size=args.world_size, timeout=_TIMEOUT)
        print(json.dumps(run_rank(args.folder, args.reference)), flush=True)
        dist.barrier()
        os._exit(0)  # threads of gloo may abort an interpreter that takes itself apart


if __name__ == "__main__":
    main()
