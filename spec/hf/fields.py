"""The pieces a declaration is made of: each says one thing both ways, config.json to our fields and back.

A declaration is a tuple of such pieces. Reading takes keys from a `Reader`, which remembers them; a key that no piece took
and that is not known to be neutral is an error, so a config with an unknown feature is rejected and never half understood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

from .neutral import NEUTRAL

Values = dict[str, Any]


class UnsupportedConfig(Exception):
    """A config that this language cannot express: the key (or our field) at fault, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"`{field}`: {why}")
        self.field = field
        self.why = why


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclass
class Reader:
    """A config.json whose keys are taken one by one. A null is the same as an absent key, as in transformers."""

    config: Mapping[str, Any]
    taken: set[str] = field(default_factory=set)

    def take(self, *names: str, default: Any = None) -> Any:
        """The value of the first of `names` that is set, else the default; a required one that is missing is an error."""
        self.taken.update(names)
        for name in names:
            if self.config.get(name) is not None:
                return self.config[name]
        if isinstance(default, _Required):
            raise UnsupportedConfig(names[0], "the key is missing")
        return default

    def finish(self, neutral: frozenset[str], *, prefix: str = "") -> None:
        """Raise for the first key that was neither taken nor neutral. A feature that is switched off is not a feature."""
        for name, value in self.config.items():
            if name in self.taken or name in neutral or not value:
                continue
            raise UnsupportedConfig(prefix + name, f"llmc does not know what {value!r} changes")


class Piece(Protocol):
    """One statement of a declaration."""

    def read(self, config: Reader, values: Values) -> None: ...

    def write(self, values: Values, config: Values) -> None: ...


def get_path(values: Mapping[str, Any], path: str) -> Any:
    """`get_path(v, "attention.window")`; None where any part of the path is missing."""
    found: Any = values
    for name in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def set_path(values: Values, path: str, value: Any) -> None:
    """Set a dotted path, making the mappings on the way."""
    *parents, last = path.split(".")
    for name in parents:
        values = values.setdefault(name, {})
    values[last] = value


@dataclass(frozen=True)
class Key:
    """A key of theirs that is one or several fields of ours. With `table`, values are renamed as well."""

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    default: Any = REQUIRED
    table: Mapping[Any, Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def read(self, config: Reader, values: Values) -> None:
        value = config.take(*self.names, default=self.default)
        if self.table is not None:
            if value not in self.table:
                raise UnsupportedConfig(self.names[0], f"{value!r} is none of {', '.join(map(str, self.table))}")
            value = self.table[value]
        for path in self.paths:
            set_path(values, path, value)

    def write(self, values: Values, config: Values) -> None:
        value = get_path(values, self.paths[0])
        if self.table is not None:
            value = next((theirs for theirs, ours in self.table.items() if ours == value), None)
        config[self.names[0]] = value


@dataclass(frozen=True)
class Fixed:
    """A key of theirs that must have one of these values; the first is the default and the one written."""

    theirs: str
    allowed: tuple[Any, ...]

    def read(self, config: Reader, values: Values) -> None:
        value = config.take(self.theirs, default=self.allowed[0])
        if value not in self.allowed:
            raise UnsupportedConfig(self.theirs, f"only {self.allowed[0]!r} can be expressed, not {value!r}")

    def write(self, values: Values, config: Values) -> None:
        config[self.theirs] = self.allowed[0]


@dataclass(frozen=True)
class Always:
    """What holds for every model of the type, without a key of theirs."""

    ours: Mapping[str, Any]

    def read(self, config: Reader, values: Values) -> None:
        for path, value in self.ours.items():
            set_path(values, path, deepcopy(value))

    def write(self, values: Values, config: Values) -> None:
        return None


@dataclass(frozen=True)
class Both:
    """What takes several keys to say: a pair of functions."""

    reading: Callable[[Reader, Values], None]
    writing: Callable[[Values, Values], None]

    def read(self, config: Reader, values: Values) -> None:
        self.reading(config, values)

    def write(self, values: Values, config: Values) -> None:
        self.writing(values, config)


@dataclass(frozen=True)
class HfType:
    """A Hugging Face model type. `reads_as` are further types of the same shape; `writes` is false for those that
    transformers itself does not have, which are then written as another type that says the same."""

    model_type: str
    architecture: str
    pieces: Sequence[Piece]
    reads_as: tuple[str, ...] = ()
    writes: bool = True
    neutral: frozenset[str] = frozenset()

    def read(self, config: Mapping[str, Any]) -> Values:
        reader = Reader(config)
        values: Values = {}
        for piece in self.pieces:
            piece.read(reader, values)
        reader.finish(NEUTRAL | self.neutral)
        return values

    def write(self, values: Values) -> Values:
        config: Values = {"architectures": [self.architecture], "model_type": self.model_type}
        config |= {
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }  # the tokenizer's, for the exporter
        for piece in self.pieces:
            piece.write(values, config)
        return config
