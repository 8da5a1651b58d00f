"""Import and export, by the table of a generated convert.py.

Values keep their dtype, and a round trip gives the same files. Every name and shape is checked against the generated
model before the first value is read.
"""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from ...common.errors import RunError
from ..weights import INDEX, SINGLE, named_tensors
from .files import (
    ORIGIN,
    TensorWriter,
    as_meta,
    copy_companions,
    describe_tokenizer,
    note_end_tokens,
    open_tensors,
    read_json,
    save_whole,
    special_ids,
    write_json,
)
from .sources import each_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from .sources import Source

    Stored = Mapping[str, Callable[[], Tensor]]
    Table = Mapping[str, Source]

_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|rotary_emb\.(cos|sin)_cached|(attn|attention)\.(masked_)?bias)$")
"""Constants that older checkpoints carry beside the weights; a model computes them."""

_OTHER_SENSES = ("vision_tower.", "multi_modal_projector.")
"""Parts of a multimodal checkpoint, whose text model stands under `language_model.`."""

_HEADS = ("lm_head.weight", "embed_out.weight")
_OTHER_MODEL = "give a checkpoint of this model, or start from its own config with `llmc import`"


def import_checkpoint(
    tensors: Table, *, model: Callable[[], nn.Module], num_layers: int, source: Path, out: Path
) -> int:
    """Read a Hugging Face folder, write our weights and the tokenizer's files to `out`; the number of our tensors.

    Raises RunError if a tensor is missing, has another shape than the model's, or is left over.
    """
    _refuse(source, out)
    shapes = _shapes(model)
    with ExitStack() as stack:
        stored = open_tensors(source, stack)
        table = {}
        for ours, entry in each_layer(tensors, num_layers=num_layers, own=shapes):
            table[ours] = entry, [_find(name, stored, source=source) for name in entry.names]
        for ours, (entry, names) in table.items():
            _check_joined(entry, names, stored, expected=shapes[ours])
        _refuse_left_over(stored, table, source=source)
        writer = TensorWriter(out)
        for ours, (entry, names) in table.items():
            writer.add(ours, entry.join([stored[name]() for name in names]))
        writer.finish()
    copy_companions(source, out)
    note_end_tokens(source, out)
    _note_layout(source, out, names=[name for _, names in table.values() for name in names])
    return len(table)


def export_checkpoint(
    tensors: Table,
    *,
    model: Callable[[], nn.Module],
    num_layers: int,
    config: Mapping[str, Any],
    source: Path,
    out: Path,
) -> int:
    """Write our weights as a Hugging Face folder that `from_pretrained` reads; the number of its tensors.

    `config` is its config.json, less what the weights say: their dtype and the ids of special tokens.
    """
    _refuse(source, out)
    shapes = _shapes(model)
    with ExitStack() as stack:
        stored = open_tensors(source, stack)
        table = dict(each_layer(tensors, num_layers=num_layers, own=shapes))
        for ours in table:
            _check_own(ours, stored, expected=shapes[ours], source=source)
        dtypes = {str(stored[ours]().dtype).removeprefix("torch.") for ours in table}
        out.mkdir(parents=True, exist_ok=True)
        _write_parts(table, stored, source=source, out=out)
    copy_companions(source, out)
    describe_tokenizer(out)
    dtype = {"dtype": dtypes.pop()} if len(dtypes) == 1 else {}
    write_json(out / "config.json", dict(sorted({**config, **special_ids(source), **dtype}.items())))
    return sum(len(entry.names) for entry in table.values())


def _note_layout(source: Path, out: Path, *, names: list[str]) -> None:
    """Keep how a checkpoint is cut into files, where that is not how an export would cut it."""
    (out / ORIGIN).unlink(missing_ok=True)  # of an earlier import
    if not (source / SINGLE).is_file():
        (out / ORIGIN).write_bytes((source / INDEX).read_bytes())
    elif not (out / SINGLE).is_file():
        write_json(out / ORIGIN, {"weight_map": dict.fromkeys(names, SINGLE)})


