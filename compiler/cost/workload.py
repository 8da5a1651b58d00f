"""A graph trained on a machine: the parts that many layouts have in common, each computed once, and the memory ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..ir.facts import extent, flops
from ..ir.graph import Graph
from ..ir.ops import Op
from ..ir.types import DType
from .communication import Traffic, traffic_of
from .compute import BlockTime, Formats, OpWork, block_time_of, block_works, works_of_batch
from .memory import (
    KeptBytes,
    Ledger,
    Program,
    StateBytes,
    kept_bytes,
    largest_parameter,
    local_parameters,
    state_bytes,
)
from .moments import Exchange, Kept, exchanges_of
from .pipeline import layers_of_ranks
from .rank_memory import RankMemory
from .sharding import Degrees
from .software import OURS, Software
from .stored import Unit, stored

if TYPE_CHECKING:
    from ..planner.layout import Layout
    from ..topology.machine import Machine


@dataclass(frozen=True, eq=False)
class Rank:
    """Equal pipeline ranks: what they hold. `first` is the earliest of them."""

    first: int
    layers: tuple[tuple[str, int], ...]
    """(block, how many)"""
    parts: tuple[str, ...]
    """Of `before` and `after` the layers, those that are here."""
    times: int
    """How many ranks are like this."""
    mixed: tuple[tuple[str, str, int], ...] = ()
    """(block, recompute, how many), where not all layers of the layout recompute the same."""

    def by_recompute(self, recompute: str) -> tuple[tuple[str, str, int], ...]:
        """(block, recompute, how many); `recompute` is the layout's."""
        return self.mixed or tuple((block, recompute, count) for block, count in self.layers)

    def parameters(self, work: Workload, degrees: Degrees) -> tuple[int, int]:
        """(dense, of routed experts) that one device holds."""
        dense = experts = 0
        for part, count in (*self.layers, *((part, 1) for part in self.parts)):
            here = work.parameters(part, degrees)
            dense, experts = dense + count * here[0], experts + count * here[1]
        return dense, experts


