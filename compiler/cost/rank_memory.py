"""What one kind of pipeline rank holds under a layout, and its ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from .backward import Working
from .memory import LOSS_CHUNK_BYTES, Ledger, StageParts, ledger_of_stage, loss_bytes
from .pipeline import in_flight, layers_of_ranks, most_held, stages_of_rank
from .sharded_program import Held, Moment, Run, Sharding, ledger_of_program, moments_of

if TYPE_CHECKING:
    from ..planner.layout import Layout
    from .workload import Rank, Workload

Runs = tuple[tuple[str, str, int], ...]
"""(block, recompute, how many) of layers that follow one another, from the last to the first."""


@dataclass(frozen=True)
class Contents:
    """What a pipeline rank holds before ZeRO: parameters, and bytes of activations for one sequence."""

    dense: int
    experts: int
    kept: float
    one_layer: float
    """What is rebuilt while one layer runs backward."""
    two_largest: float
    largest_gathered: int


class RankMemory:
    """One kind of rank: all that its ledger does not owe to what its layers keep is worked out once.

    `in_order`: layers that compute most again come first on a rank, as the search has them. Else they may come in any order,
    which the search's own budgets suppose.
    """

    def __init__(self, work: Workload, rank: Rank, layout: Layout, *, in_order: bool = False) -> None:
        self.work, self.rank, self.layout, self.in_order = work, rank, layout, in_order
        self.contents = self._contents()
        self._in_flight = in_flight(
            layout.schedule,
            rank=rank.first,
            ranks=layout.pp,
            micro_batches=layout.grad_accumulation,
            virtual=layout.virtual_stages,
        )
        if work.program != "fsdp":
            return
        self._held, self._sharding = self._before_zero(), self._spread()
        self._hidden_state = self._passed_on_by_stage()
        self._moments = self._moments_in_order() if in_order and layout.virtual_stages == 1 else ()
        self._largest = self._largest_layer()
        self._num_layers = max(1, sum(count for _, count in rank.layers))

    def ledger(self, *, kept: float | None = None, one_layer: float | None = None) -> Ledger:
        """With `kept` and `one_layer` bytes of a sequence in place of what its layers keep and rebuild.

        Grows with both, and is convex in them and in the number of layers: the search relies on it.
        """
        kept = self.contents.kept if kept is None else kept
        one_layer = self.contents.one_layer if one_layer is None else one_layer
        is_ours = self.work.program == "fsdp"
        return self._of_program(kept, one_layer) if is_ours else self._of_stage(kept, one_layer)

    def _of_stage(self, kept: float, one_layer: float) -> Ledger:
        """Of other people's programs."""
        work, layout, holds, micro_batch = self.work, self.layout, self.contents, self.layout.micro_batch
        stage = StageParts(
            dense=holds.dense,
            experts=holds.experts,
            kept=kept * micro_batch * (1 - work.software.offload),
            in_flight=self._in_flight,
            one_layer=one_layer * micro_batch,
            two_largest=holds.two_largest * micro_batch,
            largest_gathered=holds.largest_gathered,
            loss=self._loss_bytes() if "after" in self.rank.parts else 0.0,
        )
        return ledger_of_stage(
            stage,
            states=work.states(layout),
            zero=layout.zero,
            shards=layout.shards,
            expert_shards=max(1, layout.shards // layout.ep),
            num_ranks=layout.data_parallel * layout.cp,
            kind=work.machine.kind,
            copies=2 if layout.schedule == "dualpipe" and layout.virtual_stages == 1 else 1,
            is_offloaded=layout.offload is not None,
        )

    def _of_program(self, kept: float, one_layer: float) -> Ledger:
        """Of our own."""
        layout = self.layout
        if self.in_order and layout.schedule == "interleaved_1f1b" and layout.virtual_stages > 1:
            of_all = self._kept_by_stages()
        else:
            passed_on = self._hidden_state * (layout.virtual_stages - ("after" in self.rank.parts))
            of_all = (kept + passed_on) * self._in_flight
        return ledger_of_program(
            self._held,
            self._sharding,
            kept=of_all * layout.micro_batch,
            moments=self._moments or self._moments_in_any_order(kept, one_layer),
            kind=self.work.machine.kind,
        )

    def _contents(self) -> Contents:
        """Of all layers and parts; ranks that hold the same share them."""
        rank, layout = self.rank, self.layout
        held = rank.by_recompute(layout.recompute)
        key = ("contents", held, rank.parts, layout.degrees, layout.micro_batch > 1, layout.pp > 1)
        if key not in self.work.memo:
            self.work.memo[key] = self._add_up(held)
        return self.work.memo[key]

    def _add_up(self, held: Iterable[tuple[str, str, int]]) -> Contents:
        work, layout, parts = self.work, self.layout, self.rank.parts
        dense = experts = largest = 0
        kept = one_layer = two_largest = 0.0
        for block, how, count in held:
            block_dense, block_experts = work.parameters(block, layout.degrees)
            run = self._run(block, how, count)
            dense, experts = dense + count * block_dense, experts + count * block_experts
            largest = max(largest, work.largest_gathered(block, layout.degrees))
            kept += count * run.kept
            one_layer = max(one_layer, run.working.activations)
            two_largest = max(two_largest, work.kept(block, layout).two_largest)
        for part in parts:
            dense += work.parameters(part, layout.degrees)[0]
            kept += work.kept(part, layout).none
        if parts == ("after",) and work.is_tied:  # the embedding is on the first rank and on the last
            dense += work.parameters("before", layout.degrees)[0]
        return Contents(dense, experts, kept, one_layer, two_largest, largest)

    def _before_zero(self) -> Held:
        work, layout, parts = self.work, self.layout, self.rank.parts
        has_head, head = "after" in parts, "before" if work.is_tied else "after"
        return Held(
            dense=self.contents.dense,
            experts=self.contents.experts,
            root=sum(work.parameters(part, layout.degrees)[0] for part in parts),
            head=work.parameters(head, layout.degrees)[0] if has_head else 0,
            loss=self._program_loss_bytes() if has_head else 0.0,
        )

    def _spread(self) -> Sharding:
        layout = self.layout
        return Sharding(
            zero=layout.zero,
            shards=layout.shards,
            expert_shards=max(1, layout.shards // layout.ep),
            accumulates=layout.grad_accumulation > 1,
            travels=layout.zero >= 2 or layout.pp == 1,
            values=self.work.formats.values.size_bytes,
            moments=self.work.kept_by_optimizer(self.rank, layout),
            is_offloaded=layout.offload is not None,
        )

    # The backward pass.

    def _moments_in_order(self) -> tuple[Moment, ...]:
        """Of a micro-batch, on a rank that has one stage."""
        return tuple(moments_of(self._run(*run).of_batch(self.layout.micro_batch) for run in self._runs()))

    def _moments_in_any_order(self, kept: float, one_layer: float) -> Iterable[Moment]:
        """Any layer first, or after one that kept as much as the mean."""
        run, micro_batch = self._largest, self.layout.micro_batch
        freed = kept * micro_batch / self._num_layers
        working = Working(one_layer * micro_batch, run.working.weights, run.working.middle)
        return moments_of([Run(2, freed, 0.0, working, run.dense, run.experts)])

    def _largest_layer(self) -> Run:
        """A layer of the class with most parameters."""
        work, degrees = self.work, self.layout.degrees
        block = max((block for block, _ in self.rank.layers), key=lambda block: sum(work.parameters(block, degrees)))
        return self._run(block, "none", 1).of_batch(self.layout.micro_batch)

    def _run(self, block: str, how: str, count: int) -> Run:
        """Layers of one class that recompute the same; bytes are of one sequence."""
        work, layout = self.work, self.layout
        saved, parts = work.kept(block, layout), work.software.selective
        dense, experts = work.parameters(block, layout.degrees)
        is_apart = layout.ep > 1  # then experts are sharded over other ranks, and so by themselves
        return Run(
            count,
            kept=saved.of(how, parts),
            input=saved.full,
            working=saved.backward(how, parts, is_batched=layout.micro_batch > 1),
            dense=dense if is_apart else dense + experts,
            experts=experts if is_apart else 0,
        )

    def _runs(self) -> Runs:
        """The layers of a rank that has one stage."""
        layout, order = self.layout, self.work.graph.order
        hows = layout.recompute_of_layers(len(order))
        layers = range(len(order))
        if layout.pp > 1:
            layers = layers_of_ranks(layout, num_layers=len(order))[self.rank.first]
        runs = groupby((order[layer], hows[layer]) for layer in reversed(layers))
        return tuple((block, how, sum(1 for _ in run)) for (block, how), run in runs)

    # Micro-batches under way.

    def _passed_on_by_stage(self) -> float:
        """Bytes a sequence, which torch's pipelines keep until its backward pass. The last of all stages passes nothing on."""
        layout = self.layout
        if layout.pp == 1:
            return 0.0
        parts = layout.cp * (layout.tp if layout.sequence_parallel else 1)
        return -(-self.work.seq_len // parts) * self.work.graph.sizes["D"] * self.work.formats.values.size_bytes

    def _kept_by_stages(self) -> float:
        """Bytes a sequence, at most: stages of a rank differ where layers, or what these recompute, do not divide."""
        work, layout, order = self.work, self.layout, self.work.graph.order
        hows = layout.recompute_of_layers(len(order))
        weights = []
        for stage in stages_of_rank(layout, num_layers=len(order), rank=self.rank.first):
            layers = sum(self._run(order[layer], hows[layer], 1).kept for layer in stage.layers)
            ends = [name for name, is_here in (("before", stage.has_embed), ("after", stage.has_head)) if is_here]
            parts = sum(work.kept(part, layout).none for part in ends)
            weights.append(layers + parts + (0.0 if stage.has_head else self._hidden_state))
        return most_held(weights, rank=self.rank.first, ranks=layout.pp, micro_batches=layout.grad_accumulation)

    # The loss.

    def _loss_bytes(self) -> float:
        work, layout = self.work, self.layout
        return loss_bytes(
            work.graph,
            layout.degrees,
            tokens=work.seq_len,
            micro_batch=layout.micro_batch,
            values=work.formats.values,
            is_fused=work.software.fused_loss,
            in_pieces=work.machine.kind == "tpu",
        )

    def _program_loss_bytes(self) -> float:
        """What our loss works with; cut over tp, also the gathered hidden states, their gradient, and fp32 logits of a chunk."""
        layout, work = self.layout, self.work
        if layout.tp == 1:
            return self._loss_bytes()
        rows = layout.micro_batch * -(-work.seq_len // layout.cp)
        return self._loss_bytes() + 2 * rows * work.graph.sizes["D"] * work.formats.values.size_bytes + LOSS_CHUNK_BYTES
