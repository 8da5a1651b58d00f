"""Traffic that the plan claims against traffic that the program had, axis by axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .claims import Claim
from .groups import axis_of, kv_group, ranks_along

if TYPE_CHECKING:
    from ..cost.inventory import Shipment
    from ..planner.layout import Layout
    from .record import Event, Record

Sums = dict[tuple[str, str], tuple[int, int]]
"""(axis, kind) -> (count, bytes)"""


def compare(planned: Sums, found: Sums) -> Iterator[Claim]:
    """A claim for the number and one for the bytes of each kind of collective, those that only one side has included."""
    for axis, kind in sorted({*planned, *found}):
        counts, sizes = zip(planned.get((axis, kind), (0, 0)), found.get((axis, kind), (0, 0)), strict=True)
        hint = _hint(kind, axis, counts, sizes)
        yield Claim("traffic", f"{kind} over {axis}", *counts, hint=hint)
        yield Claim("traffic", f"{kind} over {axis}", *sizes, unit="bytes", hint=hint)


def _hint(kind: str, axis: str, counts: tuple[int, int], sizes: tuple[int, int]) -> str:
    planned, found = counts
    if found == 0:
        return f"the program issues no {kind} over {axis} at all"
    if planned == 0:
        return f"the plan knows of no {kind} over {axis}: a wrong group, or a collective too many"
    if found < planned:
        return f"{planned - found} of {planned} are missing"
    if found > planned:
        return f"{found - planned} more than planned"
    return "as many as planned, of another size" if sizes[0] != sizes[1] else ""


def planned_sums(shipments: Iterable[Shipment], layout: Layout, rank: int) -> Sums:
    """The plan's, under the plainest name of each axis: where all ranks are one axis, `world` is that axis."""
    sums: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for each in shipments:
        key = (_plain(each.axis, layout, rank), each.kind)
        sums[key] += each.count
        sizes[key] += each.num_bytes
    return {key: (count, sizes[key]) for key, count in sums.items()}


def _plain(axis: str, layout: Layout, rank: int) -> str:
    return axis if axis == "kv" else axis_of(layout, rank, ranks_along(layout, rank, axis)) or axis


def found_sums(record: Record, layout: Layout, *, kv_copies: int) -> Sums:
    """What a dry run's rank issued, by axis."""
    names: dict[tuple[int, ...], str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for event in record.events:
        if event.kind == "wait":
            continue
        if event.group not in names:
            names[event.group] = _name(event, layout, record.rank, kv_copies=kv_copies)
        key = (
            names[event.group] if event.group else _name(event, layout, record.rank, kv_copies=kv_copies),
            event.kind,
        )
        counts[key] += 1
        sizes[key] += event.num_bytes
    return {key: (count, sizes[key]) for key, count in counts.items()}


def _name(event: Event, layout: Layout, rank: int, *, kv_copies: int) -> str:
    if event.peer is not None:
        return axis_of_message(layout, rank, event.peer)
    if kv_copies > 1 and event.group == kv_group(layout, rank, kv_copies):
        return "tp" if kv_copies == layout.tp else "kv"
    return axis_of(layout, rank, event.group) or f"ranks {_few(event.group)}"


def axis_of_message(layout: Layout, rank: int, peer: int) -> str:
    """The axis along which two ranks are apart."""
    for axis in ("pp", "cp", "tp", "dp_shard", "dp_replicate"):
        if getattr(layout, axis) > 1 and peer in ranks_along(layout, rank, axis):
            return axis
    return f"ranks {rank} and {peer}"


def extrapolated(fewer: Sums, more: Sums, *, counts: tuple[int, int], micro_batches: int) -> Sums:
    """A step of many micro-batches, from steps of two smaller counts: what each further one adds is the same."""
    low, high = counts
    result: Sums = {}
    for key in {*fewer, *more}:
        (count, size), (larger_count, larger) = fewer.get(key, (0, 0)), more.get(key, (0, 0))
        added = [(larger_count - count) * (micro_batches - low), (larger - size) * (micro_batches - low)]
        result[key] = (count + added[0] // (high - low), size + added[1] // (high - low))
    return result


def _few(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:4])
    return f"{shown}, …" if len(ranks) > 4 else shown
