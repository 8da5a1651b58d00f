"""Why nothing is left, as a diagnostic: the two numbers, the place in the spec, and a remedy that was tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...spec.base import Path
from ...spec.diagnostics import Diagnostic, diagnose
from ...spec.units import GIB
from ..cost.workload import Workload
from ..topology.machine import Machine, machine_of
from .enumerate import OPEN, RECOMPUTES, Given
from .rules import Violation
from .train_search import Priced, Search

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.hardware import Hardware

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
        for how in RECOMPUTES:
            leaner = replace(wanted, recompute=how, micro_batch=None, grad_accumulation=None)
            found = _changed(wanted, leaner, ("recompute", "micro_batch", "grad_accumulation"), machine, retry=retry)
            if found is not None:
                edits, best = found
                return f"{_words(edits)} fits, with {_spare(best, machine)} to spare"
        best = next(iter(retry(OPEN, machine).fitting), None)
        if best is not None:
            return f"`parallel: auto` finds {describe(best.layout)}, with {_spare(best, machine)} to spare"
    if wanted.offload is None and machine.kind != "cpu" and machine.host_bytes_per_s is not None:
        best = next(iter(retry(replace(wanted, offload="auto"), machine).fitting), None)
        if best is not None:
            return f"`offload: auto` under `parallel` fits ({describe(best.layout)}), with {_spare(best, machine)} to spare"
    return _more_devices(spec, wanted, retry=retry)


def _spare(best: Priced, machine: Machine) -> str:
    return f"{(machine.memory_bytes - best.ledger.peak) / GIB:.1f} GiB"


def _more_devices(spec: Spec, wanted: Given, *, retry: Retry) -> str | None:
    """Double the devices until it fits: first inside the node, up to what the catalog says it takes, then nodes."""
    hardware, edits = spec.hardware, {}
    for _ in range(MAX_DOUBLINGS):
        edits |= _doubled(hardware)
        hardware = hardware.model_copy(update=edits)
        larger = machine_of(hardware)
        best = next(iter(retry(wanted if wanted.is_auto else OPEN, larger).fitting), None)
        if best is not None:
            written = {**edits, **({} if wanted.is_auto else {"parallel": "auto"})}
            return f"{_words(written)} fits ({describe(best.layout)}), with {_spare(best, larger)} to spare"
    return None


def _doubled(hardware: Hardware) -> dict[str, int | str]:
    """The field that makes it twice as many devices."""
    if hardware.topology is not None:
        sides = [int(side) for side in hardware.topology.split("x")]
        shortest = sides.index(min(sides))
        sides[shortest] *= 2
        return {"topology": "x".join(map(str, sides))}
    per_node = hardware.per_node or hardware.accelerator.per_node
    if per_node * 2 <= hardware.accelerator.per_node:
        return {"per_node": per_node * 2}
    return {"nodes": hardware.nodes * 2}


def _words(edits: Mapping[str, object]) -> str:
    """`tp: 4` with `dp_shard: 6`"""
    first, *rest = (f"`{name}: {value}`" for name, value in edits.items())
    return first + (f" with {' and '.join(rest)}" if rest else "")


def _changed(
    wanted: Given, other: Given, names: Sequence[str], machine: Machine, *, retry: Retry
) -> tuple[dict[str, object], Priced] | None:
    """What has to be written otherwise for a layout that other wishes find, and that layout; tried as it would be written.

    Only fields of `names`; what the user left out stays out where it follows from the rest.
    """
    best = next(iter(retry(other, machine).fitting), None)
    if best is None:
        return None
    edits = {name: getattr(best.layout, name) for name in names if getattr(wanted, name) != getattr(best.layout, name)}
    if "grad_accumulation" in edits and wanted.grad_accumulation is None:
        edits.pop("grad_accumulation")
    if not edits or "mixed" in edits.values():
        return None
    again = next(iter(retry(replace(wanted, **edits), machine).fitting), None)
    return None if again is None else (edits, again)


MAX_NEAR = 12
MOST_OF_A_HOST = 32 << 40


def rule_broken(spec: Spec, found: Search, *, retry: Retry, wanted: Given, machine: Machine) -> Diagnostic:
    """P202: what the layout splits does not divide; or P204."""
    key = max(found.violations, key=lambda each: found.broken[each])
    _, violation = found.violations[key]
    if violation.field == "offload":
        return _host_too_small(violation, retry=retry, wanted=wanted, machine=machine)
    fix = _nearest_value(wanted, violation, machine, retry=retry)
    if fix is None and wanted != OPEN and (best := next(iter(retry(OPEN, machine).fitting), None)) is not None:
        fix = f"`parallel: auto` finds {describe(best.layout)}"
    is_written = getattr(spec.parallel, violation.field, None) is not None
    path = ("parallel", violation.field) if is_written else ("parallel",)
    return diagnose("P202", violation.message, path=path, part="value" if is_written else "key", help=fix)


def _host_too_small(violation: Violation, *, retry: Retry, wanted: Given, machine: Machine) -> Diagnostic:
    """P204: states that leave the devices have no room on the host either."""
    fix = None
    if (best := next(iter(retry(replace(wanted, offload=None), machine).fitting), None)) is not None:
        fix = f"they fit on the devices: without `offload` there is {_spare(best, machine)} to spare"
    room = machine.host_memory_bytes
    while fix is None and room is not None and room < MOST_OF_A_HOST:
        room *= 2
        if retry(wanted, replace(machine, host_memory_bytes=room)).fitting:
            fix = f"`memory_gib: {room / GIB:.0f}` under `hardware.host` fits"
    return diagnose("P204", violation.message, path=("parallel", "offload"), help=fix)


def _nearest_value(wanted: Given, violation: Violation, machine: Machine, *, retry: Retry) -> str | None:
    """Another value of the field that the rule is about, the nearest first; with what must follow it."""
    name = violation.field
    value = getattr(wanted, name)
    if name == "schedule":
        others: Sequence[object] = [each for each in ("1f1b", "zero_bubble", "gpipe") if each != value]
    elif isinstance(value, int):
        near = sorted(range(1, 4 * value + 1), key=lambda each: (abs(each - value), each))
        others = [each for each in near if each != value and violation.fits(each)][:MAX_NEAR]
    else:
        return None
    batch = ("micro_batch", "grad_accumulation")
    for other in others:
        alone = replace(wanted, **{name: other})
        if name == "schedule":
            alone = replace(alone, virtual_stages=1)
        devices = ("dp_shard",) if name in ("tp", "pp", "cp") else ()
        for following in (alone, replace(alone, micro_batch=None, grad_accumulation=None)):
            opened = replace(following, dp_shard=None) if devices else following
            names = (name, *devices, *batch, *(("virtual_stages",) if name == "schedule" else ()))
            changed = _changed(wanted, opened, names, machine, retry=retry)
            if changed is not None:
                edits, best = changed
                if wanted.micro_batch is None:
                    edits = {field: each for field, each in edits.items() if field != "micro_batch"}
                return f"{_words(edits)} fits" + (f": {describe(best.layout)}" if wanted.is_auto else "")
    return None


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
