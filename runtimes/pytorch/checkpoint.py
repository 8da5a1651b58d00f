"""Checkpoints that survive a kill at any moment: whole or absent, verified on load, nothing pickled.

    step-00000100/
        model.safetensors       parameters by name
        optimizer.safetensors   exp_avg.<name>, exp_avg_sq.<name>, …, and the state of the random generators
        tokenizer.json          so that the folder can be served as it is
        meta.json               step, data cursor, sha256 of the files above

A checkpoint is written into a hidden folder, synced to disk and renamed. A crash before the rename leaves no trace that
is ever read; damage after it is found by the checksums, and the checkpoint before is taken instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..common.errors import RunError
from .weights import named_tensors

FORMAT = "llmc-checkpoint"
VERSION = 1
VERSIONS = (1, 2)
"""2: of several devices, see runtimes/pytorch/parallel/checkpoint.py."""
MODEL, OPTIMIZER, META = "model.safetensors", "optimizer.safetensors", "meta.json"
_HASH_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds beside tensors."""

    folder: Path
    step: int
    cursor: dict[str, Any]
    updates: int
    """Steps that the optimizer took: fewer where a watched run left batches out."""


class Checkpoints:
    """The checkpoints of one run, of which the latest `keep` stay on disk."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(
        self,
        step: int,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        cursor: dict[str, Any],
        files: Sequence[Path] = (),
    ) -> Path:
        """Write the checkpoint of `step` (steps done); `files` are copied into it."""
        final = self.folder / f"step-{step:08d}"
        work = self.folder / f".{final.name}.{os.getpid()}"
        self._clear_leftovers()
        work.mkdir(parents=True)
        save_file(_tensors_of(model), work / MODEL)
        save_file(_optimizer_tensors(model, optimizer), work / OPTIMIZER)
        for file in files:
            shutil.copyfile(file, work / file.name)
        names = sorted(path.name for path in work.iterdir())
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            **updates_entry(optimizer, step=step),
            "cursor": cursor,
            "sha256": {name: sha256(work / name) for name in names},
        }
        (work / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        for name in (*names, META):
            sync(work / name)
        sync(work)
        if final.exists():
            shutil.rmtree(final)
        work.rename(final)
        sync(self.folder)
        for old in self.list()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def list(self) -> list[Path]:
        """Folders of checkpoints, oldest first."""
        return sorted(self.folder.glob("step-[0-9]*"))

    def load_latest(self, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> Saved | None:
        """Load the newest checkpoint that is whole; None if there is none."""
        for folder in reversed(self.list()):
            try:
                saved = read_meta(folder)
            except RunError as error:
                print(f"warning: {error.message}; taking the one before", file=sys.stderr)
                continue
            if (folder / MODEL).exists():
                _load_model(model, load_file(folder / MODEL), folder=folder)
                _load_optimizer(model, optimizer, load_file(folder / OPTIMIZER), updates=saved.updates)
            else:
                _load_shards(saved, model=model, optimizer=optimizer)
            return saved
        print(f"no checkpoint in {self.folder}", file=sys.stderr)
        return None

    def _clear_leftovers(self) -> None:
        """Remove what a killed process left half-written."""
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    for folder in reversed(Checkpoints(run_dir / "checkpoints", keep=1).list()):
        try:
            read_meta(folder)
        except RunError:
            continue
        return folder
    return None


def read_meta(folder: Path) -> Saved:
    """Read meta.json and verify every file that it names; RunError says what is damaged."""
    return checked_meta(folder, check=list)


def checked_meta(folder: Path, *, check: Callable[[Sequence[str]], Sequence[str]]) -> Saved:
    """As `read_meta`, for those of the files that `check` leaves: ranks share the work."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or meta["version"] not in VERSIONS:
            raise ValueError(f"format {meta['format']} {meta['version']}")
        needed = (MODEL, OPTIMIZER) if meta["version"] == VERSION else ()
        for name in check((*needed, *meta["sha256"])):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{META} names {name}, which is not in its folder")
            if sha256(folder / name) != meta["sha256"][name]:
                raise ValueError(f"{name} has another checksum than when it was written")
        step = meta["step"]
        return Saved(folder=folder, step=step, cursor=meta["cursor"], updates=meta.get("updates", step))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise RunError(f"checkpoint {folder} is damaged: {problem}", help="resume from an earlier one") from problem


def _load_shards(saved: Saved, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A checkpoint that several devices wrote."""
    from .parallel.checkpoint import load_checkpoint
    from .parallel.cuts import Cuts, Whole

    cuts = Cuts({}, rest=Whole())
    load_checkpoint(saved, model=model, optimizer=optimizer, cuts=cuts, group=None, no_dist=True)


def updates_entry(optimizer: torch.optim.Optimizer, *, step: int) -> dict[str, int]:
    """What meta.json says of the optimizer's own count of steps: nothing where it is the run's."""
    updates = max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)
    return {"updates": updates} if updates != step else {}


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in named_tensors(model).items()}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments by parameter name; the count of steps is in meta.json."""
    tensors = {"rng.cpu": torch.get_rng_state()}
    if (device := next(model.parameters()).device.type) != "cpu":
        tensors[f"rng.{device}"] = torch.get_device_module(device).get_rng_state()
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            if key != "step":
                tensors[f"{key}.{name}"] = value.contiguous()
    return tensors


def _load_model(model: nn.Module, tensors: dict[str, Tensor], *, folder: Path) -> None:
    own = named_tensors(model)
    differing = sorted(own.keys() ^ tensors.keys())
    differing += [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if differing:
        raise RunError(
            f"checkpoint {folder} is of another model: {', '.join(differing[:3])} differ",
            help="start a new run, or build the spec that this run was started with",
        )
    formats = {str(tensors[name].dtype) for name in own if tensors[name].dtype != own[name].dtype}
    if formats:
        raise RunError(
            f"checkpoint {folder} holds weights in {', '.join(sorted(formats))}, and this machine trains in another format",
            help="resume on a processor like that of the run, or start a new run",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], *, updates: int
) -> None:
    torch.set_rng_state(tensors.pop("rng.cpu"))
    states = {name.removeprefix("rng."): tensors.pop(name) for name in list(tensors) if name.startswith("rng.")}
    if (device := next(model.parameters()).device.type) in states:
        torch.get_device_module(device).set_rng_state(states[device])
    optimizer.state.clear()
    if not updates:
        return
    keys = {name.partition(".")[0] for name in tensors}
    for name, parameter in model.named_parameters():
        found = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
        state = {key: value.to(parameter.device) for key, value in found.items()}
        optimizer.state[parameter] = {"step": torch.tensor(float(updates), device=parameter.device), **state}


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Push a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
