"""Checkpoints that all ranks write together and any layout reads: whole or absent, verified on load, nothing pickled.

    step-00000100/
        model/shard-00001-….safetensors      each rank's pieces of the parameters
        optimizer/shard-00001-….safetensors  exp_avg.<name>, exp_avg_sq.<name>, …
        tokenizer.json
        meta.json                            step, data cursor, sha256 of the files above

As with one device (runtimes/pytorch/checkpoint.py), a checkpoint is written into a hidden folder, synced and renamed. The
pieces are copied to the CPU first and written beside the next steps. The folder must be one that all ranks see.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ...common.errors import RunError
from ..checkpoint import FORMAT, META, Saved, checked_meta, sha256, sync, updates_entry
from ..optimizers.average import KIND as AVERAGE
from ..weights import named_tensors
from .cuts import Cuts, Piece
from .mesh import cpu_group, is_first_rank
from .storage import detached, load_pieces, names_in, save_pieces, section_names

VERSION = 2
MODEL, OPTIMIZER = "model", "optimizer"


class SharedCheckpoints:
    """The checkpoints of one run, of which the latest `keep` stay on disk. Every rank calls every method."""

    def __init__(self, folder: Path, cuts: Cuts, *, keep: int) -> None:
        self.folder, self.cuts, self.keep = folder, cuts, keep
        self.group = cpu_group()  # its own, since it works beside the group of training
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def save(
        self,
        step: int,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        cursor: dict[str, Any],
        files: Sequence[Path] = (),
    ) -> None:
        """Write the checkpoint of `step` (steps done), beside what comes next; `files` are copied into it."""
        self.finish()
        parts = {
            MODEL: [detached(piece) for piece in _model_pieces(model, self.cuts)],
            OPTIMIZER: [detached(piece) for piece in _optimizer_pieces(model, optimizer, self.cuts)],
        }
        told = {"step": step, **updates_entry(optimizer, step=step), "cursor": cursor}
        self._pending = self._writer.submit(self._write, step, parts, told, tuple(files))

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is on disk."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def load_latest(self, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> Saved | None:
        """Load the newest checkpoint that is whole; None if there is none."""
        self.finish()
        for folder in self._shared(lambda: [str(path) for path in reversed(self.list())]):
            saved = self._verified(Path(folder))
            if saved is not None:
                self.load(saved, model=model, optimizer=optimizer)
                return saved
        if is_first_rank():
            print(f"no checkpoint in {self.folder}", file=sys.stderr)
        return None

    def load(self, saved: Saved, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Fill what this rank holds from a verified checkpoint."""
        load_checkpoint(saved, model=model, optimizer=optimizer, cuts=self.cuts, group=self.group)

    def list(self) -> list[Path]:
        """Folders of checkpoints, oldest first."""
        return sorted(self.folder.glob("step-[0-9]*"))

    def _write(self, step: int, parts: dict[str, list[Piece]], told: dict[str, Any], files: tuple[Path, ...]) -> None:
        final = self.folder / f"step-{step:08d}"
        work = self.folder / f".{final.name}"
        if is_first_rank():
            for path in self.folder.glob(".step-*"):
                shutil.rmtree(path)  # what a killed run left half-written
            for name in parts:
                (work / name).mkdir(parents=True)
            for file in files:
                shutil.copyfile(file, work / file.name)
        dist.barrier(group=self.group)
        for name, pieces in parts.items():
            self.save_part(pieces, work / name)
        dist.barrier(group=self.group)
        sums = self._sums(work)
        if is_first_rank():
            meta = {"format": FORMAT, "version": VERSION, **told, "sha256": sums}
            (work / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
            for path in (work / META, *(work / name for name in parts), work):
                sync(path)
            if final.exists():
                shutil.rmtree(final)
            work.rename(final)
            sync(self.folder)
            for old in self.list()[: -self.keep]:
                shutil.rmtree(old)
        dist.barrier(group=self.group)

    def save_part(self, pieces: Sequence[Piece], folder: Path) -> None:
        """Write this rank's pieces of the model, or of the optimizer's state."""
        save_pieces(pieces, folder, group=self.group)

    def _sums(self, folder: Path) -> dict[str, str]:
        """Checksums of all files: every rank works out those of its turn, after pushing them to disk."""
        mine = {}
        for name in _turn(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())):
            sync(folder / name)
            mine[name] = sha256(folder / name)
        found: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, mine, group=self.group)
        return dict(sorted((name, each) for sums in found for name, each in sums.items()))

    def _verified(self, folder: Path) -> Saved | None:
        """What meta.json says, if every file is as it was written: each rank looks at those of its turn."""
        problem, saved = None, None
        try:
            saved = checked_meta(folder, check=_turn)
        except RunError as error:
            problem = error.message
        problems: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(problems, problem, group=self.group)
        told = next((each for each in problems if each), None)
        if told is None:
            return saved
        if is_first_rank():
            print(f"warning: {told}; taking the one before", file=sys.stderr)
        return None

    def _shared(self, find: Any) -> Any:
        """What rank 0 finds, on every rank: a file system may show it to others later."""
        found = [find() if is_first_rank() else None]
        dist.broadcast_object_list(found, src=0, group=self.group)
        return found[0]


