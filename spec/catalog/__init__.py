"""Facts as YAML: model presets, model families, accelerators, hosts and storage, each with the source of its figures.

A name is a file name, so listing parses nothing. A file that says `same_as: NAME` is another name for that entry.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

PRESETS, FAMILIES = "models/presets", "models/families"
ACCELERATORS, HOSTS, STORAGES = "hardware", "hosts", "storage"


def list_presets() -> list[str]:
    """Names of models with every dimension filled in, other names included."""
    return list(_names(PRESETS))


def list_families() -> list[str]:
    """Names of block styles without dimensions."""
    return list(_names(FAMILIES))


def list_accelerators() -> list[str]:
    """Names of devices, other names included."""
    return list(_names(ACCELERATORS))


def list_names(folder: str) -> list[str]:
    """Names of entries of one kind, other names included."""
    return list(_names(folder))


def preset(name: str) -> dict[str, Any]:
    """The model section that a preset stands for: its family's style with its own fields laid over. KeyError if unknown."""
    entry = _entry(PRESETS, name)
    style = family(entry.pop("family"))
    style.pop("source", None)
    return merge(style, entry)


def family_of(name: str) -> str:
    """The family that a preset is written in."""
    return _entry(PRESETS, name)["family"]


def family(name: str) -> dict[str, Any]:
    """The style of a family: attention, position, norm and so on, without dimensions. KeyError if unknown."""
    return _entry(FAMILIES, name)


def accelerator(name: str) -> dict[str, Any]:
    """A device's figures, with `source`, and `assumed` for those without one. KeyError if unknown."""
    return _entry(ACCELERATORS, name)


def entry(folder: str, name: str) -> dict[str, Any]:
    """The figures of a device, host or storage, with `source`, and `assumed` for those without one. KeyError if unknown."""
    return _entry(folder, name)


def canonical_name(name: str, *, folder: str = ACCELERATORS) -> str:
    """The name that `same_as` leads to, or the name itself."""
    return _parse(folder, name).get("same_as", name)


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """`upper` laid over `lower`. A mapping of another `kind` replaces: options of one kind mean nothing to another."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if (
            isinstance(below, dict)
            and isinstance(value, dict)
            and value.get("kind", below.get("kind")) == below.get("kind")
        ):
            value = merge(below, value)
        merged[key] = value
    return merged


def _entry(folder: str, name: str) -> dict[str, Any]:
    """A copy that the caller may change."""
    return deepcopy(_parse(folder, canonical_name(name, folder=folder)))


@lru_cache
def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(item.name[:-5] for item in _folder(folder).iterdir() if item.name.endswith(".yaml")))


def _folder(folder: str) -> Traversable:
    return files(__name__).joinpath(*folder.split("/"))


@cache
def _parse(folder: str, name: str) -> dict[str, Any]:
    if name not in _names(folder):
        raise KeyError(name)
    from ruamel.yaml import YAML

    text = _folder(folder).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return YAML(typ="safe", pure=True).load(text)
