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
    from collections.abc import Container, Iterator, Mapping


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
    """Stored as [..., in, out], as GPT-2's Conv1D and gpt-oss' experts do."""

    def join(self, parts: list[Tensor]) -> Tensor:
        return parts[0].mT.contiguous()

    def split(self, ours: Tensor) -> list[Tensor]:
        return [ours.mT.contiguous()]


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


@dataclass(frozen=True)
class Interleaved(Same):
    """Stored as gate 0, up 0, gate 1, up 1, … along the last dim (gpt-oss); we hold the gate's rows, then those of up.

    Matrices are stored as [experts, in, out] and held as [experts, out, in], biases as [experts, out] both times.
    """

    def join(self, parts: list[Tensor]) -> Tensor:
        pairs = parts[0].unflatten(-1, (-1, 2))  # [experts, (in,) F, 2]
        stacked = pairs.transpose(-1, -2).flatten(-2)  # [experts, (in,) 2F]
        return (stacked.mT if stacked.dim() == 3 else stacked).contiguous()

    def split(self, ours: Tensor) -> list[Tensor]:
        stacked = ours.mT if ours.dim() == 3 else ours
        return [stacked.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2).contiguous()]


@dataclass(frozen=True)
class Stacked:
    """Stored expert by expert, `{e}` in each name; we hold [experts, …] of what `each` makes of one."""

    each: Same | Joined
    num_experts: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name.replace("{e}", str(e)) for e in range(self.num_experts) for name in self.each.names)

    def of_layer(self, i: int) -> Stacked:
        return replace(self, each=self.each.of_layer(i))

    def join(self, parts: list[Tensor]) -> Tensor:
        step = len(self.each.names)
        return torch.stack([self.each.join(parts[at : at + step]) for at in range(0, len(parts), step)])

    def split(self, ours: Tensor) -> list[Tensor]:
        return [part.contiguous() for expert in ours for part in self.each.split(expert)]


def each_layer(
    tensors: Mapping[str, Source], *, num_layers: int, own: Container[str] | None = None
) -> Iterator[tuple[str, Source]]:
    """The rows of a table with `{i}` filled in: all that is written once for a layer comes once for each.

    Of a model whose layers differ, `own` holds the names of its tensors: a row is for the layers that have such a one.
    """
    for name, source in tensors.items():
        if "{i}" not in name:
            yield name, source
            continue
        for i in range(num_layers):
            filled = name.replace("{i}", str(i))
            if own is None or filled in own:
                yield filled, source.of_layer(i)


def _sum(numbers: list[int]) -> str:
    return " + ".join(map(str, numbers))
