"""The sections of a training plan: what `compiler/planner` found, as charts and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...spec.units import GIB
from ..cost.compute import NARROW, time_of
from ..cost.pipeline import layers_of_ranks
from ..planner.axes import axes_of, coordinates
from ..planner.explain import worth
from ..planner.figures import big, duration, gib, percent_more, seconds, short
from ..planner.shadow import train_prices
from ..planner.terms import changes, terms_of
from ..planner.train_search import runners_up
from ..planner.words import layout_line
from .bars import Bar, Stack, single, stacked
from .mesh import AxisRow, Device, mesh
from .pareto import Axis, Dot, pareto
from .roofline import Roof, Work, roofline
from .sections import Facts, Part, Section, TableOf, Words
from .shapes import Chart
from .timeline import timeline

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..cost.memory import Ledger
    from ..planner.layout import Layout
    from ..planner.train_plan import TrainOutcome
    from ..planner.train_search import Priced

CLASSES = ("parameters", "gradients", "optimizer", "activations", "logits", "gathered", "working", "runtime")
NAMES = {"logits": "loss", "working": "working set"}
ORIGIN_STYLE = {"measured": "c3", "fitted": "c1", "assumed": "c5"}
RUNNERS_UP = 8


def train_sections(train: TrainOutcome, spec: Spec) -> Iterator[Section]:
    """In the order in which a reader asks: what is it, does it fit, where does time go, why not another."""
    plan = train.plan
    assert plan is not None
    yield Section("training", "Training", (_facts(train, spec), _layout(plan.layout)))
    yield Section("memory-section", "Memory", (memory_chart(train),))
    if not plan.fits:
        yield Section("ruled-out", "Ruled out", tuple(_ruled_out(train)))
        return
    yield Section("time-section", "Time", (time_chart(train), *_timeline(train)))
    yield Section("machine-section", "Machine", (mesh_chart(train), roofline_chart(train)))
    yield Section("others", "Other layouts", (pareto_chart(train), *_runners_up(train), *_ruled_out(train)))
    yield Section("worth", "What a better machine would be worth", tuple(_prices(train, spec)))


def _facts(train: TrainOutcome, spec: Spec) -> Facts:
    assert train.plan is not None
    predicted, machine = train.plan.predicted, train.work.machine
    facts = [
        ("step", f"{seconds(predicted.step_time_s)}"),
        ("nine of ten within", f"{seconds(predicted.step_time_low_s)} – {seconds(predicted.step_time_high_s)}"),
        ("tokens/s a device", short(predicted.tokens_per_s_per_device)),
        ("MFU", f"{predicted.mfu:.0%}"),
        ("memory a device", f"{predicted.memory_gib.peak:.1f} of {machine.memory_bytes / GIB:.1f} GiB"),
        (f"{big(train.batch.tokens)} tokens", duration(train.batch.steps * predicted.step_time_s)),
        ("device-hours", short(predicted.device_hours)),
    ]
    if predicted.cost_usd is not None:
        facts.append(("cost", f"${big(predicted.cost_usd)}"))
    if predicted.energy_mwh is not None:
        facts.append(("energy", f"{short(predicted.energy_mwh)} MWh"))
    if (safety := train.plan.reliability) is not None:
        facts.append(("a checkpoint", f"{seconds(safety.write_s)}, every {duration(safety.interval_s)}"))
        facts.append(("a failure every", duration(safety.mtbf_hours * 3600)))
        facts.append(("goodput", f"{safety.goodput:.1%}"))
    return Facts(tuple(facts))


def _layout(layout: Layout) -> Words:
    return Words(layout_line(layout))


def memory_chart(train: TrainOutcome) -> Chart:
    """A bar for each kind of pipeline rank."""
    assert train.plan is not None
    work, layout = train.work, train.plan.layout
    ledgers = work.ledgers(layout)
    stacks = [
        Stack(name, tuple((NAMES.get(each, each), getattr(ledger, each) / GIB) for each in CLASSES))
        for name, ledger in zip(_rank_names(train, layout), ledgers, strict=True)
    ]
    memory = work.machine.memory_bytes / GIB
    about = "What each pipeline rank keeps on a device, by class, at the moment when it needs most."
    return stacked(
        "memory",
        "Memory a device, by class and pipeline rank",
        about,
        _without_empty(stacks),
        axis="GiB a device",
        text=lambda value: f"{value:.2f}" if value < 10 else f"{value:.1f}",
        tick=lambda value: f"{value:g}",
        limit=(f"{memory:.1f} GiB a device", memory),
    )


def _without_empty(stacks: Sequence[Stack]) -> list[Stack]:
    used = {name for stack in stacks for name, value in stack.parts if value > 0}
    return [Stack(stack.name, tuple(part for part in stack.parts if part[0] in used)) for stack in stacks]


def _rank_names(train: TrainOutcome, layout: Layout) -> list[str]:
    """`rank 0`, `14 ranks like 1`: kinds of equal pipeline ranks."""
    if layout.pp == 1:
        return ["every device"]
    kinds = train.work.ranks(layout)
    return [f"rank {kind.first}" if kind.times == 1 else f"{kind.times} ranks like {kind.first}" for kind in kinds]


def time_chart(train: TrainOutcome) -> Chart:
    """A bar a class, coloured by where its constants come from; the whole step with its interval first."""
    terms = terms_of(train.work, train.chosen)
    time = train.chosen.time
    bars = [Bar("step", time.total, low=time.low, high=time.high)]
    bars += [Bar(term.name, term.seconds, term.origin) for term in terms]
    origins = [each for each in ORIGIN_STYLE if any(term.origin == each for term in terms)]
    words = {"measured": "measured on this device", "fitted": "fitted on published measurements", "assumed": "assumed"}
    return single(
        "time",
        "Time of a step, by class",
        "Classes sum to the step; the line behind the step is where nine of ten such steps are expected.",
        bars,
        axis="seconds",
        text=seconds,
        tick=lambda value: f"{value:g}",
        legend=(("c8", "the whole step"), *((ORIGIN_STYLE[each], words[each]) for each in origins)),
        style_of=lambda bar: ORIGIN_STYLE.get(bar.note, "c8"),
    )


def _timeline(train: TrainOutcome) -> list[Part]:
    try:
        return [timeline(train.work, train.chosen)]
    except ValueError as problem:
        return [Words(f"The pipeline is not drawn: {problem}.")]


def pareto_chart(train: TrainOutcome) -> Chart:
    chosen, others = train.chosen, runners_up(train.found.fitting, at_most=RUNNERS_UP)
    numbers = {id(other): index for index, other in enumerate(others, start=1)}
    dots = [_dot(each, chosen, numbers) for each in train.found.fitting]
    if train.auto is not None and train.auto.layout != chosen.layout:
        name = f"auto: {layout_line(train.auto.layout)}"
        dots.append(Dot(train.auto.time.total, train.auto.ledger.peak / GIB, name, "runner-up", "auto"))
    memory = train.work.machine.memory_bytes / GIB
    return pareto(
        "pareto",
        "Time against memory",
        "Every layout that fits and was priced; numbers are those of the runners-up below.",
        dots,
        x=Axis("seconds a step", seconds, lambda value: f"{value:g}"),
        y=Axis("GiB a device", lambda value: f"{value:.1f} GiB", lambda value: f"{value:g}"),
        limit=(f"{memory:.1f} GiB a device", memory),
    )


def _dot(each: Priced, chosen: Priced, numbers: dict[int, int]) -> Dot:
    style = "chosen" if each is chosen else "runner-up" if id(each) in numbers else "other"
    label = "chosen" if each is chosen else str(numbers.get(id(each), ""))
    return Dot(each.time.total, each.ledger.peak / GIB, layout_line(each.layout), style, label)


def mesh_chart(train: TrainOutcome) -> Chart:
    machine, layout = train.work.machine, train.chosen.layout
    axes = [
        AxisRow(axis.name, axis.size, axis.stride, axis.link, axis.leaves_node) for axis in axes_of(layout, machine)
    ]
    shown = [name for name in ("tp", "cp", "pp", "dp_shard", "dp_replicate") if getattr(layout, name) > 1][:3]
    inner = axes[0] if axes else None

    def device(number: int) -> Device:
        at = coordinates(layout, number)
        words = tuple(f"{_short(name)} {at[name]}" for name in shown) or ("all",)
        title = f"device {number}: " + ", ".join(f"{name} {at[name]}" for name in at if getattr(layout, name) > 1)
        return Device(number, words, number // (inner.size * inner.stride) if inner else 0, title.removesuffix(": "))

    links = [link for link in (machine.fast_link, machine.slow_link) if link]
    about = "Each square is a device with its rank on each axis."
    if inner is not None:
        about += f" Neighbours of one colour are one group of {inner.name}."
    return mesh(
        "mesh",
        "The mesh on the machine",
        about,
        num_devices=machine.num_devices,
        per_node=min(machine.per_node, machine.num_devices),
        device=device,
        axes=axes,
        link=" · ".join(links) if machine.num_devices > 1 else "",
    )


def _short(name: str) -> str:
    return {"dp_shard": "dp", "dp_replicate": "rep"}.get(name, name)


def roofline_chart(train: TrainOutcome) -> Chart:
    """Forward passes of one micro-batch through the rank with most layers."""
    work, layout, machine = train.work, train.chosen.layout, train.work.machine
    found: dict[str, list[float]] = {}
    for part, count in _busiest(train, layout):
        for each in work.works(part, layout.degrees, micro_batch=layout.micro_batch):
            if not each.row:
                continue
            time = time_of(each, machine=machine, formats=work.formats, software=work.software)
            sums = found.setdefault(each.row, [0.0, 0.0, 0.0])
            for index, value in enumerate((each.flops, each.moved_bytes, time.forward_s)):
                sums[index] += count * value
    precision = work.precision
    roofs = [Roof(f"{precision} peak, {machine.peak(precision) / 1e12:,.0f} TFLOP/s", machine.peak(precision))]
    if precision in NARROW and machine.peak("bf16") < machine.peak(precision):
        roofs.append(Roof(f"bf16 peak, {machine.peak('bf16') / 1e12:,.0f} TFLOP/s", machine.peak("bf16")))
    bandwidth = machine.memory_bytes_per_s
    about = f"Forward pass of a micro-batch on one device; the slope is its memory, {bandwidth / 1e9:,.0f} GB/s."
    works = [Work(name, *sums) for name, sums in found.items()]
    return roofline("roofline", "Roofline of the op classes", about, works, roofs=roofs, bytes_per_s=bandwidth)


def _busiest(train: TrainOutcome, layout: Layout) -> list[tuple[str, int]]:
    """(part, how many) of the pipeline rank with most layers; of equal ones the last, which has the head."""
    order = train.work.graph.order
    ranks = layers_of_ranks(layout, num_layers=len(order))
    rank = max(range(len(ranks)), key=lambda each: (len(ranks[each]), each))
    parts = list(Counter(order[layer] for layer in ranks[rank]).items())
    parts += [("before", 1)] if 0 in ranks[rank] else []
    return parts + ([("after", 1)] if len(order) - 1 in ranks[rank] else [])


def _runners_up(train: TrainOutcome) -> list[Part]:
    """The table that the front's numbers refer to: every term against the chosen layout."""
    rows = []
    for number, other in enumerate(runners_up(train.found.fitting, at_most=RUNNERS_UP), start=1):
        total = other.time.total
        why = "; ".join(str(change) for change in changes(train.work, other, train.chosen)) or "no term differs much"
        slower = f"{seconds(total)} ({percent_more(total, train.chosen.time.total)})"
        tight = " (fills the device)" if other.is_tight else ""
        rows.append((str(number), layout_line(other.layout), slower, gib(other.ledger.peak) + tight, why))
    head = ("", "layout", "step", "memory", "against the chosen layout")
    return [TableOf("Runners-up, term by term", head, tuple(rows))] if rows else []


