"""Checkpoint folders: tensors read when asked for, written in files of a bounded size, and what lies beside them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...common.errors import RunError
from ..weights import INDEX, SINGLE, weight_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from torch import Tensor

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""Files that go along with the weights, unchanged."""

ORIGIN = "huggingface.index.json"
"""In a folder of ours: the index of the checkpoint that it was imported from, so that an export is cut into the same files."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MAX_FILE_BYTES = 5 * 10**9
"""The size that transformers cuts at, too."""
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def open_tensors(folder: Path, stack: ExitStack) -> dict[str, Callable[[], Tensor]]:
    """Every tensor of a folder by name. They are mapped from disk, so one costs no memory until its values are used."""
    if not any((folder / name).exists() for name in (SINGLE, INDEX)):
        for pattern in _PICKLED:
            if pickled := sorted(folder.glob(pattern)):
                raise RunError(
                    f"{pickled[0]} holds pickled weights, which llmc never opens",
                    help="fetch the same checkpoint in safetensors, or save it so with transformers",
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


class TensorWriter:
    """Writes tensors in the order given, to model.safetensors, or to several files and an index.

    A file is closed before it would exceed MAX_FILE_BYTES, which is also the most that is held in memory. Nothing of
    the final names is in the folder until `finish`.
    """

    def __init__(self, folder: Path, *, save: Callable[..., None] = save_file) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._save = folder, save
        self._held: dict[str, Any] = {}
        self._files: list[tuple[str, ...]] = []
        self._total_bytes = 0

    def add(self, name: str, tensor: Any) -> None:
        """A torch tensor, or with `save` of another framework one of that."""
        if self._held and sum(held.nbytes for held in self._held.values()) + tensor.nbytes > MAX_FILE_BYTES:
            self._flush()
        self._held[name] = tensor
        self._total_bytes += tensor.nbytes

    def finish(self) -> None:
        self._flush()
        for stale in (SINGLE, INDEX):
            (self._folder / stale).unlink(missing_ok=True)
        if len(self._files) == 1:
            self._work(0).replace(self._folder / SINGLE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._files):
            file = f"model-{number + 1:05d}-of-{len(self._files):05d}.safetensors"
            self._work(number).replace(self._folder / file)
            weight_map.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(self._folder / INDEX, index)

    def _flush(self) -> None:
        save_whole(self._held, self._work(len(self._files)), save=self._save)
        self._files.append(tuple(self._held))
        self._held = {}

    def _work(self, number: int) -> Path:
        return self._folder / f".model-{number:05d}.safetensors"


def save_whole(tensors: Mapping[str, Any], path: Path, *, save: Callable[..., None] = save_file) -> None:
    """Write one file of weights with the metadata that transformers writes."""
    save(dict(tensors), path, metadata={"format": "pt"})


def copy_companions(source: Path, out: Path) -> None:
    """The tokenizer's files, the chat template and the settings of generation, where there are any."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def note_end_tokens(source: Path, out: Path) -> None:
    """Put the special ids of config.json into generation_config.json, which goes along with the weights."""
    stated = {key: value for key, value in read_json(out / "generation_config.json").items() if value is not None}
    config = read_json(source / "config.json")
    ids = {key: config[key] for key in _SPECIAL_IDS if config.get(key) is not None}
    if ids.keys() - stated.keys():
        write_json(out / "generation_config.json", {**ids, **stated})


def special_ids(source: Path) -> dict[str, Any]:
    """What config.json says of special tokens: from generation_config.json, or of a tokenizer of ours its only one."""
    stated = read_json(source / "generation_config.json")
    ids = {key: stated[key] for key in _SPECIAL_IDS if stated.get(key) is not None}
    end = _only_special_token(source)
    return ids or ({} if end is None else {"eos_token_id": end["id"]})


def describe_tokenizer(out: Path) -> None:
    """A tokenizer_config.json for a tokenizer of ours, without which transformers guesses by the model's type."""
    if not (out / "tokenizer.json").is_file() or (out / "tokenizer_config.json").exists():
        return
    end = _only_special_token(out)
    role = {} if end is None else {"eos_token": end["content"]}
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **role})


def _only_special_token(folder: Path) -> dict[str, Any] | None:
    """The special token of a tokenizer that has just one, as those trained here do: it ends a text."""
    special = [token for token in read_json(folder / "tokenizer.json").get("added_tokens", []) if token.get("special")]
    return special[0] if len(special) == 1 else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping; an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise RunError(f"{path} cannot be read: {problem}", help="fetch the file again") from problem
    if not isinstance(value, dict):
        raise RunError(f"{path} holds no mapping", help="fetch the file again")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_meta(tensor: Tensor) -> Tensor:
    """Its shape and dtype without its values."""
    return torch.empty_like(tensor, device="meta")
