"""Hugging Face checkpoints in and out of a generated program, tensor by tensor and without loss.

A generated `convert.py` holds the table: each parameter of its model, and how Hugging Face stores it.

    TENSORS = {
        "embed.weight": Same("model.embed_tokens.weight"),
        "layers.{i}.attn.qkv.weight": Joined(("….q_proj.weight", "….k_proj.weight", "….v_proj.weight"), rows=(576, 192, 192)),
    }

Values keep their dtype, so a round trip gives the same bytes. Nothing is unpickled: a checkpoint that is not in
safetensors is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..common.errors import RunError, run_program
from .weights import INDEX, SINGLE, weight_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files that go along with the weights, unchanged."""

_BUFFERS = re.compile(
    r"(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|rotary_emb\.(cos|sin)_cached)$"
)
"""Constants that older checkpoints carry beside the weights; a model computes them."""


_OTHER_MODEL = "give a checkpoint of this model, or start from its own config with `llmc import`"


class Source(Protocol):
    """How Hugging Face stores one of our parameters. Names may hold `{i}`, the number of a layer."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def join(self, parts: list[Tensor]) -> Tensor:
        """The stored tensors, in the order of `names`, as our parameter."""
        ...

    def split(self, ours: Tensor) -> list[Tensor]:
        """Our parameter as the stored tensors."""
        ...


@dataclass(frozen=True)
class Same:
    """Stored as we hold it."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def join(self, parts: list[Tensor]) -> Tensor:
        return parts[0]

    def split(self, ours: Tensor) -> list[Tensor]:
        return [ours]


@dataclass(frozen=True)
class Transposed(Same):
    """Stored as [in, out], as GPT-2's Conv1D does."""

    def join(self, parts: list[Tensor]) -> Tensor:
        return parts[0].T.contiguous()

    def split(self, ours: Tensor) -> list[Tensor]:
        return [ours.T.contiguous()]


@dataclass(frozen=True)
class Joined:
    """Stored as several tensors that we hold one under the other; `rows` of each."""

    names: tuple[str, ...]
    rows: tuple[int, ...]

    def join(self, parts: list[Tensor]) -> Tensor:
        found = tuple(part.shape[0] for part in parts)
        if found != self.rows:
            raise RunError(f"{', '.join(self.names)} have {found} rows, the model has {self.rows}", help=_OTHER_MODEL)
        return torch.cat(parts)

    def split(self, ours: Tensor) -> list[Tensor]:
        return [part.contiguous() for part in ours.split(self.rows)]


@dataclass(frozen=True)
class Grouped(Same):
    """Queries, keys and values of a key/value head stored side by side: rows [K, G + 2, C] (Falcon, BLOOM, GPT-NeoX).

    We hold all queries [K*G*C], then all keys [K*C], then all values [K*C]. K `kv_heads`, G `group` query heads a
    key/value head, C `head_dim`.
    """

    kv_heads: int
    group: int
    head_dim: int

    def join(self, parts: list[Tensor]) -> Tensor:
        grouped = parts[0].unflatten(0, (self.kv_heads, self.group + 2, self.head_dim))
        q, k, v = grouped.split((self.group, 1, 1), dim=1)
        return torch.cat([q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)])

    def split(self, ours: Tensor) -> list[Tensor]:
        kv_rows = self.kv_heads * self.head_dim
        q, k, v = ours.split((kv_rows * self.group, kv_rows, kv_rows))
        q = q.unflatten(0, (self.kv_heads, self.group, self.head_dim))
        k, v = (x.unflatten(0, (self.kv_heads, 1, self.head_dim)) for x in (k, v))
        return [torch.cat([q, k, v], dim=1).flatten(0, 2).contiguous()]


def import_checkpoint(tensors: Mapping[str, Source], *, num_layers: int, source: Path, out: Path) -> int:
    """Read a Hugging Face folder, write our weights and the tokenizer's files to `out`; the number of tensors read.

    Raises RunError if a tensor is missing, has another shape than its neighbours, or is left over.
    """
    with ExitStack() as stack:
        stored = _open_all(source, stack)
        unread = {name for name in stored if not _BUFFERS.search(name)}
        state: dict[str, Tensor] = {}
        for ours, entry in _each_layer(tensors, num_layers=num_layers):
            names = [_find(name, stored, source=source) for name in entry.names]
            state[ours] = entry.join([stored[name]() for name in names])
            unread.difference_update(names)
        unread = {name for name in unread if not _is_tied_head(name, stored, state)}
    if unread:
        listed = ", ".join(sorted(unread)[:5])
        raise RunError(f"{source} has {len(unread)} tensors without a place in this model: {listed}", help=_OTHER_MODEL)
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / SINGLE, metadata={"format": "pt"})
    _copy_companions(source, out)
    return len(state)


