"""Optimizer states in the memory of the host: where a machine and a program have that, and when the planner takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...spec.diagnostics import Diagnostic, diagnose
from ...spec.units import GIB
from .rules import Violation

if TYPE_CHECKING:
    from ..cost.workload import Workload
    from ..topology.machine import Machine
    from .enumerate import Given
    from .layout import Layout
    from .train_search import Search


def offload_faults(wanted: Given, machine: Machine) -> list[Diagnostic]:
    """P232: a host that nothing is known of, or that is the device."""
    if wanted.offload is None:
        return []
    path = ("parallel", "offload")
    if machine.kind == "cpu":
        message = f"`offload: {wanted.offload}` moves nothing: the memory of a cpu is that of its host"
        return [diagnose("P232", message, path=path, help="`offload: none` plans")]
    missing = "memory_gib" if machine.host_memory_bytes is None else "memory_gb_s"
    if machine.host_bytes_per_s is None:
        what = "size" if machine.host_memory_bytes is None else "bandwidth"
        message = f"`offload: {wanted.offload}` needs the {what} of the host's memory, which is not known"
        help = "a host of the catalog has both, such as `host: dgx-h100` under `hardware`"
        return [diagnose("P232", message, path=path, help=help, notes=[f"`hardware.host.{missing}` says it"])]
    return []


def with_or_without(search: Callable[[Given], Search], wanted: Given, *, has_program: bool) -> Search:
    """With `offload: auto`, states leave the devices only where nothing fits as long as they stay."""
    if wanted.offload != "auto":
        return search(wanted)
    without = search(replace(wanted, offload=None))
    if without.fitting or not has_program:
        return without
    found = search(replace(wanted, offload="optimizer"))
    if not found.fitting:
        return without if without.misfits else found
    found.misfits += without.misfits
    found.num_beyond += without.num_beyond
    found.broken += without.broken
    return found


def host_bytes(layout: Layout, work: Workload) -> float:
    """Of a node: the states, and while a checkpoint is written a copy of them and of the weights."""
    ledger = work.ledger(layout)
    return work.machine.devices_of_host * (2 * ledger.host + ledger.parameters)


def too_much_for_host(layout: Layout, work: Workload) -> Violation | None:
    """More than the host of a node has."""
    has = work.machine.host_memory_bytes
    if layout.offload is None or has is None:
        return None
    needs = host_bytes(layout, work)
    if needs <= has:
        return None
    message = (
        f"optimizer states and a checkpoint on its way take {needs / GIB:,.0f} GiB of a host with {has / GIB:,.0f} GiB"
    )
    return Violation("too much for the host", "offload", message, lambda _: False)
