"""Why nothing is left, as a diagnostic: the two numbers, the place in the spec, and a remedy that was tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...spec.base import Path
from ...spec.diagnostics import Diagnostic, diagnose
from ...spec.units import GIB
from ..cost.workload import Workload
from ..topology.machine import Machine
from .enumerate import OPEN, Given
from .train_search import Search

if TYPE_CHECKING:
    from ...spec.document import Spec

Retry = Callable[[Given, Machine], Search]
"""Search again with other choices given, or on another machine."""

MAX_DOUBLINGS = 12


def does_not_fit(spec: Spec, wanted: Given, work: Workload, found: Search, *, retry: Retry) -> Diagnostic:
    """P201: every layout needs more memory than a device has."""
    miss = found.nearest_miss
    assert miss is not None
    machine, ledger = work.machine, miss.ledger
    needs, has = ledger.peak / GIB, machine.memory_bytes / GIB
    classes = ("optimizer", "parameters", "gradients", "activations", "buffers")
    sizes = sorted(((getattr(ledger, name) / GIB, name) for name in classes), reverse=True)
    parts = ", ".join(f"{name} {size:.1f}" for size, name in sizes)
    notes = [f"{parts} GiB"]
    if found.num_misfits > 1:
        notes.append(f"the nearest of {found.num_misfits:,} layouts that do not fit: {describe(miss.layout)}")
    devices = "device" if machine.num_devices == 1 else "devices"
    return diagnose(
        "P201",
        f"training needs {needs:.1f} GiB per device, {has:.1f} GiB is available",
        path=_machine_path(spec),
        label=f"{machine.num_devices:,} {devices} of {machine.accelerator}",
        notes=notes,
        help=_remedy(spec, wanted, machine, retry=retry),
    )


def _machine_path(spec: Spec) -> Path:
    hardware = spec.hardware
    if hardware.topology is not None:
        return ("hardware", "topology")
    if hardware.per_node is not None:
        return ("hardware", "per_node")
    return ("hardware", "nodes") if hardware.nodes > 1 else ("hardware", "accelerator")


def _remedy(spec: Spec, wanted: Given, machine: Machine, *, retry: Retry) -> str | None:
    """The smallest change that was tried and fits: choices left to the planner, then more devices."""
    if not wanted.is_auto:
        opened = replace(wanted, recompute=None, micro_batch=None, grad_accumulation=None)
        best = next(iter(retry(opened, machine).fitting), None)
        if best is not None:
            layout, spare = best.layout, (machine.memory_bytes - best.ledger.peak) / GIB
            choices = f"`micro_batch: {layout.micro_batch}` with `recompute: {layout.recompute}`"
            return f"{choices} fits, with {spare:.1f} GiB to spare"
        best = next(iter(retry(OPEN, machine).fitting), None)
        if best is not None:
            spare = (machine.memory_bytes - best.ledger.peak) / GIB
            return f"`parallel: auto` finds {describe(best.layout)}, with {spare:.1f} GiB to spare"
    if spec.hardware.topology is not None:
        return None
    return _more_devices(spec, wanted if wanted.is_auto else OPEN, machine, retry=retry)


def _more_devices(spec: Spec, wanted: Given, machine: Machine, *, retry: Retry) -> str | None:
    """Double the devices until it fits: first inside the node, up to what the catalog says it takes, then nodes."""
    usual = spec.hardware.accelerator.per_node
    per_node, nodes = machine.per_node, machine.num_devices // machine.per_node
    for _ in range(MAX_DOUBLINGS):
        if per_node * 2 <= usual:
            per_node *= 2
        else:
            nodes *= 2
        larger = replace(machine, num_devices=per_node * nodes, per_node=per_node, domain=max(machine.domain, per_node))
        best = next(iter(retry(wanted, larger).fitting), None)
        if best is not None:
            field = (
                f"`nodes: {nodes}`" if nodes != machine.num_devices // machine.per_node else f"`per_node: {per_node}`"
            )
            if per_node != machine.per_node and "nodes" in field:
                field = f"`nodes: {nodes}` with `per_node: {per_node}`"
            spare = (machine.memory_bytes - best.ledger.peak) / GIB
            return f"{field} fits ({describe(best.layout)}), with {spare:.1f} GiB to spare"
    return None


def rule_broken(spec: Spec, found: Search, *, retry: Retry, wanted: Given, machine: Machine) -> Diagnostic:
    """P202: what the layout splits does not divide."""
    key = max(found.violations, key=lambda each: found.broken[each])
    _, violation = found.violations[key]
    fix = None
    value = getattr(spec.parallel, violation.field, None)
    best = next(iter(retry(_opened(wanted, violation.field), machine).fitting), None)
    if best is not None:
        chosen = getattr(best.layout, violation.field)
        if chosen != value:
            fix = f"`{violation.field}: {chosen}` fits" + (f": {describe(best.layout)}" if wanted.is_auto else "")
    if fix is None and (best := next(iter(retry(OPEN, machine).fitting), None)) is not None:
        fix = f"`parallel: auto` finds {describe(best.layout)}"
    is_written = value is not None
    path = ("parallel", violation.field) if is_written else ("parallel",)
    return diagnose("P202", violation.message, path=path, part="value" if is_written else "key", help=fix)


def _opened(wanted: Given, field: str) -> Given:
    """The same wishes with one field, and what follows from it, left to the planner."""
    opened = replace(wanted, **{field: None}, micro_batch=None, grad_accumulation=None)
    return replace(opened, dp_shard=None) if field in ("tp", "pp", "cp") else opened


def wrong_size(spec: Spec, wanted: Given, machine: Machine, *, retry: Retry) -> Diagnostic:
    """P203: the degrees multiply to another number than the machine has devices."""
    names = ("dp_replicate", "dp_shard", "tp", "cp", "pp")
    degrees = {name: getattr(wanted, name) for name in names}
    product = 1
    for value in degrees.values():
        product *= value or 1
    written = " × ".join(f"{name} {value}" for name, value in degrees.items() if value is not None and value > 1)
    devices = machine.num_devices
    is_open = any(value is None for value in degrees.values())
    verb = "does not divide" if is_open else "is not"
    message = f"the layout's {written or 'single device'} = {product:,} {verb} the machine's {devices:,} devices"
    fix, others = None, product // (wanted.dp_shard or 1)
    if devices % others == 0:
        best = next(iter(retry(replace(wanted, dp_shard=devices // others), machine).fitting), None)
        if best is not None:
            fix = f"`dp_shard: {devices // others}` uses all {devices:,}"
    if fix is None and (best := next(iter(retry(OPEN, machine).fitting), None)) is not None:
        fix = f"`parallel: auto` finds {describe(best.layout)}"
    return diagnose("P203", message, path=("parallel",), help=fix)


def describe(layout: object) -> str:
    """A layout in a line: what is not 1 or none."""
    from .report import layout_line

    return layout_line(layout)  # pyright: ignore[reportArgumentType]