def export_checkpoint(
    tensors: Mapping[str, Source], *, num_layers: int, config: Mapping[str, Any], source: Path, out: Path
) -> int:
    """Write our weights as a Hugging Face folder that `from_pretrained` reads; the number of tensors written."""
    with ExitStack() as stack:
        stored = _open_all(source, stack)
        written: dict[str, Tensor] = {}
        for ours, entry in _each_layer(tensors, num_layers=num_layers):
            written.update(zip(entry.names, entry.split(stored[_find(ours, stored, source=source)]()), strict=True))
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in written.values()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(written, out / SINGLE, metadata={"format": "pt"})
    stated = {**config, "dtype": dtypes.pop()} if len(dtypes) == 1 else dict(config)
    (out / "config.json").write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _copy_companions(source, out)
    return len(written)


def _each_layer(tensors: Mapping[str, Source], *, num_layers: int) -> Iterator[tuple[str, Source]]:
    """The table with `{i}` filled in."""
    for ours, entry in tensors.items():
        if "{i}" not in ours:
            yield ours, entry
            continue
        for i in range(num_layers):
            yield ours.replace("{i}", str(i)), _of_layer(entry, i)


def _of_layer(entry: Source, i: int) -> Source:
    fields = vars(entry)
    if "names" in fields:
        names = tuple(name.replace("{i}", str(i)) for name in entry.names)
        return type(entry)(**{**fields, "names": names})
    return type(entry)(**{**fields, "name": fields["name"].replace("{i}", str(i))})


def _open_all(folder: Path, stack: ExitStack) -> dict[str, Callable[[], Tensor]]:
    """Every tensor of a folder by name, read when called."""
    if not any((folder / name).exists() for name in (SINGLE, INDEX)) and any(folder.glob("*.bin")):
        raise RunError(
            f"{folder} holds pickled weights (*.bin), which llmc never opens", help="convert them to safetensors"
        )
    found: dict[str, Callable[[], Tensor]] = {}
    for path in weight_files(folder):
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as problem:
            raise RunError(f"{path} cannot be read: {problem}", help="fetch the file again") from problem
        for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            found[name] = lambda file=file, name=name: file.get_tensor(name)
    return found


def _find(name: str, stored: Mapping[str, Any], *, source: Path) -> str:
    """The stored name: as given, or without its first part, which the base models' checkpoints leave out."""
    for candidate in (name, name.partition(".")[2]):
        if candidate in stored:
            return candidate
    raise RunError(f"{source} has no tensor {name}", help=_OTHER_MODEL)


def _is_tied_head(name: str, stored: Mapping[str, Callable[[], Tensor]], state: Mapping[str, Tensor]) -> bool:
    """Whether this is a second copy of the embedding, which a tied checkpoint may carry."""
    is_head = name in ("lm_head.weight", "embed_out.weight") and "head.weight" not in state
    return is_head and torch.equal(stored[name](), state["embed.weight"])


def _copy_companions(source: Path, out: Path) -> None:
    for name in COMPANIONS:
        if (source / name).exists() and source.resolve() != out.resolve():
            shutil.copyfile(source / name, out / name)


def main(tensors: Mapping[str, Source], *, num_layers: int, config: Path) -> None:
    """The command line of a generated convert.py: `import HF_DIR WEIGHTS` and `export WEIGHTS HF_DIR`."""
    parser = argparse.ArgumentParser(description="Hugging Face checkpoints in and out of this program.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, source, out in (("import", "HF_DIR", "WEIGHTS"), ("export", "WEIGHTS", "HF_DIR")):
        verb = commands.add_parser(command, help=f"read {source}, write {out}")
        verb.add_argument("source", type=Path, metavar=source)
        verb.add_argument("out", type=Path, metavar=out)
    args = parser.parse_args()

    def convert() -> None:
        if args.command == "import":
            count = import_checkpoint(tensors, num_layers=num_layers, source=args.source, out=args.out)
        else:
            stated = json.loads(config.read_text(encoding="utf-8"))
            count = export_checkpoint(tensors, num_layers=num_layers, config=stated, source=args.source, out=args.out)
        print(f"{count} tensors written to {args.out}")

    run_program(convert)