class Workload:
    """One training stage on one machine. `part` is a block's name, or `before` or `after` the layers."""

    def __init__(
        self,
        graph: Graph,
        machine: Machine,
        *,
        seq_len: int,
        precision: str,
        optimizer: str,
        program: Program | None = None,
        software: Software = OURS,
        has_average: bool = False,
        kernels: frozenset[str] = frozenset(),
    ) -> None:
        self.software = software
        self.kernels = kernels
        """Of the program, by name; what they keep for the backward pass counts, their time does not."""
        self.program: Program = program or ("autocast" if machine.num_devices == 1 else "mixed")
        self.graph = graph
        self.machine = machine
        self.seq_len = seq_len
        self.precision = precision
        self.optimizer = Kept(optimizer, has_average)
        self.formats = Formats.of(precision)
        trunk = graph.trunk()
        start = [op.id for op in trunk].index("layers")
        self.ops_of: dict[str, tuple[Op, ...]] = {block.name: graph.block_ops(block.name) for block in graph.blocks}
        self.ops_of |= {"before": trunk[:start], "after": trunk[start + 1 :]}
        self.has_experts = {part: any(op.kind == "route" for op in ops) for part, ops in self.ops_of.items()}
        self.is_tied = any(param.tied_to for op in self.ops_of["after"] for param in op.params)
        self._works: dict[tuple[str, Degrees, int], tuple[OpWork, ...]] = {}
        self._times: dict[tuple[str, Degrees, int], BlockTime] = {}
        self._kept: dict[tuple[str, Degrees, bool, bool], KeptBytes] = {}
        self._parameters: dict[tuple[str, Degrees], tuple[int, int]] = {}
        self._traffic: dict[tuple[object, ...], Traffic] = {}
        self._ranks: dict[tuple[object, ...], tuple[Rank, ...]] = {}
        self.memo: dict[tuple[object, ...], Any] = {}
        """What a search works out once for layouts that have it in common."""

    @property
    def is_monotone(self) -> bool:
        """Whether a larger micro-batch always needs more: not if accumulating none saves the gradients' fp32 sums."""
        return self.program != "halves"

    def reprice(self, machine: Machine) -> None:
        """Another machine's constants for the same work: what was timed is forgotten, what there is to do is not."""
        self.machine = machine
        self._times.clear()
        self._traffic.clear()
        self.memo.clear()

    def _is_linear(self, degrees: Degrees) -> bool:
        """Whether one sequence is enough for every expert to have a row: then work grows in proportion."""
        return self.seq_len // (degrees.cp * degrees.tp) >= self.graph.sizes.get("E", 1)

    def _degrees_of(self, part: str, degrees: Degrees) -> Degrees:
        """Those that matter to a part's work: what has no experts is the same for every ep."""
        degrees = degrees._replace(ring=False) if degrees.ring else degrees
        return self._of_kept(part, degrees)

    def _of_kept(self, part: str, degrees: Degrees) -> Degrees:
        """Those that matter to what a part keeps."""
        return degrees if degrees.ep == 1 or self.has_experts[part] else degrees._replace(ep=1)

    def time(self, part: str, degrees: Degrees, *, micro_batch: int) -> BlockTime:
        """Seconds of one layer and one micro-batch on one device."""
        key = (part, self._degrees_of(part, degrees), micro_batch)
        if key not in self._times:
            self._times[key] = block_time_of(
                self.works(part, degrees, micro_batch=micro_batch),
                machine=self.machine,
                formats=self.formats,
                software=self.software,
            )
        return self._times[key]

    def works(self, part: str, degrees: Degrees, *, micro_batch: int) -> tuple[OpWork, ...]:
        """What one device has to do in one layer and one micro-batch, op by op."""
        key = (part, self._degrees_of(part, degrees), micro_batch)
        if key not in self._works:
            if micro_batch > 2 and self._is_linear(degrees):
                one, two = (self.works(part, degrees, micro_batch=size) for size in (1, 2))
                self._works[key] = works_of_batch(one, two, batch=micro_batch)
            else:
                self._works[key] = block_works(
                    self.ops_of[part], degrees, batch=micro_batch, tokens=self.seq_len, formats=self.formats
                )
        return self._works[key]

    def kept(self, part: str, layout: Layout) -> KeptBytes:
        """Bytes that one layer keeps for one sequence on one device."""
        is_fused = layout.pp == 1 and not self.is_spmd and any(name.startswith("add_") for name in self.kernels)
        is_autocast = self.program == "fsdp" and layout.data_parallel * layout.cp == 1 and not is_fused
        is_wide = is_autocast and self.formats.values is not DType.FP32
        key = (part, self._of_kept(part, layout.degrees), is_fused, is_wide)
        if key not in self._kept:
            self._kept[key] = kept_bytes(
                self.ops_of[part],
                layout.degrees,
                tokens=self.seq_len,
                values=self.formats.values,
                is_ours=self.program == "fsdp",
                fuses_sums=is_fused,
                is_spmd=self.is_spmd,
                multiplies_in_fp8=self.formats.products == "fp8",
                has_wide_stream=is_wide,
                copies_heads=self.program == "fsdp" and self.machine.kind == "npu",
                has_gate_kernel=bool({"swiglu", "geglu_tanh"} & self.kernels),
            )
        return self._kept[key]

    def parameters(self, part: str, degrees: Degrees) -> tuple[int, int]:
        """(dense, of routed experts) of one layer on one device."""
        key = (part, self._degrees_of(part, degrees))
        if key not in self._parameters:
            self._parameters[key] = local_parameters(self.ops_of[part], degrees)
        return self._parameters[key]

    @property
    def is_spmd(self) -> bool:
        """Whether it is our program for TPUs."""
        return self.machine.kind == "tpu" and bool(self.kernels)

    def largest_gathered(self, part: str, degrees: Degrees) -> int:
        """Parameters that are gathered at a time: a layer's. The compiler of TPUs gathers a matrix for its product."""
        if self.is_spmd:
            return largest_parameter(self.ops_of[part], degrees)
        return sum(self.parameters(part, degrees))

    def traffic(self, block: str, layout: Layout, *, recompute: str) -> Traffic:
        """What one layer and one micro-batch communicate; layouts that differ in other things share it."""
        shards = (layout.dp_shard, layout.dp_replicate) if layout.zero == 3 else None
        key = (block, layout.degrees, layout.micro_batch, recompute, layout.cp_kind, shards, layout.order, layout.pp)
        if key not in self._traffic:
            self._traffic[key] = traffic_of(
                self.ops_of[block],
                layout,
                recompute=recompute,
                time=self.time(block, layout.degrees, micro_batch=layout.micro_batch),
                parameters=self.parameters(block, layout.degrees),
                hidden_size=self.graph.sizes["D"],
                tokens=self.seq_len,
                machine=self.machine,
                software=self.software,
            )
        return self._traffic[key]

    def ranks(self, layout: Layout) -> tuple[Rank, ...]:
        """The kinds of pipeline ranks, from the first to the last."""
        key = (layout.pp, layout.virtual_stages, layout.schedule == "dualpipe", layout.stages, layout.recompute_layers)
        if key not in self._ranks:
            self._ranks[key] = self._fold_ranks(layout)
        return self._ranks[key]

    def _fold_ranks(self, layout: Layout) -> tuple[Rank, ...]:
        order = self.graph.order
        recompute = layout.recompute_of_layers(len(order))
        found: dict[tuple[tuple[tuple[str, str, int], ...], tuple[str, ...]], list[int]] = {}
        for rank, layers in enumerate(layers_of_ranks(layout, num_layers=len(order))):
            counts = Counter((order[layer], recompute[layer]) for layer in layers)
            mixed = tuple((block, how, count) for (block, how), count in sorted(counts.items()))
            ends = (("before", layers[0] == 0), ("after", layers[-1] == len(order) - 1))
            parts = tuple(name for name, is_here in ends if is_here)
            found.setdefault((mixed, parts), []).append(rank)
        return tuple(self._rank(layout, mixed, parts, numbers) for (mixed, parts), numbers in found.items())

    def _rank(
        self, layout: Layout, mixed: tuple[tuple[str, str, int], ...], parts: tuple[str, ...], numbers: list[int]
    ) -> Rank:
        counts: Counter[str] = Counter()
        for block, _, count in mixed:
            counts[block] += count
        is_mixed = layout.recompute_layers is not None
        layers = tuple(counts.items())
        return Rank(first=numbers[0], layers=layers, parts=parts, times=len(numbers), mixed=mixed if is_mixed else ())

    @cached_property
    def model_flops_per_token(self) -> float:
        """Forward and backward of every product, attention (causal half) and the head; nothing twice."""
        free = extent(batch=1, tokens=self.seq_len)
        counted = [op for op in self.graph.all_ops if op.group in ("matmul", "attention", "loss")]
        return sum(3 * flops(op, free) * self.graph.count(op.block) for op in counted) / self.seq_len

    def with_graph(self, graph: Graph, *, kernels: frozenset[str] | None = None) -> Workload:
        """The same stage of a model whose ops were rewritten."""
        return Workload(
            graph,
            self.machine,
            seq_len=self.seq_len,
            precision=self.precision,
            optimizer=self.optimizer.optimizer,
            program=self.program,
            software=self.software,
            has_average=self.optimizer.has_average,
            kernels=self.kernels if kernels is None else kernels,
        )

    def ledger(self, layout: Layout) -> Ledger:
        """The ledger of the pipeline rank that needs most."""
        return max(self.ledgers(layout), key=lambda ledger: ledger.peak)

    def ledgers(self, layout: Layout, *, in_order: bool = False) -> list[Ledger]:
        """Of each kind of pipeline rank, from the first to the last.

        `in_order`: layers that compute most again come first on a rank, as the search has them. Else they may come in any order,
        which the search's own budgets suppose; but stages of an interleaved schedule keep what they keep.
        """
        in_order = in_order or (layout.schedule == "interleaved_1f1b" and layout.virtual_stages > 1)
        return [self.rank_ledger(rank, layout, in_order=in_order) for rank in self.ranks(layout)]

    def rank_ledger(self, rank: Rank, layout: Layout, *, in_order: bool = False) -> Ledger:
        """Of one pipeline rank."""
        return RankMemory(self, rank, layout, in_order=in_order).ledger()

    def kept_by_optimizer(self, rank: Rank | None, layout: Layout) -> float:
        """Bytes a parameter: of a pipeline rank's, or of all."""
        if self.optimizer.is_even:
            return self.optimizer.even_bytes()
        key = ("kept by optimizer", None if rank is None else (rank.layers, rank.parts), layout.tp, layout.ep)
        if key not in self.memo:
            self.memo[key] = self.optimizer.mean_bytes(self._units(rank, layout))
        return self.memo[key]

    def flops_of_optimizer(self, layout: Layout) -> float:
        """Of products, a parameter."""
        if self.optimizer.optimizer != "muon":
            return 0.0
        key = ("flops of optimizer", layout.ep)
        if key not in self.memo:
            self.memo[key] = self.optimizer.mean_flops(self._units(None, replace(layout, tp=1)))
        return self.memo[key]

    def exchanges_of_optimizer(self, layout: Layout) -> tuple[tuple[Exchange, int], ...]:
        """What ranks exchange for a step of all layers, and how often; ranks of a pipeline have a share of it."""
        if self.optimizer.is_even:
            return ()
        key = ("exchanges of optimizer", layout.zero > 0, layout.shards, layout.cp, layout.tp, layout.ep)
        if key not in self.memo:
            units, values = self._units(None, layout), self.formats.values.size_bytes
            self.memo[key] = tuple(Counter(exchanges_of(self.optimizer, units, layout, values=int(values))).items())
        return self.memo[key]

    def _units(self, rank: Rank | None, layout: Layout) -> list[Unit]:
        """Parameters as the program has them; equal layers are one unit."""
        counts = rank.layers if rank is not None else tuple(Counter(self.graph.order).items())
        parts = rank.parts if rank is not None else ("before", "after")
        units = []
        for block, count in counts:
            tensors = tuple(stored(self.graph, self.ops_of[block], layout)) * count
            for is_expert in (False, True):
                units.append(Unit(tuple(each for each in tensors if each.is_expert == is_expert), is_expert=is_expert))
        return units + [Unit(tuple(stored(self.graph, self.ops_of[part], layout)), is_root=True) for part in parts]

    def states(self, layout: Layout) -> StateBytes:
        """Bytes a parameter under a layout."""
        return state_bytes(
            program="sharded" if layout.zero == 3 or self.program == "fsdp" else self.program,
            precision=self.precision,
            moments=self.kept_by_optimizer(None, layout),
            accumulates=layout.grad_accumulation > 1,
        )
