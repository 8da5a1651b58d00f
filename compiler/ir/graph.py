"""The graph: ops of the trunk, and one folded block for each distinct layer.

A stack of equal layers is one block with a repeat count, so the size of a graph depends on distinct layers and not on
depth. Inside, everything is one networkx.DiGraph: the trunk (`embed` → `layers` → `norm` → `head` → …) and each block
are its components. A block starts with the op `<block>/x` and ends with the op that `Block.output` names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from . import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import networkx as nx

    from .ops import Op


@dataclass(frozen=True)
class Block:
    """A class of equal layers."""

    name: str
    output: str


@dataclass(frozen=True)
class Graph:
    """A model as ops with symbolic dims. Frozen: passes return new graphs."""

    name: str
    sizes: Mapping[str, int]
    all_ops: tuple[Op, ...]
    blocks: tuple[Block, ...]
    order: tuple[str, ...]
    """The block class of each layer, from the first to the last."""
    output: str

    @cached_property
    def by_id(self) -> Mapping[str, Op]:
        return MappingProxyType({op.id: op for op in self.all_ops})

    @cached_property
    def network(self) -> nx.DiGraph:
        """Ops as nodes (by id), an edge from each op to those that read it. Frozen."""
        import networkx as nx  # takes a tenth of a second: only what walks the graph pays

        network = nx.DiGraph()
        network.add_nodes_from((op.id, {"op": op}) for op in self.all_ops)
        network.add_edges_from((source, op.id) for op in self.all_ops for source in op.inputs)
        return nx.freeze(network)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Of all feed-forward blocks, ascending."""
        return tuple(sorted({op.sizes["F"] for op in self.all_ops if "F" in op.sizes}))

    @cached_property
    def _users(self) -> Mapping[str, tuple[Op, ...]]:
        users: dict[str, list[Op]] = {op.id: [] for op in self.all_ops}
        for op in self.all_ops:
            for source in dict.fromkeys(op.inputs):
                users[source].append(op)
        return {source: tuple(readers) for source, readers in users.items()}

    def __getitem__(self, op_id: str) -> Op:
        return self.by_id[op_id]

    def __contains__(self, op_id: str) -> bool:
        return op_id in self.by_id

    def ops(self, kind: str | None = None, *, block: str | None = None) -> Iterator[Op]:
        """Ops of a kind (all kinds by default), of one block or of all, in program order."""
        for op in self.all_ops:
            if (kind is None or op.kind == kind) and (block is None or op.block == block):
                yield op

    def trunk(self) -> tuple[Op, ...]:
        """The ops outside of blocks."""
        return tuple(op for op in self.all_ops if op.block is None)

    def block_ops(self, block: str) -> tuple[Op, ...]:
        """The ops of one block, in program order."""
        return tuple(op for op in self.all_ops if op.block == block)

    def users(self, op: Op) -> tuple[Op, ...]:
        """The ops that read this one."""
        return self._users[op.id]

    def only_user(self, op: Op) -> Op | None:
        """The op that reads this one, if it is the only one and nothing else needs the value."""
        users = self._users[op.id]
        is_output = op.id == self.output or any(op.id == block.output for block in self.blocks)
        return users[0] if len(users) == 1 and not is_output else None

    def count(self, block: str | None) -> int:
        """How many layers are of a block; the trunk counts once."""
        return 1 if block is None else self.order.count(block)

    @property
    def num_layers(self) -> int:
        return len(self.order)

    def num_parameters(self) -> int:
        """Trained parameters; a tied one counts once."""
        return sum(facts.num_parameters(op) * self.count(op.block) for op in self.all_ops)

    def active_parameters(self) -> int:
        """Parameters that take part in one token: of the routed experts, those it visits."""
        return sum(facts.active_parameters(op) * self.count(op.block) for op in self.all_ops)

    def with_ops(
        self, ops: Iterable[Op], *, output: str | None = None, blocks: tuple[Block, ...] | None = None
    ) -> Graph:
        """The same model with other ops."""
        return replace(self, all_ops=tuple(ops), output=output or self.output, blocks=blocks or self.blocks)
