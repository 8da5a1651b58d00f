"""The pipeline of one step: a row a rank, a block a forward or backward pass."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..cost.pipeline import layers_of_ranks
from ..cost.step import RankTime, layer_time, part_time
from ..planner.figures import seconds
from .schedule import Block, idle_s, orders, play, shown_micro_batches
from .shapes import WIDTH, Chart, Rect, Scale, Shape, Table, Text, axis_below, fitting, widest

if TYPE_CHECKING:
    from ..cost.workload import Workload
    from ..planner.layout import Layout
    from ..planner.train_search import Priced

TOP = 16.0
MAX_BLOCKS = 1600
"""Beyond it a page gets heavy and no block can be seen."""
MAX_RANKS = 16
STYLES = {"F": "c1", "B": "c2", "W": "c3"}
WORDS = {"F": "forward", "B": "backward", "W": "gradients of weights, put off"}


def timeline(work: Workload, priced: Priced) -> Chart:
    """Plays the schedule with the times of each rank. ValueError where the schedule has no order for these numbers."""
    layout = priced.layout
    schedule, ranks, virtual = layout.schedule, layout.pp, layout.virtual_stages
    shown = shown_micro_batches(
        schedule, ranks=ranks, micro_batches=layout.grad_accumulation, virtual=virtual, at_most=MAX_BLOCKS
    )
    found = orders(schedule, ranks=ranks, micro_batches=shown, virtual=virtual)
    times = [_rank_time(work, layout, rank) for rank in range(ranks)]
    blocks = play(
        found,
        forward=[time.forward + time.exposed / 2 for time in times],
        backward=[time.backward + time.again + time.exposed / 2 for time in times],
        virtual=virtual,
    )
    return _draw(layout, blocks, shown=shown)


def _rank_time(work: Workload, layout: Layout, rank: int) -> RankTime:
    """One micro-batch through what a pipeline rank holds."""
    order = work.graph.order
    layers = layers_of_ranks(layout, num_layers=len(order))[rank]
    recompute = layout.recompute_of_layers(len(order))
    counts = Counter((order[layer], recompute[layer]) for layer in layers)
    terms = [(layer_time(work, layout, block, recompute=how), count) for (block, how), count in counts.items()]
    ends = [("before", 0 in layers), ("after", len(order) - 1 in layers)]
    return RankTime.sum([*terms, *((part_time(work, layout, name), 1) for name, is_here in ends if is_here)])


def _draw(layout: Layout, blocks: list[Block], *, shown: int) -> Chart:
    rows = _rows(layout.pp)
    height = 22.0 if len(rows) <= 8 else 14.0
    names = [f"rank {rank}" for rank in rows]
    left, end = widest(names) + 16, max(block.end for block in blocks)
    scale, bottom = Scale(0.0, end, left, WIDTH - 12), TOP + len(rows) * (height + 4)
    shapes: list[Shape] = axis_below(
        scale, bottom, top=TOP - 4, text=lambda value: seconds(value) if value else "0", name="time in a step"
    )
    for row, rank in enumerate(rows):
        y = TOP + row * (height + 4)
        shapes.append(Rect(left, y, scale.end - left, height, "idle", is_mark=False))
        shapes.append(Text(left - 8, y + height / 2 + 4, names[row], "end"))
        for block in blocks:
            if block.rank == rank:
                shapes += _block(block, scale, y, height)
    kinds = [kind for kind in STYLES if any(block.work.kind == kind for block in blocks)]
    legend = (*((STYLES[kind], WORDS[kind]) for kind in kinds), ("idle", "waiting"))
    table = Table(("", "busy", "waiting", "share waiting"), tuple(_row(blocks, rank) for rank in rows))
    return Chart(
        "timeline", "Pipeline of a step", _about(layout, shown, rows), WIDTH, bottom + 44, tuple(shapes), legend, table
    )


def _rows(ranks: int) -> list[int]:
    """All ranks, or as many as can be seen, evenly spread with the first and the last."""
    if ranks <= MAX_RANKS:
        return list(range(ranks))
    return sorted({round(index * (ranks - 1) / (MAX_RANKS - 1)) for index in range(MAX_RANKS)})


def _block(block: Block, scale: Scale, y: float, height: float) -> list[Shape]:
    x, width = scale(block.start), scale(block.end) - scale(block.start)
    work = block.work
    words = f"rank {block.rank}: {WORDS[work.kind]} of micro-batch {work.micro_batch}, stage {work.stage}, {seconds(block.start)} to {seconds(block.end)}"
    shapes: list[Shape] = [Rect(x, y, width, height, STYLES[work.kind], words)]
    label = fitting(str(work.micro_batch), width - 4)
    if label and height > 18:
        shapes.append(Text(x + width / 2, y + height / 2 + 4, label, "middle", "inside"))
    return shapes


def _row(blocks: list[Block], rank: int) -> tuple[str, ...]:
    idle = idle_s(blocks, rank=rank)
    busy = sum(block.end - block.start for block in blocks if block.rank == rank)
    return (f"rank {rank}", seconds(busy), seconds(idle) if idle > 1e-9 else "0", f"{idle / (busy + idle):.1%}")


def _about(layout: Layout, shown: int, rows: list[int]) -> str:
    what = f"{layout.schedule} over {layout.pp} ranks" if layout.pp > 1 else "One pipeline rank, so none waits"
    if layout.virtual_stages > 1:
        what += f" with {layout.virtual_stages} stages each"
    parts = [f"{what}: each block is one pass of a micro-batch, at the times of its rank."]
    if shown < layout.grad_accumulation:
        parts.append(f"{shown} of {layout.grad_accumulation} micro-batches are drawn; the middle of a step repeats.")
    if len(rows) < layout.pp:
        parts.append(f"{len(rows)} of {layout.pp} ranks are drawn.")
    if layout.schedule == "dualpipe":
        parts.append("Passes that DualPipe overlaps are drawn one after the other.")
    parts.append("Gradients, optimizer and fixed overheads come after it.")
    return " ".join(parts)
