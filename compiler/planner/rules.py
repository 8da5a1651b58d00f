"""Hard rules of a layout: what must divide what. Each is a sentence with the two numbers that disagree.

The search drops layouts that break a rule and counts them by `key`; a layout fixed by hand that breaks one is an error
at the degree's place in the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .layout import Layout

if TYPE_CHECKING:
    from ..ir.graph import Graph


@dataclass(frozen=True)
class Violation:
    """A rule that a layout breaks."""

    key: str
    """Short, for counting: `tp does not divide heads`."""
    field: str
    """The field of `parallel` to point at."""
    message: str
    fits: Callable[[int], bool]
    """Whether another value of the field would keep this rule."""


def violations(layout: Layout, graph: Graph, *, seq_len: int, global_batch: int | None) -> Iterator[Violation]:
    """All rules that a layout breaks, the structural ones first."""
    sizes = graph.sizes
    yield from _tensor(layout, graph)
    if layout.sequence_parallel and seq_len % (layout.tp * layout.cp):
        yield _not_divisible("sequence", "tp", layout.tp, "seq_len", seq_len, per=layout.cp)
    if layout.cp > 1 and seq_len % (2 * layout.cp):
        message = f"cp {layout.cp} needs seq_len divisible by {2 * layout.cp} (an early and a late part a rank); it is {seq_len}"
        yield Violation("sequence not divisible by cp", "cp", message, lambda cp: seq_len % (2 * cp) == 0)
    if layout.cp > 1 and layout.cp_kind == "ulysses":
        heads = sizes["H"] // layout.tp
        if heads % layout.cp:
            message = (
                f"cp {layout.cp} of kind ulysses does not divide the {heads} heads that tp {layout.tp} leaves a rank"
            )
            yield Violation("cp does not divide heads", "cp", message, lambda cp: heads % cp == 0)
    yield from _pipeline(layout, graph)
    yield from _experts(layout, graph)
    if global_batch is not None:
        yield from _batch(layout, global_batch=global_batch)


def _tensor(layout: Layout, graph: Graph) -> Iterator[Violation]:
    tp, sizes = layout.tp, graph.sizes
    if sizes["H"] % tp:
        yield _not_divisible("heads", "tp", tp, "num_heads", sizes["H"])
    kv_heads = sizes.get("K")
    if kv_heads is not None and kv_heads % tp and tp % kv_heads:
        message = f"tp {tp} and num_kv_heads {kv_heads}: neither divides the other"
        yield Violation("tp and kv heads", "tp", message, lambda tp: kv_heads % tp == 0 or tp % kv_heads == 0)
    for width in graph.widths:
        if width % tp:
            yield _not_divisible("feed-forward", "tp", tp, "intermediate_size", width)
            break


def _pipeline(layout: Layout, graph: Graph) -> Iterator[Violation]:
    stages = layout.pp * layout.virtual_stages
    if stages > graph.num_layers:
        virtual = f" × virtual_stages {layout.virtual_stages}" if layout.virtual_stages > 1 else ""
        message = f"pp {layout.pp}{virtual} is {stages} stages; the model has {graph.num_layers} layers"
        per, layers = layout.virtual_stages, graph.num_layers
        yield Violation("more stages than layers", "pp", message, lambda pp: pp * per <= layers)
    if layout.stages is not None:
        yield from _stages(layout, graph)
    if layout.schedule == "interleaved_1f1b" and layout.grad_accumulation % layout.pp:
        micro_batches = layout.grad_accumulation
        message = f"interleaved_1f1b needs micro-batches in multiples of pp {layout.pp}; there are {micro_batches}"
        yield Violation("micro-batches not in rounds", "schedule", message, lambda pp: micro_batches % pp == 0)
    if layout.schedule == "dualpipe" and layout.virtual_stages == 1 and layout.pp % 2:
        message = f"dualpipe needs an even number of pipeline ranks; pp is {layout.pp}"
        yield Violation("odd pipeline", "pp", message, lambda pp: pp % 2 == 0)
    if layout.schedule == "dualpipe" and layout.virtual_stages == 2 and layout.grad_accumulation < 2 * layout.pp:
        micro_batches = layout.grad_accumulation
        message = f"dualpipe on pp {layout.pp} needs {2 * layout.pp} micro-batches or more, one a stage; there are {micro_batches}"
        yield Violation("fewer micro-batches than stages", "schedule", message, lambda pp: 2 * pp <= micro_batches)


def _stages(layout: Layout, graph: Graph) -> Iterator[Violation]:
    stages, held = layout.pp * layout.virtual_stages, layout.stages or ()
    if len(held) != stages:
        virtual = f" × virtual_stages {layout.virtual_stages}" if layout.virtual_stages > 1 else ""
        message = f"`stages` lists {len(held)}; pp {layout.pp}{virtual} is {stages} stages"
        yield Violation("stages do not match pp", "stages", message, lambda _: False)
    elif sum(held) != graph.num_layers:
        message = f"`stages` hold {sum(held)} layers; the model has {graph.num_layers}"
        yield Violation("stages do not hold all layers", "stages", message, lambda _: False)


def _experts(layout: Layout, graph: Graph) -> Iterator[Violation]:
    if layout.ep == 1:
        return
    experts, ranks = graph.sizes.get("E"), layout.shards
    if experts is None:
        yield Violation("no experts", "ep", f"ep {layout.ep} needs experts; the model has none", lambda ep: ep == 1)
        return
    if experts % layout.ep:
        yield _not_divisible("experts", "ep", layout.ep, "num_experts", experts)
    if ranks % layout.ep:
        message = f"ep {layout.ep} does not divide the {ranks} ranks of dp_shard {layout.dp_shard} × cp {layout.cp}"
        yield Violation("ep does not divide ranks", "ep", message, lambda ep: ranks % ep == 0)


def _batch(layout: Layout, *, global_batch: int) -> Iterator[Violation]:
    data_parallel = layout.data_parallel
    if global_batch % data_parallel:
        message = f"global_batch {global_batch} does not divide over {data_parallel} data-parallel ranks"
        yield Violation("batch not divisible", "dp_shard", message, lambda dp: global_batch % dp == 0)
        return
    a_rank = global_batch // data_parallel
    if a_rank != layout.micro_batch * layout.grad_accumulation:
        message = (
            f"global_batch {global_batch} over {data_parallel} data-parallel ranks is {a_rank} sequences a rank; "
            f"micro_batch {layout.micro_batch} × grad_accumulation {layout.grad_accumulation} is "
            f"{layout.micro_batch * layout.grad_accumulation}"
        )
        yield Violation("batch not divisible", "micro_batch", message, lambda size: a_rank % size == 0)


def _not_divisible(what: str, field: str, degree: int, name: str, size: int, *, per: int = 1) -> Violation:
    message = f"{field} {degree} does not divide {name} {size}" + (f" / cp {per}" if per > 1 else "")
    return Violation(f"{field} does not divide {what}", field, message, lambda value: size % (value * per) == 0)
