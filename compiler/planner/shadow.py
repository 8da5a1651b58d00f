"""Shadow prices: what a little more of each thing that a machine has would be worth. Each is a search of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.hardware import Accelerator, Hardware
    from .layout import Layout
    from .plan import ServeLayout
    from .serve_plan import ServeOutcome
    from .train_plan import TrainOutcome

MORE = 1.1
SAME = 0.0005
"""A change of less than this share of the time is none: it is below what the search calls equal."""


@dataclass(frozen=True)
class Price:
    """One change of the machine and what the best plan on it does."""

    change: str
    """`1 GiB more memory a device`"""
    saved: float
    """Seconds of a step that it saves; of serving devices in all (or, of equally many, seconds a token)."""
    unit: str
    layout: Layout | ServeLayout | None
    """The layout that is best then, where it is another one."""


def train_prices(spec: Spec, train: TrainOutcome) -> list[Price]:
    """In the order of `_machines`; empty where nothing fits or the machine has no such thing."""
    from .train_plan import plan_training

    if train.plan is None or not train.plan.fits:
        return []
    prices = []
    for change, hardware in _machines(spec.hardware, has_network=train.work.machine.num_devices > 1):
        again = plan_training(spec.model_copy(update={"hardware": hardware}), train.work.graph)
        if again.plan is None or not again.plan.fits:
            continue
        saved = _fastest_s(train) - _fastest_s(again)
        saved = saved if saved > SAME * train.chosen.time.total else 0.0
        other = again.plan.layout if saved and again.plan.layout != train.plan.layout else None
        prices.append(Price(change, saved, "s a step", other))
    return prices


def _fastest_s(train: TrainOutcome) -> float:
    """Of all that could be chosen: the search itself takes the simplest of those within a half per cent."""
    may_be_tight = train.chosen.is_tight
    return min(each.time.total for each in train.found.fitting if may_be_tight or not each.is_tight)


def serve_prices(spec: Spec, serve: ServeOutcome) -> list[Price]:
    """The same for a server: devices saved, or time per token where their number stays."""
    from .serve_plan import plan_serving

    if serve.plan is None or not serve.plan.meets_slo:
        return []
    graph = serve.found.good[0].engine.graph
    prices = []
    for change, hardware in _machines(spec.hardware, has_network=serve.machine.num_devices > 1):
        again = plan_serving(spec.model_copy(update={"hardware": hardware}), graph, folder=serve.folder).plan
        if again is None or not again.meets_slo:
            continue
        other = again.layout if again.layout != serve.plan.layout else None
        if again.devices != serve.plan.devices:
            prices.append(Price(change, serve.plan.devices - again.devices, "devices", other))
            continue
        here, there = serve.plan.predicted.tpot_p50_ms, again.predicted.tpot_p50_ms
        saved = here - there if here - there > SAME * here else 0.0
        prices.append(Price(change, saved / 1e3, "s a token", other if saved else None))
    return prices


def _machines(hardware: Hardware, *, has_network: bool) -> Iterator[tuple[str, Hardware]]:
    """Each machine with a little more of one thing, as a spec would say it."""
    device = hardware.accelerator
    yield "1 GiB more memory a device", _with(hardware, memory_gib=device.memory_gib + 1)
    yield "10 % more memory bandwidth", _with(hardware, memory_gb_s=device.memory_gb_s * MORE)
    if has_network:
        yield from _networks(hardware, device)
    peak = device.peak_tflops
    faster = {name: value * MORE for name, value in peak.model_dump().items() if value is not None}
    yield "10 % more compute", _with(hardware, peak_tflops=peak.model_copy(update=faster))


def _networks(hardware: Hardware, device: Accelerator) -> Iterator[tuple[str, Hardware]]:
    if device.torus is not None and hardware.topology is not None:
        torus = device.torus.model_copy(update={"gb_s": device.torus.gb_s * MORE})
        yield "10 % more bandwidth on the torus", _with(hardware, torus=torus)
        yield from _between(hardware, device)
        return
    inside = hardware.intra_node_gb_s or device.intra_node.gb_s
    if inside is not None:
        name = device.intra_node.link or "bandwidth inside a node"
        yield f"10 % more {name}", hardware.model_copy(update={"intra_node_gb_s": inside * MORE})
    yield from _between(hardware, device)


def _between(hardware: Hardware, device: Accelerator) -> Iterator[tuple[str, Hardware]]:
    """Of the network between nodes, or between slices."""
    between = hardware.inter_node_gb_s or device.inter_node.gb_s
    if between is not None and max(hardware.nodes, hardware.slices) > 1:
        name = device.inter_node.link or "bandwidth between nodes"
        yield f"10 % more {name}", hardware.model_copy(update={"inter_node_gb_s": between * MORE})


def _with(hardware: Hardware, **changes: Any) -> Hardware:
    return hardware.model_copy(update={"accelerator": hardware.accelerator.model_copy(update=changes)})