def _write_parts(table: Table, stored: Stored, *, source: Path, out: Path) -> None:
    """The files of an export: cut as the imported checkpoint was, where it is known."""
    names = {name for entry in table.values() for name in entry.names}
    layout = read_json(source / ORIGIN).get("weight_map", {})
    if layout.keys() != names:
        writer = TensorWriter(out)
        for name, part in _parts(table, stored, wanted=names):
            writer.add(name, part)
        writer.finish()
        return
    for file in sorted(set(layout.values())):
        wanted = {name for name in names if layout[name] == file}
        save_whole(dict(_parts(table, stored, wanted=wanted)), out / file)
    if SINGLE not in layout.values():
        (out / INDEX).write_bytes((source / ORIGIN).read_bytes())


def _parts(table: Table, stored: Stored, *, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of Hugging Face's, made from ours; those of ours that none is wanted of are not read."""
    for ours, entry in table.items():
        if wanted.isdisjoint(entry.names):
            continue
        for name, part in zip(entry.names, entry.split(stored[ours]()), strict=True):
            if name in wanted:
                yield name, part


def _shapes(model: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """What the generated model wants, without making its parameters."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in named_tensors(model()).items()}


def _find(name: str, stored: Stored, *, source: Path) -> str:
    """The stored name: as given, in a multimodal checkpoint, or without its first part, which base models leave out."""
    for candidate in (name, f"language_model.{name}", name.partition(".")[2]):
        if candidate in stored:
            return candidate
    raise RunError(f"{source} has no tensor {name}", help=_OTHER_MODEL)


def _check_joined(entry: Source, names: list[str], stored: Stored, *, expected: tuple[int, ...]) -> None:
    parts = [as_meta(stored[name]()) for name in names]
    try:
        found = tuple(entry.join(parts).shape)
    except (ValueError, RuntimeError) as problem:
        raise RunError(f"{', '.join(names)}: {problem}", help=_OTHER_MODEL) from problem
    if found != expected:
        raise RunError(f"{', '.join(names)}: shape {list(found)}, the model has {list(expected)}", help=_OTHER_MODEL)


def _check_own(ours: str, stored: Stored, *, expected: tuple[int, ...], source: Path) -> None:
    if ours not in stored:
        raise RunError(f"{source} has no tensor {ours}", help="give weights of this model, under llmc's names")
    found = tuple(stored[ours]().shape)
    if found != expected:
        raise RunError(
            f"{ours} has shape {list(found)} in {source}, the model has {list(expected)}",
            help="give weights of this spec's model",
        )


def _refuse(source: Path, out: Path) -> None:
    if source.resolve() == out.resolve():
        raise RunError(f"{source} would overwrite itself", help="write to another folder")
    quantization = read_json(source / "config.json").get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise RunError(
            f"{source} holds quantised weights ({method}), which are not read yet",
            help="give the checkpoint that it was quantised from",
        )


def _refuse_left_over(stored: Stored, table: Mapping[str, tuple[Source, list[str]]], *, source: Path) -> None:
    """A tensor that the model has no place for means that it is another model."""
    used = {name for _, names in table.values() for name in names}
    left = {name for name in stored if name not in used and not _BUFFERS.search(name)}
    if any(name.startswith("language_model.") for name in used):
        other = {name for name in left if name.startswith(_OTHER_SENSES)}
        left -= other
        print(f"note: the text model is read, {len(other)} tensors for images are not", file=sys.stderr)
    if "head.weight" not in table:  # tied: a checkpoint may carry a second copy of the embedding
        embedding = stored[table["embed.weight"][1][0]]
        for head in left.intersection(_HEADS):
            if not torch.equal(stored[head](), embedding()):
                raise RunError(
                    f"{source} has a {head} of its own, the model's head is its embedding",
                    help="say `tie_embeddings: false` in the spec",
                )
        left.difference_update(_HEADS)
    if left:
        listed = ", ".join(sorted(left)[:5]) + (", …" if len(left) > 5 else "")
        raise RunError(f"{source} has {len(left)} tensors without a place in this model: {listed}", help=_OTHER_MODEL)
