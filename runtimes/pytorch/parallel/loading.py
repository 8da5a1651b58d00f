"""Weights of a served model that is cut: a rank reads the parts of the files that it holds, and nothing else of them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ...common.errors import RunError
from ..weights import SHARDS, named_tensors, refuse_names, refuse_shape, weight_files
from .cuts import Cuts
from .initial import fill_normal
from .storage import load_pieces

_STD = 0.02


def load_cut_weights(model: nn.Module, folder: Path | str, cuts: Cuts, *, whole: nn.Module | None = None) -> None:
    """Fill a rank's parameters from the safetensors of the whole model, or from a checkpoint of several devices.

    As with `load_weights`, every parameter must be there, with its shape, and nothing else; where the rank has some of the layers,
    nothing else than in the `whole` model, whose tensors may be on no device.
    """
    folder = Path(folder)
    own = named_tensors(model)
    known = own if whole is None else named_tensors(whole)
    if (folder / SHARDS).is_dir():
        pieces = [piece for name, tensor in own.items() for piece in cuts.pieces(name, tensor)]
        load_pieces(pieces, folder / SHARDS, group=None, no_dist=True)
        return
    missing, unknown = set(own), []
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors, torch.no_grad():
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    if name not in own:
                        if name not in known:
                            unknown.append(name)
                        continue
                    stored = tensors.get_slice(name)
                    for piece in cuts.pieces(name, own[name]):
                        refuse_shape(piece.part.whole, stored.get_shape(), name=name, file=file)
                        ends = (start + size for start, size in zip(piece.offset, piece.tensor.shape, strict=True))
                        box = tuple(slice(start, end) for start, end in zip(piece.offset, ends, strict=True))
                        piece.tensor.copy_(stored[box])
                    missing.discard(name)
        except (OSError, SafetensorError) as problem:
            raise RunError(f"{file} cannot be read: {problem}", help="check the folder with the weights") from problem
    refuse_names(folder, missing=missing, unknown=unknown)


def fill_randomly(model: nn.Module, cuts: Cuts, *, seed: int) -> None:
    """Random matrices, those of one model whatever the number of ranks."""
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            if tensor.dim() > 1:
                fill_normal(cuts.pieces(name, tensor), std=_STD, seed=seed)
