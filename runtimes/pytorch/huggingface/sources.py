"""How Hugging Face stores one of our parameters: the vocabulary of the table in a generated convert.py.

    TENSORS = {
        "embed.weight": Same("model.embed_tokens.weight"),
        "layers.{i}.attn.qkv.weight": Joined("model.layers.{i}.self_attn.{part}_proj.weight", {"q": 576, "k": 192, "v": 192}),
    }

Each moves values about and changes none, so what is joined and split again has the same bytes. All of them work on
meta tensors too: shapes are checked before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Source(Protocol):
    """Where one of our parameters is stored. Names may hold `{i}`, the number of a layer."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def of_layer(self, i: int) -> Source:
        """The same with `{i}` filled in."""
        ...

    def join(self, parts: list[Tensor]) -> Tensor:
        """The stored tensors, in the order of `names`, as our parameter. ValueError if their shapes do not go together."""
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

    def of_layer(self, i: int) -> Same:
        return replace(self, name=self.name.replace("{i}", str(i)))

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
    """Stored as several tensors that we hold one under the other: what stands for `{part}` in each name, and its rows."""

    name: str
    rows: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.name.replace("{part}", part) for part in self.rows)

    def of_layer(self, i: int) -> Joined:
        return replace(self, name=self.name.replace("{i}", str(i)))

    def join(self, parts: list[Tensor]) -> Tensor:
        found, expected = [part.shape[0] for part in parts], list(self.rows.values())
        if found != expected:
            raise ValueError(f"{_sum(found)} rows, the model has {_sum(expected)}")
        return torch.cat(parts)

    def split(self, ours: Tensor) -> list[Tensor]:
        return [part.contiguous() for part in ours.split(tuple(self.rows.values()))]


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
        rows = self.kv_heads * (self.group + 2) * self.head_dim
        if parts[0].shape[0] != rows:
            raise ValueError(f"{parts[0].shape[0]} rows, the model has {rows}")
        grouped = parts[0].unflatten(0, (self.kv_heads, self.group + 2, self.head_dim))
        q, k, v = grouped.split((self.group, 1, 1), dim=1)
        return torch.cat([q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)])

    def split(self, ours: Tensor) -> list[Tensor]:
        kv_rows = self.kv_heads * self.head_dim
        q, k, v = ours.split((kv_rows * self.group, kv_rows, kv_rows))
        q = q.unflatten(0, (self.kv_heads, self.group, self.head_dim))
        k, v = (x.unflatten(0, (self.kv_heads, 1, self.head_dim)) for x in (k, v))
        return [torch.cat([q, k, v], dim=1).flatten(0, 2).contiguous()]


def each_layer(tensors: Mapping[str, Source], *, num_layers: int) -> Iterator[tuple[str, Source]]:
    """The rows of a table with `{i}` filled in: all that is written once for a layer comes once for each."""
    for name, source in tensors.items():
        if "{i}" not in name:
            yield name, source
            continue
        for i in range(num_layers):
            yield name.replace("{i}", str(i)), source.of_layer(i)


def _sum(numbers: list[int]) -> str:
    return " + ".join(map(str, numbers))
