"""Weights as a folder of safetensors under the canonical parameter names: what checkpoints, imports and servers share."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..common.errors import RunError
from ..common.progress import Stage, show_progress
from .inputs import layers_by_inputs, measure_inputs
from .packed import PanelLinear, packed_weights

ModelT = TypeVar("ModelT", bound=nn.Module)
QUIET_S = 2.0
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = "model"
"""Of a checkpoint that several devices wrote: the folder of its weights (parallel/checkpoint.py)."""


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All that belongs to the trained model: its parameters, and buffers such as the bias that balances experts."""
    buffers = {
        name: each for name, each in model.state_dict(keep_vars=True).items() if not isinstance(each, nn.Parameter)
    }
    return {**dict(model.named_parameters()), **buffers}


def cast_parameters(model: ModelT, dtype: torch.dtype) -> ModelT:
    """Parameters in another format, in place. Buffers stay as they are: experts are chosen by small differences of one."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def load_weights(model: nn.Module, folder: Path | str) -> None:
    """Fill a model's parameters from model.safetensors, from the files that model.safetensors.index.json names, or from shards.

    Every parameter must be there, with its shape, and nothing else; values are cast to the parameter's dtype, or rounded by
    layers that keep them in few bits, one after the other. Where rounding goes by the inputs of layers, a draft shows them first.
    What takes longer than QUIET_S says how far it is.
    """
    folder = Path(folder)
    load = _load_shards if (folder / SHARDS).is_dir() else _load_files
    size, inputs = sum(each.numel() for each in named_tensors(model).values()), {}
    with show_progress(after_s=QUIET_S) as progress:
        if layers_by_inputs(model):
            load(model, folder, how=_Pass(Stage(progress, "draft weights", total=size), inputs, is_draft=True))
            inputs = measure_inputs(model)
        load(model, folder, how=_Pass(Stage(progress, "load weights", total=size), inputs))


@dataclass(frozen=True)
class _Pass:
    """Over all weights, and how layers in few bits keep theirs."""

    stage: Stage
    inputs: dict[str, torch.Tensor]
    is_draft: bool = False

    def fill(self, layer: PanelLinear, name: str, weight: torch.Tensor) -> None:
        layer.fill(weight, inputs=self.inputs.get(name), is_draft=self.is_draft)


def _load_files(model: nn.Module, folder: Path, *, how: _Pass) -> None:
    own, packed = named_tensors(model), packed_weights(model)
    missing, unknown = set(own), []
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors, torch.no_grad():
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    if name not in own:
                        unknown.append(name)
                        continue
                    value = tensors.get_tensor(name)
                    refuse_shape(own[name].shape, value.shape, name=name, file=file)
                    if name in packed:
                        how.fill(packed[name], name, value)
                    else:
                        own[name].copy_(value)
                    how.stage.advance(value.numel())
                    missing.discard(name)
        except (OSError, SafetensorError) as problem:
            raise RunError(f"{file} cannot be read: {problem}", help="check the folder with the weights") from problem
    refuse_names(folder, missing=missing, unknown=unknown)
    how.stage.finish()


def _load_shards(model: nn.Module, folder: Path, *, how: _Pass) -> None:
    """The weights in a checkpoint of several devices."""
    from .parallel.cuts import Cuts, Whole
    from .parallel.storage import load_pieces

    cuts, packed = Cuts({}, rest=Whole()), packed_weights(model)
    own = named_tensors(model)
    whole = {name: torch.empty(own[name].shape, dtype=torch.bfloat16) for name in packed}
    pieces = [piece for name, tensor in {**own, **whole}.items() for piece in cuts.pieces(name, tensor)]
    load_pieces(pieces, folder / SHARDS, group=None, no_dist=True)
    for name, weight in whole.items():
        how.fill(packed[name], name, weight)
        how.stage.advance(weight.numel())
    how.stage.finish()


def save_weights(model: nn.Module, folder: Path | str, *, dtype: torch.dtype | None = None) -> Path:
    """Write model.safetensors into `folder`, atomically; the path of the file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to(dtype or p.dtype).contiguous() for name, p in named_tensors(model).items()}
    work = folder / f".{SINGLE}.{os.getpid()}"
    save_file(tensors, work, metadata={"format": "pt"})
    work.replace(folder / SINGLE)
    return folder / SINGLE


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the single one, or those that its index names."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RunError(
            f"{folder} has neither {SINGLE} nor a readable {INDEX}", help="give a folder with safetensors"
        ) from problem
    for name in names:
        if Path(name).name != name:  # an index is untrusted: it must not lead out of the folder
            raise RunError(f"{INDEX} names `{name}`, which is not a file beside it", help="check where it came from")
    return [folder / name for name in names]


def refuse_names(folder: Path, *, missing: set[str], unknown: list[str]) -> None:
    """RunError if a folder has too few tensors, or others."""
    if missing or unknown:
        raise RunError(
            f"{folder} holds weights of another model: {_names(missing, 'missing')}{_names(unknown, 'unknown')}",
            help="give the folder of a checkpoint of this spec, or import the weights with `llmc import`",
        )


def refuse_shape(wanted: Sequence[int], found: Sequence[int], *, name: str, file: Path) -> None:
    """RunError if a tensor of a file is not what the model has."""
    if tuple(found) != tuple(wanted):
        raise RunError(
            f"{name} has shape {list(found)} in {file}, the model has {list(wanted)}",
            help="give weights of this spec's model",
        )


def _names(names: set[str] | list[str], what: str) -> str:
    if not names:
        return ""
    shown = sorted(names)[:3]
    return f"{len(names)} {what} ({', '.join(shown)}{', …' if len(names) > 3 else ''}) "