def _turn(names: Sequence[str]) -> list[str]:
    return list(names[dist.get_rank() :: dist.get_world_size()])


def load_checkpoint(
    saved: Saved,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cuts: Cuts,
    group: dist.ProcessGroup | None,
    no_dist: bool = False,
) -> None:
    """Fill a model and its optimizer from a verified checkpoint of any layout, one device included."""
    is_sharded = (saved.folder / MODEL).is_dir()
    model_folder, optimizer_folder = (
        (saved.folder / MODEL, saved.folder / OPTIMIZER) if is_sharded else (saved.folder, saved.folder)
    )
    load_pieces(_model_pieces(model, cuts), model_folder, group=group, no_dist=no_dist)
    optimizer.state.clear()
    if not saved.updates:
        return  # and so no moments
    kinds = _kinds_of_moments(model, names_in(optimizer_folder))
    for parameter in model.parameters():
        state: dict[str, Any] = _fresh_state(optimizer, parameter, kinds)
        optimizer.state[parameter] = {"step": torch.tensor(float(saved.updates), device=parameter.device), **state}
    load_pieces(_optimizer_pieces(model, optimizer, cuts), optimizer_folder, group=group, no_dist=no_dist)


def _fresh_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, kinds: list[str]) -> dict[str, Any]:
    """Room for what is stored of a parameter: as an optimizer says whose parameters differ in it, else of its own shape."""
    if not hasattr(optimizer, "fresh_state"):
        return {kind: torch.zeros_like(parameter) for kind in kinds}
    average = {AVERAGE: torch.zeros_like(parameter)} if AVERAGE in kinds else {}
    return {**optimizer.fresh_state(parameter), **average}  # type: ignore[attr-defined]


def _kinds_of_moments(model: nn.Module, stored: Collection[str]) -> list[str]:
    """What a checkpoint has under `<kind>.<name>` for this rank's parameters."""
    names = {name for name, _ in model.named_parameters()}
    names |= {section for name in names for section in section_names(name)}
    splits = (name.partition(".") for name in stored)
    return sorted({kind for kind, _, name in splits if name in names})


def _model_pieces(model: nn.Module, cuts: Cuts) -> Iterator[Piece]:
    for name, tensor in named_tensors(model).items():
        yield from cuts.pieces(name, tensor)


def _optimizer_pieces(model: nn.Module, optimizer: torch.optim.Optimizer, cuts: Cuts) -> Iterator[Piece]:
    """Moments by parameter; the count of steps is in meta.json."""
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state[parameter].items():
            if kind != "step":
                for piece in cuts.pieces(name, value, of=parameter):
                    yield Piece(f"{kind}.{name}", piece.part, piece.offset, piece.tensor, piece.copies)