def _ruled_out(train: TrainOutcome) -> list[Part]:
    found = train.found
    rows = []
    by_class: dict[str, list[Ledger]] = {}
    for miss in found.misfits:
        by_class.setdefault(miss.ledger.binding, []).append(miss.ledger)
    for name, ledgers in by_class.items():
        nearest = min(ledger.peak for ledger in ledgers)
        rows.append((f"{len(ledgers):,}", f"do not fit, {name} the largest part", f"nearest {gib(nearest)}"))
    if found.num_beyond:
        rows.append((f"{found.num_beyond:,}", "not tried", "leaner ones with the same degrees do not fit"))
    if found.num_slower:
        rows.append((f"{found.num_slower:,}", "not priced", "by bounds on their time they cannot be as fast"))
    for key, count in (+found.broken).most_common():
        rows.append((f"{count:,}", key, found.violations[key][1].message))
    return [TableOf("Ruled out", ("layouts", "by", "for example"), tuple(rows))] if rows else []


def _prices(train: TrainOutcome, spec: Spec) -> list[Part]:
    rows = []
    for price in train_prices(spec, train):
        line = layout_line(price.layout) if price.layout is not None else "the same"  # pyright: ignore[reportArgumentType]
        rows.append((price.change, worth(price), line))
    head = ("change", "a step", "layout then")
    return [TableOf("Shadow prices: each row is a search of its own", head, tuple(rows))]
