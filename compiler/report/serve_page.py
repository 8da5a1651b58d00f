"""The sections of a serving plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...spec.units import GIB
from ..planner.explain import worth
from ..planner.figures import milliseconds, percent_more, short
from ..planner.serve_plan import layout_of
from ..planner.shadow import serve_prices
from ..planner.words import engine_words, serve_line
from .bars import Bar, Stack, single, stacked
from .mesh import AxisRow, Device, mesh
from .pareto import Axis, Dot, pareto
from .sections import Facts, Part, Section, TableOf, Words
from .serve_steps import roofline_chart, time_chart
from .shapes import WIDTH, Chart, Line, Rect, Scale, Shape, Table, Text, axis_below, fitting

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.serving import Serve
    from ..planner.plan import ServeLayout
    from ..planner.serve_plan import ServeOutcome
    from ..planner.serve_search import Candidate

CLASSES = ("weights", "kv_cache", "buffers")
OBJECTIVES = {
    "ttft_p50_ms": "first token, median",
    "ttft_p99_ms": "first token, 99 %",
    "tpot_p50_ms": "each token, median",
    "tpot_p99_ms": "each token, 99 %",
}


def serve_sections(serve: ServeOutcome, spec: Spec) -> Iterator[Section]:
    """In the order in which a reader asks."""
    plan = serve.plan
    assert plan is not None
    assert spec.serve is not None
    chosen = _chosen(serve)
    yield Section("serving", "Serving", (_facts(serve), Words(serve_line(plan.layout)), *_limits(serve)))
    yield Section("serve-memory-section", "Memory of an engine", (memory_chart(serve),))
    times: tuple[Part, ...] = (
        times_chart(serve, spec.serve),
        request_chart(serve, spec.serve),
        time_chart(chosen, spec.serve),
    )
    yield Section("serve-time-section", "Latency", times)
    machine: tuple[Part, ...] = (mesh_chart(serve), roofline_chart(chosen, spec.serve))
    yield Section("serve-machine-section", "Engines on the machine", machine)
    yield Section("serve-others", "Other engines", (pareto_chart(serve), *_others(serve)))
    if plan.meets_slo:
        yield Section("serve-worth", "What a better machine would be worth to the server", tuple(_prices(serve, spec)))


def _chosen(serve: ServeOutcome) -> Candidate:
    """The candidate that the plan says."""
    assert serve.plan is not None
    served = [each for each in (*serve.found.good, *serve.found.bad) if each.service is not None]
    return next(each for each in served if layout_of(each) == serve.plan.layout)


def _facts(serve: ServeOutcome) -> Facts:
    assert serve.plan is not None
    plan, predicted = serve.plan, serve.plan.predicted
    facts = [
        ("devices", f"{plan.devices:,} of {serve.machine.num_devices:,}"),
        ("first token, median", milliseconds(predicted.ttft_p50_ms)),
        ("each token, median", milliseconds(predicted.tpot_p50_ms)),
        ("output tokens/s", short(predicted.output_tokens_per_s)),
        ("requests/s", f"{predicted.requests_per_s:.3g}"),
        ("memory a device", f"{predicted.memory_gib.peak:.1f} of {serve.machine.memory_bytes / GIB:.1f} GiB"),
        ("holds the objective", "yes" if plan.meets_slo else "no"),
    ]
    if serve.price_per_hour_usd is not None:
        facts.append(("an hour", f"${plan.devices * serve.price_per_hour_usd:,.2f}"))
    return Facts(tuple(facts))


def _limits(serve: ServeOutcome) -> list[Part]:
    """What the server may hold, each with its inequality; and what prefill on devices of its own would do."""
    assert serve.plan is not None
    parts: list[Part] = []
    if serve.plan.disaggregated is not None:
        parts.append(Words(f"Fewer would do: {serve.plan.disaggregated}."))
    rows = tuple((limit.name, f"{limit.value:,}", limit.inequality) for limit in serve.plan.limits)
    if rows:
        parts.append(TableOf("Limits of a replica", ("limit", "value", "from"), rows))
    return parts


def memory_chart(serve: ServeOutcome) -> Chart:
    """The chosen engine and the others that hold the objective."""
    assert serve.plan is not None
    plans = [("chosen", serve.plan.layout, serve.plan.predicted)]
    plans += [(f"{index}", each.layout, each.predicted) for index, each in enumerate(serve.plan.alternatives, start=1)]
    stacks = [
        Stack(
            f"{name}: tp {layout.tp}, {layout.weights}",
            tuple((each.replace("_", " "), getattr(predicted.memory_gib, each)) for each in CLASSES),
        )
        for name, layout, predicted in plans
    ]
    memory = serve.machine.memory_bytes / GIB
    return stacked(
        "serve-memory",
        "Memory a device, by class",
        "The chosen engine, and others that hold the objective by their numbers in the table below.",
        stacks,
        axis="GiB a device",
        text=lambda value: f"{value:.2f}" if value < 10 else f"{value:.1f}",
        tick=lambda value: f"{value:g}",
        limit=(f"{memory:.1f} GiB a device", memory),
    )


def times_chart(serve: ServeOutcome, asked: Serve) -> Chart:
    """Percentiles as bars, with what is asked for behind each."""
    assert serve.plan is not None
    predicted = serve.plan.predicted
    bars = []
    for name, words in OBJECTIVES.items():
        limit = getattr(asked.slo, name) if asked.slo is not None else None
        bars.append(Bar(words, getattr(predicted, name), f"asked: {limit:g} ms" if limit is not None else ""))
    return single(
        "serve-latency",
        "Latency, with what is asked",
        f"Median and 99th percentile under the load of the spec, {_played(serve)}.",
        bars,
        axis="milliseconds",
        text=milliseconds,
        tick=lambda value: f"{value:g}",
        style_of=lambda bar: "c1" if bar.name.startswith("first") else "c2",
    )


def _played(serve: ServeOutcome) -> str:
    count = serve.plan.simulated_requests if serve.plan is not None else None
    return f"over {count:,} simulated requests" if count is not None else "in closed form"


def request_chart(serve: ServeOutcome, asked: Serve) -> Chart:
    """One request at median times: until the first token, then token by token."""
    assert serve.plan is not None
    predicted = serve.plan.predicted
    tokens = (asked.workload.output_tokens if asked.workload else None) or max(1, asked.max_seq_len // 4)
    prompt = (asked.workload.input_tokens if asked.workload else None) or max(1, asked.max_seq_len // 4)
    first, each = predicted.ttft_p50_ms, predicted.tpot_p50_ms
    end = first + each * (tokens - 1)
    scale = Scale(0.0, end, 12.0, WIDTH - 12)
    shapes: list[Shape] = axis_below(
        scale,
        60.0,
        top=16.0,
        text=lambda value: milliseconds(value) if value else "0",
        name="time since the request arrives",
    )
    shapes.append(
        Rect(
            scale(0),
            20,
            scale(first) - scale(0),
            30,
            "c1",
            f"prompt of {prompt:,} tokens: {milliseconds(first)} to the first token",
        )
    )
    title = f"{tokens - 1:,} more tokens, {milliseconds(each)} each"
    shapes.append(Rect(scale(first), 20, scale(end) - scale(first), 30, "c2", title))
    label = fitting(title, scale(end) - scale(first) - 8)
    shapes.append(Text((scale(first) + scale(end)) / 2, 39, label, "middle", "inside"))
    steps = min(tokens - 1, 60)
    for step in range(1, steps):
        x = scale(first + (end - first) * step / steps)
        shapes.append(Line(((x, 46), (x, 50)), "grid"))
    rows = (
        ("to the first token", milliseconds(first)),
        ("each token", milliseconds(each)),
        ("whole answer", milliseconds(end)),
    )
    legend = (("c1", "waiting and prompt"), ("c2", "answer"))
    about = f"A prompt of {prompt:,} tokens and an answer of {tokens:,}, at median times."
    return Chart("serve-request", "One request", about, WIDTH, 100, tuple(shapes), legend, Table(("", ""), rows))


def mesh_chart(serve: ServeOutcome) -> Chart:
    """Replicas one after the other, tp inside pp inside a replica."""
    assert serve.plan is not None
    machine, layout, devices = serve.machine, serve.plan.layout, serve.plan.devices
    engine = layout.tp * layout.pp

    def device(number: int) -> Device:
        replica, inside = divmod(number, engine)
        if replica >= layout.replicas:
            return Device(number, ("free",), None, f"device {number} is not needed")
        stage, rank = divmod(inside, layout.tp)
        words = (
            f"rep {replica}",
            *((f"tp {rank}",) if layout.tp > 1 else ()),
            *((f"pp {stage}",) if layout.pp > 1 else ()),
        )
        return Device(number, words, replica, f"device {number}: replica {replica}, tp {rank}, pp {stage}")

    return mesh(
        "serve-mesh",
        "Replicas on the machine",
        f"{devices:,} of {machine.num_devices:,} devices serve; neighbours of one colour are one replica.",
        num_devices=machine.num_devices,
        per_node=min(machine.per_node, machine.num_devices),
        device=device,
        axes=_axes(serve, layout),
        link=" · ".join(link for link in (machine.fast_link, machine.slow_link) if link)
        if machine.num_devices > 1
        else "",
    )


def _axes(serve: ServeOutcome, layout: ServeLayout) -> list[AxisRow]:
    rows, stride = [], 1
    for name, size in (("tp", layout.tp), ("pp", layout.pp)):
        if size > 1:
            is_far = size * stride > serve.machine.domain
            link = serve.machine.slow_link if is_far else serve.machine.fast_link
            rows.append(AxisRow(name, size, stride, link or "links inside a node", is_far))
        stride *= size
    return rows


def pareto_chart(serve: ServeOutcome) -> Chart:
    """Throughput a device against time per token, of every engine that was simulated."""
    assert serve.plan is not None
    numbers = {_id_of(each.layout): index for index, each in enumerate(serve.plan.alternatives, start=1)}
    dots = []
    for each in (*serve.found.good, *serve.found.bad):
        if each.service is None:
            continue
        layout = layout_of(each)
        tokens = each.service.batch / each.service.tpot_p50_s * each.replicas / each.devices
        is_chosen = layout == serve.plan.layout
        number = numbers.get(_id_of(layout))
        style = "chosen" if is_chosen else "refused" if each.reason is not None else "runner-up" if number else "other"
        label = "chosen" if is_chosen else str(number or "") if style == "runner-up" else ""
        dots.append(Dot(each.service.tpot_p50_s * 1e3, tokens, engine_words(layout), style, label))
    return pareto(
        "serve-pareto",
        "Time per token against throughput",
        "Every engine that was tried under the load of the spec; numbers are those of the table below.",
        dots,
        x=Axis("milliseconds a token, median", milliseconds, lambda value: f"{value:g}"),
        y=Axis(
            "output tokens/s a device", lambda value: f"{value:,.0f}", lambda value: f"{value:,g}", is_more_better=True
        ),
    )


def _id_of(layout: ServeLayout) -> str:
    return layout.model_dump_json()


def _others(serve: ServeOutcome) -> list[Part]:
    assert serve.plan is not None
    chosen, parts = serve.plan, list[Part]()
    rows = []
    for number, each in enumerate(chosen.alternatives, start=1):
        predicted, devices = each.predicted, each.layout.replicas * each.layout.tp * each.layout.pp
        token = f"{milliseconds(predicted.tpot_p50_ms)} ({percent_more(predicted.tpot_p50_ms, chosen.predicted.tpot_p50_ms)})"
        first = f"{milliseconds(predicted.ttft_p99_ms)} ({percent_more(predicted.ttft_p99_ms, chosen.predicted.ttft_p99_ms)})"
        rows.append((str(number), engine_words(each.layout), f"{devices - chosen.devices:+d}", token, first))
    if rows:
        head = ("", "engine", "devices", "each token, median", "first token, 99 %")
        parts.append(TableOf("Others that hold it", head, tuple(rows)))
    refused = tuple((engine_words(each.layout), each.reason) for each in chosen.rejected)
    if refused:
        parts.append(TableOf("Ruled out", ("engine", "by"), refused))
    return parts


def _prices(serve: ServeOutcome, spec: Spec) -> list[Part]:
    rows = []
    for price in serve_prices(spec, serve):
        line = engine_words(price.layout) if price.layout is not None else "the same"  # pyright: ignore[reportArgumentType]
        rows.append((price.change, worth(price), line))
    return [TableOf("Shadow prices: each row is a search of its own", ("change", "worth", "engine then"), tuple(rows))]
